"""What the layers of a float step graph see and say on calibration streams; memory does not grow with the streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.activation_groups import fused_into_relu
from edgeaudio_export.recovery.channel_groups import ChannelGroup, channel_axes
from edgeaudio_export.recovery.layers import channel_rows, layers_of
from edgeaudio_export.recovery.simulation import Simulation, clip_batches
from edgeaudio_export.step_graph import Features, StepGraph

MAX_ROWS = 16384
"""Frames kept of each group of channels, beside those with the extremes of a channel."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Measured on one set of streams."""

    mean: dict[str, Tensor]
    """Mean of each input channel of a layer, ``[I]``, by layer."""
    power: dict[str, Tensor]
    """Mean square of each input channel of a layer, ``[I]``, by layer."""
    output_mean: dict[str, Tensor]
    """Mean of each output channel before any relu, ``[O]``, by layer."""
    variance: dict[str, Tensor]
    """Variance of each output channel before any relu, ``[O]``, by layer."""
    samples: dict[str, Tensor]
    """Frames ``[n, channels]`` of the tensors of a group that are rounded to codes, by group; every channel's
    extremes are among them."""


def observe(
    step: StepGraph,
    streams: Sequence[Features],
    groups: Sequence[ChannelGroup] = (),
    *,
    batch: int,
    simulation: Simulation | None = None,
) -> Observation:
    """Run all streams from reset; ``simulation`` takes the place of the float graph where one is given."""
    collector = _Collector(step, groups)
    simulation = simulation or Simulation(step)
    with torch.no_grad():
        for features in clip_batches(step, streams, batch):
            simulation.logits(features, collector.visit)
    return collector.result()


@dataclass(slots=True)
class _Moments:
    """Sums over frames; float64, so that many frames do not wear them down."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        values = rows.double()
        self.count += len(rows)
        self.total = self.total + values.sum(dim=0)
        self.squares = self.squares + values.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total / self.count).float()

    @property
    def power(self) -> Tensor:
        return torch.as_tensor(self.squares / self.count).float()

    @property
    def variance(self) -> Tensor:
        mean = torch.as_tensor(self.total / self.count)
        return torch.as_tensor(self.squares / self.count - mean.square()).clamp_min(0.0).float()


@dataclass(slots=True)
class _Sample:
    """A uniform sample of rows (one random key a row, the smallest are kept) and the rows with the extremes."""

    generator: torch.Generator
    rows: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    extremes: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        self.rows.append(rows)
        self.keys.append(torch.rand(len(rows), generator=self.generator))
        self.extremes.append(rows[torch.unique(torch.cat([rows.argmax(dim=0), rows.argmin(dim=0)]))])
        if sum(map(len, self.rows)) > 2 * MAX_ROWS:
            self._thin()

    def _thin(self) -> None:
        keys = torch.cat(self.keys)
        kept = keys.argsort()[:MAX_ROWS]
        self.rows, self.keys = [torch.cat(self.rows)[kept]], [keys[kept]]
        extremes = torch.cat(self.extremes)
        self.extremes = [extremes[torch.unique(torch.cat([extremes.argmax(dim=0), extremes.argmin(dim=0)]))]]

    def result(self) -> Tensor:
        self._thin()
        return torch.cat([*self.rows, *self.extremes])


class _Collector:
    def __init__(self, step: StepGraph, groups: Sequence[ChannelGroup]) -> None:
        self._axes, self._layers = channel_axes(step), layers_of(step)
        self._readers: dict[str, list[str]] = {}
        for name, layer in self._layers.items():
            source = layer.node.args[0]
            assert isinstance(source, Node)
            self._readers.setdefault(source.name, []).append(name)
        self._group_of = {name: group.name for group in groups for name in group.members}
        self._inputs = {name: _Moments() for name in self._layers}
        self._outputs = {name: _Moments() for name in self._layers}
        generator = torch.Generator().manual_seed(SEED)
        self._samples = {group.name: _Sample(generator) for group in groups}

    def visit(self, node: Node, computed: Tensor, rounded: Tensor) -> None:
        """Take in one activation."""
        if node.name not in self._axes:
            return
        axis = self._axes[node.name]
        for name in self._readers.get(node.name, ()):
            self._inputs[name].add(channel_rows(rounded, axis))
        if node.name in self._layers:
            self._outputs[node.name].add(channel_rows(computed, axis))
        if node.name in self._group_of and _is_new(node):
            self._samples[self._group_of[node.name]].add(channel_rows(computed, axis))

    def result(self) -> Observation:
        """Everything so far."""
        return Observation(
            mean={name: moments.mean for name, moments in self._inputs.items()},
            power={name: moments.power for name, moments in self._inputs.items()},
            output_mean={name: moments.mean for name, moments in self._outputs.items()},
            variance={name: moments.variance for name, moments in self._outputs.items()},
            samples={name: sample.result() for name, sample in self._samples.items()},
        )


def _is_new(node: Node) -> bool:
    """Whether the node holds values that are rounded here and not elsewhere: no state, no copy, no input of a relu."""
    return node.op == "call_function" and str(node.target) not in operations.MOVING and not fused_into_relu(node)
