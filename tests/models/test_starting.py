"""Trainings that begin with the weights of a network that exists."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgeaudio_models.architectures import build_module
from edgeaudio_models.checkpoint import Checkpoint, CheckpointError
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.starting import begin_with
from edgeaudio_models.streaming import StreamingModule, run_from_reset
from edgeaudio_models.training import train
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset
from tests.training_on_tones import DATA, KEYWORD, same_weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    folder = tmp_path_factory.mktemp("start")
    return train(KEYWORD, DATA, folder), folder / "checkpoint"


def beginning_with(folder: Path) -> Recipe:
    return replace(KEYWORD, model=replace(KEYWORD.model, start=str(folder)))


def fresh(n_labels: int) -> StreamingModule:
    sizes = {"n_features": preset("log_mel").n_features, "n_labels": n_labels}
    return build_module(KEYWORD.model.architecture, {**KEYWORD.model.parameters, **sizes})


def test_equal_labels_begin_with_every_weight(trained: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = trained
    module = fresh(len(checkpoint.labels))
    assert begin_with(module, beginning_with(folder)) is not None
    wanted = checkpoint.module.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


def test_other_labels_begin_with_all_weights_but_those_of_the_outputs(trained: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = trained
    module = fresh(5)
    drawn = {name: value.clone() for name, value in module.state_dict().items()}
    begin_with(module, beginning_with(folder))
    known = checkpoint.module.state_dict()
    for name, value in module.state_dict().items():
        assert torch.equal(value, drawn[name] if name.startswith("classifier") else known[name]), name


def test_longer_kernels_begin_with_the_function_of_the_shorter_ones(trained: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = trained
    sizes = [size + 3 for size in KEYWORD.model.parameters["kernel_sizes"]]
    recipe = beginning_with(folder)
    recipe = replace(recipe, model=replace(recipe.model, parameters={**recipe.model.parameters, "kernel_sizes": sizes}))
    values = {**recipe.model.parameters, "n_features": checkpoint.features.n_features}
    longer = build_module(recipe.model.architecture, {**values, "n_labels": len(checkpoint.labels)}).eval()
    begin_with(longer, recipe)
    features = torch.randn(2, 40, checkpoint.features.n_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs, expected = (run_from_reset(module, features) for module in (longer, checkpoint.module.eval()))
    torch.testing.assert_close(outputs, expected)


def test_a_training_that_begins_with_another_repeats_and_tells_its_lineage(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    checkpoint, folder = trained
    other = replace(DATA, provenance={"sources": ["other tones"]})
    first = train(beginning_with(folder), other, tmp_path / "first")
    assert same_weights(first, train(beginning_with(folder), other, tmp_path / "second"))
    assert not same_weights(first, train(KEYWORD, other, tmp_path / "drawn"))
    assert first.provenance == {"sources": ["other tones", "tones"], "started_from": checkpoint.recipe.name}


def test_a_network_of_another_shape_is_no_beginning(trained: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    _, folder = trained
    recipe = beginning_with(folder)
    parameters = {**recipe.model.parameters, "channels": 24}
    with pytest.raises(SpecError, match=r"model\.start=.* does not fit, it must have the architecture, parameters and"):
        train(replace(recipe, model=replace(recipe.model, parameters=parameters)), DATA, tmp_path)


def test_a_beginning_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no-such-entry"):
        train(beginning_with(Path("no-such-entry")), DATA, tmp_path)
