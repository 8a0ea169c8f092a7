"""Refine calibrated ranges by what they do to the logits, instead of by the error of each tensor alone.

Coordinate descent over one factor for each group of activations, on the squared error of the quantized network's logits
against float: the second phase of loss-aware quantization (Nahshan et al., "Loss Aware Post-training Quantization",
arXiv:1911.07190), with the logits of the float network in the place of a labelled loss. It matters where tied tensors
of different size share one scale, as along a residual stream: the smallest of them may deserve a finer step than the
squared error of all values together would give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.calibration.calibrate import Calibration
from edgeaudio_export.quantization_plan import plan_quantization
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.simulation import Simulation, clip_batches, with_nearest_weights
from edgeaudio_export.step_graph import Features, Progress, StepGraph

STREAMS = 128
"""Streams looked at: the first of those that calibrate."""
RATIOS = (1.25, 1.1, 1.05)
"""Factors by which a range is widened and narrowed, coarse first; each as long as it helps."""
LEAST_GAIN = 1e-3
"""Share by which the error must fall for a step to count: less is chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeFacts:
    """What refining did."""

    error_before: float
    """Mean squared error of the logits with the ranges as calibrated."""
    error_after: float
    """The same with the refined ones."""
    factors: dict[str, float]
    """Factor on the range of each group that changed."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def refine_ranges(
    step: StepGraph,
    calibration: Calibration,
    streams: Sequence[Features],
    *,
    reference: StepGraph,
    recipe: QuantizationRecipe,
    progress: Progress | None = None,
) -> tuple[Calibration, RangeFacts]:
    """Scale the range of each group until the logits are nearest to those of ``reference``.

    Args:
        step: The network that will be quantized.
        calibration: Its activations.
        streams: Features ``[T, n_features]``; the first :data:`STREAMS` are rolled out from reset.
        reference: Float network before recovery.
        recipe: How ``step`` will be quantized.
        progress: Called with (groups done, groups in all).

    Returns:
        The calibration with factors on its ranges, and what changed.
    """
    search = _Search(step, calibration, streams, reference, recipe)
    kinds = recipe.activations([group.name for group in calibration.groups])
    names = [name for name in calibration.statistics if kinds[name] != "float32"]
    turns = [(ratio, name) for ratio in RATIOS for name in names]
    before = search.error
    for done, (ratio, name) in enumerate(turns, start=1):
        search.improve(name, ratio)
        if progress is not None:
            progress(done, len(turns))
    facts = RangeFacts(error_before=before, error_after=search.error, factors=dict(search.calibration.factors))
    return search.calibration, facts


class _Search:
    """The best calibration so far and its error."""

    def __init__(
        self,
        step: StepGraph,
        calibration: Calibration,
        streams: Sequence[Features],
        reference: StepGraph,
        recipe: QuantizationRecipe,
    ) -> None:
        self.calibration, self._plan_step, self._recipe = calibration, step, recipe
        self._step = with_nearest_weights(step, plan_quantization(step, calibration, recipe))
        few = [streams[i] for i in range(min(STREAMS, len(streams)))]
        self._batches = list(clip_batches(step, few, recipe.calibration.batch))
        self._references = [_logits(Simulation(reference), batch) for batch in self._batches]
        self.error = self._measure(calibration)

    def improve(self, name: str, ratio: float) -> None:
        """Widen, then narrow the range of one group, each as long as the error falls."""
        for factor in (ratio, 1.0 / ratio):
            while self._accept(name, factor):
                pass

    def _accept(self, name: str, factor: float) -> bool:
        factors = {**self.calibration.factors, name: self.calibration.factors.get(name, 1.0) * factor}
        candidate = replace(self.calibration, factors=MappingProxyType(factors))
        error = self._measure(candidate)
        if error >= self.error * (1.0 - LEAST_GAIN):
            return False
        self.calibration, self.error = candidate, error
        return True

    def _measure(self, calibration: Calibration) -> float:
        plan = plan_quantization(self._plan_step, calibration, self._recipe)
        simulation = Simulation(self._step, plan.params)
        squares = [
            (_logits(simulation, batch) - wanted).square().double()
            for batch, wanted in zip(self._batches, self._references, strict=True)
        ]
        return float(sum(part.sum() for part in squares)) / sum(part.numel() for part in squares)


def _logits(simulation: Simulation, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return simulation.logits(batch)
