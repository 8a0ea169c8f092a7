"""The entries of the zoo as they lie in the package, and the float16 weights they are kept in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from edgeaudio_models.architectures import count_parameters
from edgeaudio_models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from edgeaudio_models.half_weights import round_weights, save_half_checkpoint
from edgeaudio_models.recipe import load_recipe, recipe_names
from edgeaudio_models.zoo_entries import CARD, ZOO_FOLDER, checkpoint_folder, entry_folder, entry_names
from edgeaudio_runtime.errors import SpecError

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_ZOO_BYTES = 15_000_000
MAX_CURVE_BYTES = 40_000
entries = pytest.mark.parametrize("name", entry_names())


def test_the_zoo_stays_small() -> None:
    sizes = {path: path.stat().st_size for path in ZOO_FOLDER.rglob("*") if path.is_file()}
    assert {path.name for path, size in sizes.items() if size >= MAX_FILE_BYTES} == set()
    assert sum(sizes.values()) < MAX_ZOO_BYTES


def test_no_float_model_lies_in_the_zoo() -> None:
    assert [path.name for path in ZOO_FOLDER.rglob("*.float.onnx")] == []


@entries
def test_an_entry_holds_what_is_promised_and_no_more(name: str) -> None:
    folder = ZOO_FOLDER / name
    curve = {"learning_curve.svg", "history.json"} & {path.name for path in folder.iterdir()}
    expected = {"recipe.toml", "checkpoint.json", "weights.safetensors", "card.json", "card.md", "bundle"}
    assert {path.name for path in folder.iterdir()} == expected | curve
    assert all((folder / each).stat().st_size < MAX_CURVE_BYTES for each in curve)


@entries
def test_float16_weights_and_recipe_give_the_network_that_the_card_states(name: str) -> None:
    card = json.loads((ZOO_FOLDER / name / CARD).read_text("utf-8"))
    checkpoint = load_checkpoint(name)
    assert checkpoint.name == name
    assert count_parameters(checkpoint.module) == card["network"]["parameters"]
    assert {tensor.dtype for tensor in checkpoint.module.parameters()} == {torch.float32}
    with safe_open(ZOO_FOLDER / name / "weights.safetensors", framework="pt") as file:
        stored = {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118 - no mapping
    assert stored <= {"torch.float16", "torch.int64"}
    assert "torch.float16" in stored


@entries
def test_an_entry_was_trained_by_the_recipe_of_its_name(name: str) -> None:
    own = load_recipe(ZOO_FOLDER / name / "recipe.toml")
    if own.corpus.kind == "wake_word":
        # The phrase, what follows from it and the threshold stand in the recipe of the entry alone.
        shipped = load_recipe("wake-word")
        assert (own.augmentation, own.features) == (shipped.augmentation, shipped.features)
        return
    assert name in recipe_names()
    # A detector is tuned after the training.
    assert replace(own, detector={}) == replace(load_recipe(name), detector={})


@entries
def test_an_entry_is_found_by_name_and_by_folder(name: str) -> None:
    assert entry_folder(name) == entry_folder(ZOO_FOLDER / name) == checkpoint_folder(name)


def test_a_folder_of_that_name_comes_before_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = entry_names()[0]
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder(name) == Path(name)


def test_an_unknown_entry_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SpecError, match=r"entry='kws-13' must be a folder with card\.json or one of \['"):
        entry_folder("kws-13")


def test_weights_are_rounded_to_the_nearest_float16_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(entry_names()[0])
    first = next(iter(checkpoint.module.parameters()))
    with torch.no_grad():
        # 0.1 lies between 1638 and 1639 steps of 2 ** -14; 2049 between 2048 and 2050, the even one of which is 2048.
        first.view(-1)[:3] = torch.tensor([0.1, 2049.0, -65504.0])
    rounded = round_weights(checkpoint)
    found = next(iter(rounded.module.parameters())).detach().view(-1)[:3]
    assert found.tolist() == [1638 / 2**14, 2048.0, -65504.0]
    assert first.view(-1)[1].item() == 2049.0
    save_half_checkpoint(rounded, tmp_path / "half")
    back = load_checkpoint(tmp_path / "half").module.state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in rounded.module.state_dict().items())


def test_float16_takes_half_the_bytes(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(entry_names()[0])
    save_half_checkpoint(checkpoint, tmp_path / "half")
    save_checkpoint(checkpoint, tmp_path / "full")
    sizes = [(tmp_path / each / "weights.safetensors").stat().st_size for each in ("half", "full")]
    n_values = sum(tensor.numel() for tensor in checkpoint.module.state_dict().values() if tensor.is_floating_point())
    # Headers of JSON differ by the names of types and offsets.
    assert sizes[1] - sizes[0] == pytest.approx(2 * n_values, abs=1000)


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(entry_names()[0])
    with torch.no_grad():
        next(iter(checkpoint.module.parameters())).view(-1)[0] = 1e5
    with pytest.raises(CheckpointError, match="a value of 100000 does not fit float16, up to 65504; train it anew"):
        save_half_checkpoint(checkpoint, tmp_path / "half")
    assert not (tmp_path / "half").exists()
