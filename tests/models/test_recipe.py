"""Recipes: what comes with the package parses, text comes back, and every wrong key is named."""

from dataclasses import replace

import pytest

from edgeaudio_models.architectures import architecture_config, build_module, count_parameters
from edgeaudio_models.recipe import Recipe, load_recipe, parse_recipe, recipe_names
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

SMALL = """
name = "small"
[corpus]
kind = "recordings"
labels = ["_unknown_", "yes"]
[model]
architecture = "ds_tc_resnet"
parameters = { channels = 8 }
[training]
epochs = 2
label_weights = { yes = 2 }
[detector]
threshold = 0.7
thresholds = { yes = 0.8 }
"""


def test_the_recipes_of_the_package_are_those_documented() -> None:
    assert {"digits-ctc", "kws-12", "kws-12-small", "kws-demo", "kws-directions"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_makes_a_network_of_the_promised_size(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    sizes = {"n_features": preset(recipe.features.preset).n_features, "n_labels": len(recipe.corpus.labels)}
    values = {**recipe.model.parameters, **sizes}
    low, high = {"keyword": (15_000, 80_000), "ctc": (300_000, 2_000_000)}[recipe.task]
    if name == "vad":  # a gate in front of other networks
        low, high = 5_000, 20_000
    assert low <= count_parameters(build_module(recipe.model.architecture, values)) <= high
    assert architecture_config(recipe.model.architecture, values).step_frames == 4
    DetectorConfig(**recipe.detector)


def test_the_twelve_labels_are_those_of_the_task() -> None:
    words = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
    assert set(load_recipe("kws-12").corpus.labels) == words | {"_silence_", "_unknown_"}


def test_values_of_a_recipe_are_those_written() -> None:
    recipe = parse_recipe(SMALL)
    assert recipe.training.epochs == 2
    assert recipe.training.label_weights["yes"] == 2.0
    assert recipe.model.parameters["channels"] == 8
    assert DetectorConfig(**recipe.detector).thresholds["yes"] == 0.8
    assert recipe.features.preset == "log_mel"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_comes_back_from_its_text(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(format_recipe(recipe)) == recipe


def test_a_field_added_later_is_written_only_where_it_differs_from_its_default() -> None:
    recipe = parse_recipe(SMALL)
    assert "recovery" not in format_recipe(recipe)
    recovering = replace(recipe, calibration=replace(recipe.calibration, recovery=("ranges",)))
    assert 'recovery = ["ranges"]' in format_recipe(recovering)
    assert parse_recipe(format_recipe(recovering)) == recovering


def test_awkward_values_come_back_from_text() -> None:
    recipe = parse_recipe(SMALL)
    corpus = replace(recipe.corpus, labels=('say "hi"\n', "größe", "a.b c"))
    awkward = replace(recipe, corpus=corpus, training=replace(recipe.training, label_weights={"a.b c": 1e-7}))
    assert parse_recipe(format_recipe(awkward)) == awkward


def test_a_recipe_is_read_from_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.toml"
    path.write_text(SMALL, "utf-8")
    assert load_recipe(path) == parse_recipe(SMALL)
    path.write_text(SMALL.replace("epochs", "epoch"), "utf-8")
    with pytest.raises(
        SpecError, match=r"mine\.toml: training: unknown keys \['epoch'\]; it has \['averaged_epochs', 'batch_size'"
    ):
        load_recipe(path)


def test_a_missing_recipe_is_refused_with_the_names_there_are(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=r"recipe='kws' must be a TOML file or one of \['digits-ctc', 'kws-12'"):
        load_recipe("kws")
    with pytest.raises(SpecError, match="must be a TOML file"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "small"', 'nam = "small"', r"recipe: unknown keys \['nam'\]; it has \['augmentation'"),
        ('name = "small"', "", r"recipe: keys \['name'\] are missing"),
        ('name = "small"', "name = 3", "name=3 must be of type str"),
        ("epochs = 2", "epochs = true", "training.epochs=True must be of type int"),
        ("epochs = 2", "epochs = 0", r"training\.epochs=0 must be >= 1"),
        ("epochs = 2", "epochs = 2\nseed = 1.5", r"training\.seed=1\.5 must be of type int"),
        ("epochs = 2", "epochs = 2\nwarmup = 2", r"training\.warmup=2\.0 must be in \[0, 1\]"),
        ("epochs = 2", "epochs = 2\nlearning_rate = 0", r"learning_rate=0\.0 .* must be > 0"),
        ("epochs = 2", 'epochs = 2\nschedule = "steps"', r"training\.schedule='steps' must be one of \['one_cycle'"),
        ('kind = "recordings"', 'kind = "web"', r"corpus\.kind='web' must be one of \['recordings', 'synthesis'"),
        ('kind = "recordings"', 'kind = "synthesis"', r"corpus\.clips_per_word=0 must be >= 1"),
        ('["_unknown_", "yes"]', '["yes", "yes"]', r"corpus\.labels=\['yes', 'yes'\] must name at least 2 labels"),
        ('["_unknown_", "yes"]', '"yes"', r"corpus\.labels='yes' must be a list"),
        ("{ yes = 2 }", "{ no = 2 }", r"training\.label_weights: \['no'\] are not among corpus\.labels"),
        ("{ yes = 2 }", "3", r"training\.label_weights=3 must be a table"),
        ("{ channels = 8 }", "{ n_labels = 8 }", r"model\.parameters: \['n_labels'\] follow from features and labels"),
        ("{ channels = 8 }", "{ chanels = 8 }", r"unknown parameters \['chanels'\]"),
        ("[detector]", "[context]\nmin_words = 0\n[detector]", "min_words=0 and max_words=5 need 1 <= min <= max"),
        ("[detector]", "[context]\nprobability = 2\n[detector]", r"context\.probability=2\.0 must be in \[0, 1\]"),
        ("[detector]", "[context]\nmax_rate_change = 1\n[detector]", r"max_rate_change=1\.0 must be in \[0, 0\.5\)"),
        ("[detector]", "[context]\nseconds = -1\n[detector]", r"seconds=-1\.0 and max_gap_seconds=0\.3 must be >= 0"),
        ("[detector]", '[calibration]\nmethod = "max"\n[detector]', r"calibration\.method='max' must be one of"),
        ("[detector]", "[calibration]\nclips = 0\n[detector]", r"calibration\.clips=0 must be >= 1"),
        (
            "[detector]",
            "[calibration]\npercentile = 50\n[detector]",
            r"percentile=50\.0 must be above 50 and at most 100",
        ),
        ("[detector]", "[calibration]\nmomentum = 1\n[detector]", r"calibration\.momentum=1\.0 must be in \[0, 1\)"),
        (
            "[detector]",
            "[calibration]\nrecovery = ['luck']\n[detector]",
            r"calibration\.recovery='luck' must be one of",
        ),
        ("[detector]", "[augmentation]\nnoise_probability = 2\n[detector]", "noise_probability=2"),
        ("[detector]", "[detector", "not TOML"),
    ],
)
def test_wrong_values_are_refused_by_name(old: str, new: str, words: str) -> None:
    assert old in SMALL
    with pytest.raises(SpecError, match=words):
        parse_recipe(SMALL.replace(old, new))


def test_a_table_in_place_of_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match="training=3 must be a table"):
        parse_recipe('name = "x"\ntraining = 3\n' + SMALL.split("[training]")[0].replace('name = "small"', ""))


def test_two_recipes_are_equal_by_value() -> None:
    assert isinstance(parse_recipe(SMALL), Recipe)
    assert parse_recipe(SMALL) == parse_recipe(SMALL)
