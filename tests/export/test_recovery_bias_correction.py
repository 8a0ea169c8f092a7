"""Bias correction puts back the means that int8 takes away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.bias_correction import correct_biases
from edgeaudio_export.recovery.layers import layers_of, with_weights
from edgeaudio_export.recovery.simulation import Simulation
from edgeaudio_export.step_graph import StepGraph, export_step

MINMAX = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))
FLOAT_TOLERANCE = 1e-5
"""Means of a few hundred float32 frames summed in another order."""


@pytest.fixture(scope="module")
def steps(float_network: Callable[[str], Any]) -> dict[str, StepGraph]:
    return {name: export_step(frozen_copy(float_network(name))) for name in ("Keyword", "Ctc")}


@pytest.fixture(scope="module")
def corrected(steps: dict[str, StepGraph], streams: list[Any]) -> Any:
    return correct_biases(steps["Keyword"], streams, recipe=MINMAX)


def test_the_analytic_correction_is_the_weight_error_times_the_mean_input(
    steps: dict[str, StepGraph], streams: list[Any]
) -> None:
    step, _ = correct_biases(steps["Keyword"], streams, method="analytic", recipe=MINMAX)
    weight = layers_of(steps["Keyword"])["conv1d"].weight.double().numpy()
    scale = np.abs(weight).max(axis=(1, 2), keepdims=True) / 127
    error = weight - np.rint(weight / scale) * scale
    # The stem reads the features behind one frame of its state, which is 0 at reset: so does its mean.
    joined = [np.concatenate([np.zeros((1, 10)), stream]) for stream in streams]
    mean = sum(stream.sum(axis=0) for stream in joined) / sum(map(len, joined))
    expected = (error * mean[None, :, None]).sum(axis=(1, 2))
    change = layers_of(step)["conv1d"].bias - layers_of(steps["Keyword"])["conv1d"].bias
    np.testing.assert_allclose(change.numpy(), expected, atol=FLOAT_TOLERANCE)


def test_the_empirical_correction_removes_nearly_all_of_the_shift(corrected: Any) -> None:
    _, facts = corrected
    before, after = (
        np.array([getattr(layer, name) for layer in facts.layers]) for name in ("shift_before", "shift_after")
    )
    assert (before > 1e-3).any()
    assert np.sqrt(np.mean(after**2)) < 0.1 * np.sqrt(np.mean(before**2))


def test_only_biases_change(corrected: Any, steps: dict[str, StepGraph]) -> None:
    step, _ = corrected
    for name, layer in layers_of(steps["Keyword"]).items():
        assert torch.equal(layers_of(step)[name].weight, layer.weight)
    assert any(not torch.equal(layers_of(step)[n].bias, layer.bias) for n, layer in layers_of(steps["Keyword"]).items())


def test_another_reference_is_what_counts(steps: dict[str, StepGraph], streams: list[Any], corrected: Any) -> None:
    # Starting from biases that are off, with the untouched network as reference, the same means are met.
    off, _ = corrected
    worse = with_weights(off, {"conv1d": (layers_of(off)["conv1d"].weight, layers_of(off)["conv1d"].bias + 0.5)})
    _, facts = correct_biases(worse, streams, reference=steps["Keyword"], recipe=MINMAX)
    assert facts.layers[0].shift_before > 0.1
    assert facts.layers[0].shift_after < 1e-3


def test_facts_are_json_and_progress_counts_layers(steps: dict[str, StepGraph], streams: list[Any]) -> None:
    calls: list[tuple[int, int]] = []
    _, facts = correct_biases(
        steps["Ctc"], streams[:2], recipe=MINMAX, progress=lambda done, total: calls.append((done, total))
    )
    document = json.loads(json.dumps(facts.to_dict()))
    assert (document["method"], document["clips"]) == ("empirical", 2)
    assert calls[-1] == (8, 8)
    assert len(document["layers"]) == 8


def test_what_does_not_fit_is_refused_by_name(steps: dict[str, StepGraph], streams: list[Any]) -> None:
    with pytest.raises(ExportError, match=r"method='exact' must be one of \['empirical', 'analytic'\]"):
        correct_biases(steps["Keyword"], streams, method="exact")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"reference is another network than step; take both from one export_step"):
        correct_biases(steps["Keyword"], streams, reference=steps["Ctc"])


def test_clips_at_once_are_clips_step_by_step(steps: dict[str, StepGraph], unseen: np.ndarray) -> None:
    features = torch.from_numpy(unseen[None, :80])
    for step in steps.values():
        state, parts = step.network.initial_state(1), []
        with torch.no_grad():
            for part in torch.split(features, 4, dim=1):
                logits, state = step.module(part, state)
                parts.append(logits)
            whole = Simulation(step).logits(features)
        np.testing.assert_allclose(whole, torch.cat(parts, dim=1), atol=FLOAT_TOLERANCE)
