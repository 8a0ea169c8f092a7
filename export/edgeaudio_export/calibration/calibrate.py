"""One calibration for every container: activations are observed on the float step graph, before any path quantizes.

The ranges are a property of the network and its streams. PyTorch's path, ONNX Runtime's path, recovery steps and
reports all read them from one :class:`Calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgeaudio_export.activation_groups import ActivationGroup, activation_groups
from edgeaudio_export.calibration.ranges import Range
from edgeaudio_export.calibration.spec import CalibrationFacts, CalibrationSpec
from edgeaudio_export.calibration.statistics import ActivationStatistics
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import States
from edgeaudio_export.step_graph import Features, Progress, StepGraph, roll_out
from edgeaudio_runtime.quantization import QuantParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Statistics of every group of activations; ranges are chosen from them on demand, by any method."""

    spec: CalibrationSpec
    """The method that :meth:`range` and :meth:`params` follow."""
    groups: tuple[ActivationGroup, ...]
    """All groups, in the order in which the network computes them."""
    statistics: Mapping[str, ActivationStatistics]
    """By the name of the group; groups with fixed parameters have none."""
    clips: int
    """Streams that were rolled out."""
    frames: int
    """Feature frames in all of them."""
    factors: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What the chosen range of a group is multiplied with; see :mod:`edgeaudio_export.recovery.ranges`."""

    def range(self, name: str, dtype: str = "int8", *, symmetric: bool = False) -> Range:
        """The range that codes of ``dtype`` shall cover in the group ``name``.

        Raises:
            ExportError: The group has fixed parameters or does not exist, was never computed, or was 0 throughout.
        """
        if name not in self.statistics:
            raise ExportError(f"group={name!r} has no calibrated range; there are {list(self.statistics)}")
        chosen, factor = (
            self.statistics[name].choose(self.spec, dtype, symmetric=symmetric),
            self.factors.get(name, 1.0),
        )
        return replace(chosen, low=chosen.low * factor, high=chosen.high * factor)

    def ranges(self, dtype: str = "int8", *, symmetric: bool = False) -> dict[str, Range]:
        """:meth:`range` of every group that has one."""
        return {name: self.range(name, dtype, symmetric=symmetric) for name in self.statistics}

    def params(self, dtype: str = "int8", *, symmetric: bool = False) -> dict[str, QuantParams]:
        """Quantization parameters of every group, by its name; fixed ones are int8 whatever ``dtype`` is."""
        ranges = self.ranges(dtype, symmetric=symmetric)
        return {g.name: g.fixed or ranges[g.name].params(dtype, symmetric=symmetric) for g in self.groups}

    def by(self, spec: CalibrationSpec) -> Calibration:
        """The same statistics read by another method or percentile, without rolling out again.

        Raises:
            ExportError: ``n_bins`` or ``momentum`` differ, which must be known while observing.
        """
        for name in ("n_bins", "momentum"):
            if getattr(spec, name) != getattr(self.spec, name):
                raise ExportError(
                    f"{name}={getattr(spec, name)} must be {getattr(self.spec, name)}, with which the streams were "
                    "observed; calibrate again"
                )
        return replace(self, spec=spec, factors=MappingProxyType({}))

    def facts(self) -> CalibrationFacts:
        """What a manifest says."""
        return CalibrationFacts(
            method=self.spec.method,
            parameters=self.spec.parameters(),
            n_bins=self.spec.n_bins,
            clips=self.clips,
            frames=self.frames,
            ranges=self.ranges(),
        )


def calibrate(
    step: StepGraph, streams: Sequence[Features], spec: CalibrationSpec, progress: Progress | None = None
) -> Calibration:
    """Roll every stream out from reset through the float step graph and keep statistics of every activation.

    Each value is counted once, where it is computed: a FIFO that holds it for longer does not count it again.

    Args:
        step: The exported step.
        streams: Features, each float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``. Read once, in
            order, ``spec.batch`` at a time, so that a sequence may compute them on access.
        spec: Method, size of the histograms, batch.
        progress: Called with (done, total) streams.

    Raises:
        ExportError: No stream, a stream of another shape, NaN in a stream or an activation.
    """
    collector = Collector(activation_groups(step), spec)
    with torch.no_grad():
        roll_out(
            Watcher(step, collector).run_step,
            step.network,
            streams,
            batch=spec.batch,
            progress=progress,
            finished=collector.end_streams,
        )
    return collector.calibration()


class Collector:
    """Gathers statistics by group while a network runs streams side by side; who runs it does not matter."""

    def __init__(self, groups: Sequence[ActivationGroup], spec: CalibrationSpec) -> None:
        self._groups = tuple(groups)
        self._spec = spec
        free = [group for group in groups if group.fixed is None]
        self._statistics = {group.name: ActivationStatistics(group.name, spec) for group in free}
        self._group_of = {node: group.name for group in free for node in group.computed}
        self._extremes: dict[str, npt.NDArray[np.float64]] = {}
        self._clips = self._frames = 0

    def count_frames(self, frames: int) -> None:
        """Feature frames that are about to be run."""
        self._frames += frames

    def see(self, node: str, values: npt.NDArray[np.float32]) -> None:
        """Take in the values ``[N, ...]`` of a node, a row for each stream; nodes that only move values do not count.

        Of streams that have ended there are no rows any more; the shortest stand last.
        """
        if node not in self._group_of:
            return
        name = self._group_of[node]
        self._statistics[name].histogram.observe(values)
        rows = values.reshape(len(values), -1)
        seen = self._extremes.setdefault(name, np.tile([np.inf, -np.inf], (len(values), 1)))[: len(values)]
        np.minimum(seen[:, 0], rows.min(axis=1), out=seen[:, 0])
        np.maximum(seen[:, 1], rows.max(axis=1), out=seen[:, 1])

    def end_streams(self, order: Sequence[int]) -> None:
        """All rows are at their end; ``order[row]`` is the place of a row's stream among those of the batch."""
        self._clips += len(order)
        for name, extremes in self._extremes.items():
            for row in np.argsort(order):
                self._statistics[name].end_stream(*map(float, extremes[row]))
        self._extremes = {}

    def calibration(self) -> Calibration:
        """What was gathered."""
        return Calibration(
            spec=self._spec,
            groups=self._groups,
            statistics=MappingProxyType(self._statistics),
            clips=self._clips,
            frames=self._frames,
        )


class Observer(Protocol):
    """Who is shown activations, such as a :class:`Collector`."""

    def count_frames(self, frames: int) -> None:
        """Feature frames that are about to be run."""
        ...

    def see(self, node: str, values: npt.NDArray[np.float32]) -> None:
        """Values ``[N, ...]`` of one node."""
        ...


class Watcher(Interpreter):
    """Runs a step graph node by node and shows every activation to an observer."""

    def __init__(self, step: StepGraph, observer: Observer) -> None:
        super().__init__(step.module)
        self._observer = observer

    def run_step(self, features: Tensor, states: States) -> tuple[Tensor, States]:
        """One step, as the module itself would take it."""
        self._observer.count_frames(features.shape[0] * features.shape[1])
        logits, after = self.run(features, states)
        return logits, after

    def run_node(self, n: Node) -> Any:
        """Run a node and show its value."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self._observer.see(n.name, value.numpy())
        return value
