"""Coverage: which activations leave the calibrated range when the world sounds otherwise, and which codes idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeaudio_export.calibration.calibrate import Calibration, Watcher
from edgeaudio_export.calibration.histogram import StreamingHistogram
from edgeaudio_export.calibration.statistics import ActivationStatistics
from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import Features, StepGraph, roll_out
from edgeaudio_runtime.quantization import QuantParams

NOTEWORTHY_SATURATION = 0.001
"""Share of saturated values from which on a condition is worth a word; "mse" clips about as much by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionCoverage:
    """One group of activations under one condition."""

    condition: str
    """Name that the caller gave it."""
    minimum: float
    """Smallest value of the float network."""
    maximum: float
    """Largest value of the float network."""
    saturated_share: float
    """Share of the values that lie beyond the outermost codes, more than half a step away."""
    goes_beyond: bool
    """Whether a value was smaller or larger than every value of the calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCoverage:
    """One group of activations: what its codes cover, what calibration used of it, what the conditions ask for."""

    name: str
    """As in :class:`edgeaudio_export.activation_groups.ActivationGroup`."""
    low: float
    """Real value of the smallest code."""
    high: float
    """Real value of the largest code."""
    minimum: float
    """Smallest value during calibration."""
    maximum: float
    """Largest value during calibration."""
    saturated_share: float
    """Share of the calibration's own values beyond the outermost codes, to the width of a histogram bin."""
    unused_share: float
    """Share of the codes that no value of the calibration was given, to the width of a histogram bin."""
    conditions: tuple[ConditionCoverage, ...]
    """In the order of the caller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoverageReport:
    """All groups whose range was calibrated, in the order in which the network computes them."""

    groups: tuple[GroupCoverage, ...]
    """One for each group."""

    def worst(self) -> list[tuple[GroupCoverage, ConditionCoverage]]:
        """Groups and conditions with at least ``NOTEWORTHY_SATURATION`` of the values saturated, and more than during
        calibration; worst first."""
        found = [
            (group, condition)
            for group in self.groups
            for condition in group.conditions
            if condition.saturated_share >= max(NOTEWORTHY_SATURATION, group.saturated_share)
        ]
        return sorted(found, key=lambda pair: -pair[1].saturated_share)

    def beyond(self) -> dict[str, int]:
        """For each condition, how many groups held values that calibration never saw."""
        names = [c.condition for c in self.groups[0].conditions] if self.groups else []
        return {
            name: sum(c.goes_beyond for g in self.groups for c in g.conditions if c.condition == name) for name in names
        }

    def summary(self) -> list[str]:
        """A few lines for a terminal: conditions beyond the calibration, the worst saturation, the emptiest codes."""
        beyond = [f"{name} ({count})" for name, count in self.beyond().items() if count]
        lines = [
            f"coverage: of {len(self.groups)} tensor groups, values that calibration never saw under "
            + (", ".join(beyond) or "no condition")
        ]
        if worst := self.worst():
            group, condition = worst[0]
            lines.append(
                f"coverage: most saturated is {group.name!r} under {condition.condition}, "
                f"{condition.saturated_share:.2%} of its values"
            )
        idle = max(self.groups, key=lambda group: group.unused_share)
        lines.append(f"coverage: {idle.unused_share:.1%} of the codes of {idle.name!r} were never used in calibration")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def coverage(
    step: StepGraph,
    calibration: Calibration,
    conditions: Mapping[str, Sequence[Features]],
    *,
    params: Mapping[str, QuantParams] | None = None,
) -> CoverageReport:
    """Run the float network under conditions it was not calibrated on and hold its activations against their ranges.

    Args:
        step: The step graph that was calibrated.
        calibration: Its calibration.
        conditions: Streams ``[T, n_features]`` of each condition, by a name for people, such as a level sweep, digital
            silence, noise and clipping (``edgeaudio.calibration_clips.probe_conditions`` makes them from clips); each
            stream runs from reset and may be computed on access.
        params: Quantization parameters by the name of the group where they are not ``calibration.params()``; groups
            that are missing (left in float) are passed over.

    Returns:
        For every group and condition the extremes and the share of saturated values; for every group the share of
        codes that calibration left unused. Groups with fixed parameters (sigmoid, tanh, softmax) cannot leave them.

    Raises:
        ExportError: No condition, an empty one, or streams of another shape.
    """
    if not conditions or not all(len(streams) for streams in conditions.values()):
        counts = {name: len(streams) for name, streams in conditions.items()}
        raise ExportError(f"conditions={counts} must hold at least one stream each; give clips to probe with")
    params = calibration.params() if params is None else params
    seen = {name: _observe(step, calibration, params, streams) for name, streams in conditions.items()}
    groups = [name for name in calibration.statistics if name in params]
    return CoverageReport(
        groups=tuple(
            _group(calibration.statistics[name], params[name], {c: extents[name] for c, extents in seen.items()})
            for name in groups
        )
    )


class _Extent:
    """Extremes of the values, and how many of them have no code of their own."""

    def __init__(self, params: QuantParams) -> None:
        self.minimum, self.maximum = np.inf, -np.inf
        self.saturated = self.total = 0
        self._low, self._high = _outermost(params)

    def see(self, values: npt.NDArray[np.float32]) -> None:
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        self.saturated += int(np.count_nonzero((values < self._low) | (values > self._high)))
        self.total += values.size


class _Extents:
    """Extents of all groups; takes the place of a collector."""

    def __init__(self, calibration: Calibration, params: Mapping[str, QuantParams]) -> None:
        watched = [group for group in calibration.groups if group.name in calibration.statistics]
        self.by_group = {group.name: _Extent(params[group.name]) for group in watched if group.name in params}
        self._group_of = {n: group.name for group in watched if group.name in params for n in group.computed}

    def count_frames(self, frames: int) -> None:
        """Frames do not matter here."""

    def see(self, node: str, values: npt.NDArray[np.float32]) -> None:
        if node in self._group_of:
            self.by_group[self._group_of[node]].see(values)


def _observe(
    step: StepGraph, calibration: Calibration, params: Mapping[str, QuantParams], streams: Sequence[Features]
) -> dict[str, _Extent]:
    extents = _Extents(calibration, params)
    with torch.no_grad():
        roll_out(Watcher(step, extents).run_step, step.network, streams, batch=calibration.spec.batch)
    return extents.by_group


def _group(statistics: ActivationStatistics, params: QuantParams, seen: Mapping[str, _Extent]) -> GroupCoverage:
    histogram, scale = statistics.histogram, params.scale[0]
    return GroupCoverage(
        name=statistics.name,
        low=(params.low - params.zero_point) * scale,
        high=(params.high - params.zero_point) * scale,
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        saturated_share=_saturated_share(histogram, params),
        unused_share=_unused_share(histogram, params),
        conditions=tuple(
            ConditionCoverage(
                condition=name,
                minimum=extent.minimum,
                maximum=extent.maximum,
                saturated_share=extent.saturated / extent.total,
                goes_beyond=extent.minimum < histogram.minimum or extent.maximum > histogram.maximum,
            )
            for name, extent in seen.items()
        ),
    )


def _saturated_share(histogram: StreamingHistogram, params: QuantParams) -> float:
    low, high = _outermost(params)
    beyond = (histogram.centers < low) | (histogram.centers > high)
    return float(histogram.counts[beyond].sum() / histogram.counts.sum())


def _unused_share(histogram: StreamingHistogram, params: QuantParams) -> float:
    """A bin that spans several codes counts for all of them."""
    used = np.flatnonzero(histogram.counts)
    scale, zero_point = params.scale[0], params.zero_point
    first, last = (
        np.clip(np.rint(histogram.edges[used + end] / scale) + zero_point, params.low, params.high).astype(np.int64)
        - params.low
        for end in (0, 1)
    )
    n_codes = params.high - params.low + 1
    starts, ends = np.bincount(first, minlength=n_codes + 1), np.bincount(last + 1, minlength=n_codes + 1)
    return float(np.mean(np.cumsum(starts - ends)[:n_codes] == 0))


def _outermost(params: QuantParams) -> tuple[float, float]:
    """Real values from which on codes saturate: half a step beyond the outermost codes."""
    scale = params.scale[0]
    return (params.low - params.zero_point - 0.5) * scale, (params.high - params.zero_point + 0.5) * scale
