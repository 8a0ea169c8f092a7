"""The steps of a recipe run in order, and both quantization paths take what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import RECOVERY_STEPS, QuantizationRecipe
from edgeaudio_export.recovery.layers import layers_of
from edgeaudio_export.recovery.qat import TrainingSpec
from edgeaudio_export.recovery.recover import recover
from edgeaudio_export.recovery.rounding import RoundingSpec
from edgeaudio_export.step_graph import StepGraph, export_step


@pytest.fixture(scope="module")
def step(float_network: Callable[[str], Any]) -> StepGraph:
    return export_step(frozen_copy(float_network("Ctc")))


REWRITES = tuple(name for name in RECOVERY_STEPS if name != "ranges")


def test_all_steps_run_in_the_order_of_the_recipe(step: StepGraph, streams: list[Any]) -> None:
    seen: list[str] = []
    done, facts = recover(
        step,
        streams[:4],
        QuantizationRecipe(recovery=REWRITES),
        rounding=RoundingSpec(iterations=3, batch=2),
        training=TrainingSpec(epochs=1),
        progress=lambda name, *_: seen.append(name),
    )
    document = json.loads(json.dumps(facts.to_dict()))
    assert [found["step"] for found in document["steps"]] == list(REWRITES)
    assert list(dict.fromkeys(seen)) == list(REWRITES)
    assert list(layers_of(done)) == list(layers_of(step))
    assert document["steps"][3]["loss"] == "distillation"


def test_means_are_held_against_the_network_before_its_weights_were_rounded(
    step: StepGraph, streams: list[Any]
) -> None:
    recipe = QuantizationRecipe(recovery=("adaround", "bias_correction"))
    _, facts = recover(step, streams[:4], recipe, rounding=RoundingSpec(iterations=3, batch=2))
    layers = facts.to_dict()["steps"][1]["layers"]
    assert all(layer["shift_after"] < 0.1 * layer["shift_before"] for layer in layers)


def test_no_steps_change_nothing(step: StepGraph, streams: list[Any]) -> None:
    done, facts = recover(step, streams[:1], QuantizationRecipe())
    assert facts.to_dict() == {"steps": []}
    assert all(torch.equal(layers_of(done)[name].weight, layer.weight) for name, layer in layers_of(step).items())


@pytest.mark.parametrize("names", [("adaround", "equalize"), ("qat", "bias_correction"), ("equalize", "equalize")])
def test_an_order_that_undoes_itself_is_refused(names: tuple[str, ...], step: StepGraph, streams: list[Any]) -> None:
    with pytest.raises(
        ExportError, match=r"must be in the order \[.*\], each once; otherwise a step undoes an earlier"
    ):
        recover(step, streams[:1], QuantizationRecipe(recovery=names))
