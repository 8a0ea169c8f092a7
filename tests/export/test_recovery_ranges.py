"""Refined ranges: nearer to the float logits, found again by another search, and carried by both paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.calibration.calibrate import calibrate
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import quantize_network
from edgeaudio_export.recovery.ranges import LEAST_GAIN, RATIOS, refine_ranges
from edgeaudio_export.step_graph import export_step

RECIPE = QuantizationRecipe(recovery=("ranges",), calibration=CalibrationSpec(method="minmax"))
BIAS_ROUNDING = 0.2
"""The paths round biases to int32 codes, which the search does not: 10 % of the error, measured on this network."""


def mean_squared_error(network: Any, streams: list[Any], quantized: Any) -> float:
    """Of the simulated logits against the network's own, from reset, by the quantization path and not by the search."""
    import torch

    errors = []
    for stream in streams:
        with torch.no_grad():
            logits, _ = network(torch.from_numpy(stream)[None], network.initial_state(1))
        errors.append((quantized.simulate(stream) - logits[0].numpy()) ** 2)
    return float(np.concatenate(errors).mean())


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
def test_the_logits_come_nearer_by_either_path_and_by_as_much_as_the_facts_say(
    float_network: Callable[[str], Any], streams: list[Any], backend: Any
) -> None:
    network, streams = frozen_copy(float_network("Ctc")), streams[:4]
    plain = quantize_network(network, streams, backend=backend, recipe=replace(RECIPE, recovery=()), name="net")
    refined = quantize_network(network, streams, backend=backend, recipe=RECIPE, name="net")
    assert refined.recovery is not None
    ((name, facts),) = refined.recovery.steps
    found = facts.to_dict()
    assert name == "ranges"
    assert found["factors"]
    before, after = (mean_squared_error(network, streams, each) for each in (plain, refined))
    assert found["error_after"] < found["error_before"]
    assert after < 0.9 * before
    assert before == pytest.approx(found["error_before"], rel=BIAS_ROUNDING)
    assert after == pytest.approx(found["error_after"], rel=BIAS_ROUNDING)


def test_no_single_step_makes_it_better(float_network: Callable[[str], Any], streams: list[Any]) -> None:
    step, streams = export_step(frozen_copy(float_network("Ctc"))), streams[:2]
    calibration = calibrate(step, streams, RECIPE.calibration)
    refined, facts = refine_ranges(step, calibration, streams, reference=step, recipe=RECIPE)
    assert dict(refined.factors) == facts.factors
    again, second = refine_ranges(step, refined, streams, reference=step, recipe=RECIPE)
    assert second.error_before == pytest.approx(facts.error_after, rel=1e-6)
    last = min(RATIOS)
    for name in ("features", *facts.factors):
        for factor in (last, 1 / last):
            factors = MappingProxyType({**again.factors, name: again.factors.get(name, 1.0) * factor})
            _, found = refine_ranges(step, replace(again, factors=factors), streams, reference=step, recipe=RECIPE)
            assert found.error_before >= second.error_after * (1 - 10 * LEAST_GAIN)


def test_a_factor_scales_the_range_and_another_method_starts_without_it(
    float_network: Callable[[str], Any], streams: list[Any]
) -> None:
    step = export_step(frozen_copy(float_network("Ctc")))
    calibration = calibrate(step, streams[:2], CalibrationSpec(method="minmax"))
    doubled = replace(calibration, factors=MappingProxyType({"features": 2.0}))
    before, after = calibration.range("features"), doubled.range("features")
    assert (after.low, after.high) == (2 * before.low, 2 * before.high)
    assert (after.minimum, after.maximum) == (before.minimum, before.maximum)
    assert doubled.by(CalibrationSpec(method="minmax")).range("features") == before
