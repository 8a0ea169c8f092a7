"""Recordings and checkpoints that mislead a training: one line, exit code 2, nothing written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'edgeaudio[torch]'")

from edgeaudio_models.architectures import architecture_config, build_module, config_values
from edgeaudio_models.checkpoint import Checkpoint, save_checkpoint
from edgeaudio_models.recipe import parse_recipe
from edgeaudio_runtime.presets import PRESETS

RECIPE = """
name = "tones"
[corpus]
kind = "recordings"
labels = ["_unknown_", "chirp", "low"]
[model]
architecture = "ds_cnn"
parameters = { channels = 4, n_blocks = 1 }
[training]
epochs = 1
"""
ROWS = [
    # path, label, speaker, split
    ("train/chirp/a.wav", "chirp", "ann", "train"),
    ("train/low/b.wav", "low", "ann", "train"),
    ("train/other/c.wav", "_unknown_", "ann", "train"),
    ("validation/chirp/d.wav", "chirp", "bob", "validation"),
    ("validation/low/e.wav", "low", "bob", "validation"),
]
Refuse = Callable[..., str]


@pytest.fixture
def corpus(tmp_path: Path, write_wav: Any) -> Path:
    """One recording for each of ROWS, all different, with a manifest."""
    folder = tmp_path / "corpus"
    for i, (path, *_) in enumerate(ROWS):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_wav(folder / path, np.random.default_rng(i).integers(-900, 900, 16_000))
    write_manifest(folder, ROWS)
    return folder


def write_manifest(folder: Path, rows: list[tuple[str, ...]], *further: str) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "speaker", "split", *further])
        table.writerows(rows)


@pytest.fixture
def refuse(run: Any, corpus: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]) -> Refuse:
    """Train on the corpus; see that it is refused in one line, with nothing written, and give that line."""

    def check(recipe: str = RECIPE) -> str:
        (tmp_path / "tones.toml").write_text(recipe, "utf-8")
        before = contents(tmp_path)
        result = run(
            "train", tmp_path / "tones.toml", "--data", corpus, "--output", tmp_path / "run", "--cache", tmp_path
        )
        lines = [line for line in result.stderr.splitlines() if not line.startswith("loading clips")]
        assert (result.exit_code, result.stdout, len(lines)) == (2, "", 1), result.output
        assert contents(tmp_path) == before
        return str(lines[0]).removeprefix("edgeaudio: ")

    return check


def test_a_sound_corpus_trains(run: Any, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "tones.toml").write_text(RECIPE, "utf-8")
    result = run("train", tmp_path / "tones.toml", "--data", corpus, "--output", tmp_path / "run", "--cache", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "checkpoint" / "weights.safetensors").is_file()


def test_a_misspelled_folder_is_named(refuse: Refuse, corpus: Path) -> None:
    (corpus / "manifest.csv").unlink()
    for split in ("train", "validation"):
        (corpus / split / "chirp").rename(corpus / split / "Chrip")
    expected = f"{corpus}: labels ['chirp'] have no clips; rename 'Chrip' if that is 'chirp'"
    assert refuse() == expected


def test_a_folder_copied_under_a_second_label_is_refused(refuse: Refuse, corpus: Path) -> None:
    (corpus / "manifest.csv").unlink()
    recording, copy = corpus / "train" / "chirp" / "a.wav", corpus / "train" / "low" / "z.wav"
    copy.write_bytes(recording.read_bytes())
    names = [str(recording), str(copy)]
    assert refuse() == f"{names} are one recording with different labels; keep one"


def test_a_recording_whose_name_says_another_label_is_refused(refuse: Refuse, corpus: Path) -> None:
    (corpus / "manifest.csv").unlink()
    wrong = corpus / "train" / "low" / "chirp_0a7c2a8d_nohash_0.wav"
    (corpus / "train" / "low" / "b.wav").rename(wrong)
    assert refuse() == f"{wrong}: label='low', its name says 'chirp'; move or rename it"


def test_a_speaker_in_two_splits_is_refused(refuse: Refuse, corpus: Path) -> None:
    rows = [(path, label, "ann" if path.endswith("e.wav") else speaker, split) for path, label, speaker, split in ROWS]
    write_manifest(corpus, rows)
    words = "speakers in two splits=['ann'], a speaker belongs to one split; 'ann' is in ['train', 'validation']"
    assert refuse() == f"{corpus}: {words}"


def test_one_recording_in_two_splits_is_refused(refuse: Refuse, corpus: Path) -> None:
    recording, copy = corpus / "train" / "low" / "b.wav", corpus / "validation" / "low" / "e.wav"
    copy.write_bytes(recording.read_bytes())
    assert refuse() == f"{[str(recording), str(copy)]} are one recording in different splits; keep one"


def test_a_wrong_sample_rate_is_refused_unless_it_is_stated(
    refuse: Refuse, corpus: Path, write_wav: Any, run: Any, tmp_path: Path
) -> None:
    path = write_wav(corpus / ROWS[0][0], np.arange(8_000), rate=8_000)
    lacks = "sample_rate=8000 is less than 16000, everything above 4000 Hz is missing"
    assert refuse() == f"{path}: {lacks}; record it anew, or accept it in the column sample_rate of manifest.csv"
    write_manifest(corpus, [(*row, "16000") for row in ROWS], "sample_rate")
    assert refuse() == f"{path}: sample_rate=8000, its corpus states 16000; correct one of them"
    write_manifest(corpus, [(*ROWS[0], "8000"), *((*row, "16000") for row in ROWS[1:])], "sample_rate")
    shared = ("--data", corpus, "--output", tmp_path / "run", "--cache", tmp_path)
    assert run("train", tmp_path / "tones.toml", *shared).exit_code == 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ('channels = "wide"', "architecture 'ds_cnn': channels='wide' must be a whole number"),
        ("stem_stride = 2", "architecture 'ds_cnn': stem_stride=2 must be a list of whole numbers"),
    ],
)
def test_parameters_of_a_wrong_type_are_refused(refuse: Refuse, parameters: str, words: str) -> None:
    assert words in refuse(RECIPE.replace("channels = 4, n_blocks = 1", parameters))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A whole checkpoint of fresh weights."""
    recipe = parse_recipe(RECIPE)
    values = {**recipe.model.parameters, "n_features": 40, "n_labels": 3}
    made = Checkpoint(
        architecture="ds_cnn",
        config=config_values(architecture_config("ds_cnn", values)),
        module=build_module("ds_cnn", values),
        labels=recipe.corpus.labels,
        features=PRESETS["log_mel"],
        recipe=recipe,
    )
    save_checkpoint(made, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"schema_version": 2, "shapes": []},
            "schema_version=2, this version reads up to 1; run: pip install --upgrade edgeaudio",
        ),
        (
            {"architecture": "perceiver"},
            "architecture='perceiver' is unknown; this version has ['bc_resnet', 'ctc_net'",
        ),
        ({"config": {"n_features": 40, "n_labels": 3, "heads": 2}}, "unknown parameters ['heads']; it has ['channels'"),
        ({"config": {"n_features": 40, "n_labels": "3"}}, "architecture 'ds_cnn': n_labels='3' must be a whole number"),
    ],
)
def test_a_checkpoint_of_a_newer_version_is_refused(
    run: Any, corpus: Path, checkpoint: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    description = json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))
    (checkpoint / "checkpoint.json").write_text(json.dumps({**description, **change}), "utf-8")
    result = run("export", checkpoint, "--data", corpus, "--output", tmp_path / "bundle")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"edgeaudio: {checkpoint}: ")
    assert words in line
    assert not (tmp_path / "bundle").exists()
