"""Checkpoints: what is saved comes back, and what is missing, altered or newer is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeaudio_models.architectures import architecture_config, build_module, config_values
from edgeaudio_models.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from edgeaudio_models.recipe import parse_recipe
from edgeaudio_runtime.presets import PRESETS
from edgeaudio_runtime.staging import OutputError

RECIPE = """
name = "mine"
[corpus]
kind = "recordings"
labels = ["_unknown_", "yes"]
[model]
architecture = "ds_tc_resnet"
parameters = { channels = 8, kernel_sizes = [3], window_frames = 20 }
[training]
epochs = 1
"""


def make_checkpoint() -> Checkpoint:
    recipe = parse_recipe(RECIPE)
    values = {**recipe.model.parameters, "n_features": 40, "n_labels": 2}
    torch.manual_seed(3)
    return Checkpoint(
        architecture="ds_tc_resnet",
        config=config_values(architecture_config("ds_tc_resnet", values)),
        module=build_module("ds_tc_resnet", values).eval(),
        labels=("_unknown_", "yes"),
        features=PRESETS["log_mel"],
        recipe=recipe,
        metrics={"validation": {"accuracy": 0.5}},
        provenance={"sources": [{"name": "mine", "licence": "CC0-1.0"}]},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(make_checkpoint(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_checkpoint_comes_back_as_it_was_saved(saved: Path) -> None:
    wanted, found = make_checkpoint(), load_checkpoint(saved)
    features = torch.randn(2, 20, 40)
    for reference, candidate in zip(wanted.module.parameters(), found.module.parameters(), strict=True):
        assert torch.equal(reference, candidate)
    with torch.no_grad():
        logits, _ = found.module(features, found.module.initial_state(2))
        assert torch.equal(logits, wanted.module(features, wanted.module.initial_state(2))[0])
    assert (found.name, found.task, found.labels, found.window_frames) == ("mine", "keyword", ("_unknown_", "yes"), 20)
    assert (found.recipe, found.features, found.config) == (wanted.recipe, wanted.features, wanted.config)
    assert (found.metrics, found.provenance) == (wanted.metrics, wanted.provenance)
    assert not found.module.training


def test_the_directory_holds_three_readable_files(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["checkpoint.json", "recipe.toml", "weights.safetensors"]
    description = json.loads((saved / "checkpoint.json").read_text("utf-8"))
    assert description["schema_version"] == 1
    assert description["features_hash"] == PRESETS["log_mel"].hash
    assert description["provenance"]["sources"][0]["licence"] == "CC0-1.0"
    # The constant weight of the average is no trained number.
    assert "average.weight" not in load_file(saved / "weights.safetensors")


def test_the_weights_are_as_readable_as_the_rest(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_a_checkpoint_is_not_overwritten_unasked(saved: Path) -> None:
    with pytest.raises(OutputError, match="exists and nothing is overwritten"):
        save_checkpoint(make_checkpoint(), saved)
    save_checkpoint(make_checkpoint(), saved, force=True)
    assert load_checkpoint(saved).name == "mine"


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeaudio_models.checkpoint.save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(make_checkpoint(), tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/checkpoint\.json is missing or unreadable; a checkpoint has"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["checkpoint.json", "recipe.toml", "weights.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing or unreadable"):
        load_checkpoint(saved)


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda description: description.update({key: value})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("schema_version", 2), "schema_version=2, this version reads up to 1; run: pip install --upgrade"),
        (change("schema_version", None), "schema_version=None"),
        (change("features_hash", "sha256:0"), "features_hash='sha256:0' is not the hash of features"),
        (change("architecture", "lstm"), "architecture='lstm' is unknown"),
        (change("colour", "red"), r"fields \['colour'\] are unknown"),
        (lambda description: description.pop("labels"), r"fields \['labels'\] are missing"),
        (change("config", 5), r"checkpoint\.json: features or config is no table of values \("),
        (change("architecture", ["ds_cnn"]), r"checkpoint\.json: features or config is no table of values \("),
        (change("features", "log_mel"), r"checkpoint\.json: features or config is no table of values \("),
        (lambda description: description["config"].update(channels="8"), "channels='8' must be a whole number"),
        (lambda description: description["features"].update(n_mels=39), "is not the hash of features"),
        (lambda description: description["features"].update(n_mel=40), r"unknown feature fields \['n_mel'\]"),
        (lambda description: description["config"].update(channels=16), r"weights\.safetensors: tensors \['blocks\.0"),
    ],
)
def test_an_altered_description_is_refused(saved: Path, edit: Callable[[dict[str, Any]], Any], words: str) -> None:
    path = saved / "checkpoint.json"
    description = json.loads(path.read_text("utf-8"))
    edit(description)
    path.write_text(json.dumps(description), "utf-8")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(saved)


def test_unreadable_files_are_refused(saved: Path) -> None:
    weights = (saved / "weights.safetensors").read_bytes()
    (saved / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is missing or unreadable"):
        load_checkpoint(saved)
    (saved / "checkpoint.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: not JSON"):
        load_checkpoint(saved)


def test_a_tensor_too_few_is_refused_by_name(saved: Path) -> None:
    weights = load_file(saved / "weights.safetensors")
    del weights["classifier.bias"]
    save_file(weights, saved / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"tensors \['classifier\.bias'\] are missing"):
        load_checkpoint(saved)
