"""Tensor by tensor: how far the codes of the integer graph stray from the float network, and by which of the causes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from edgeaudio_export.calibration import StreamingHistogram
from edgeaudio_export.diagnosis.layers import (
    Layer,
    float_bias,
    float_weight,
    in_graph_layout,
    is_weighted,
    quantized_bias,
    quantized_weight,
)
from edgeaudio_export.diagnosis.rollout import Array, Probes, float_steps, integer_steps
from edgeaudio_export.node_axes import node_axes
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.kernel import Kernel
from edgeaudio_runtime.kernels import kernel
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize

FEATURES = "features"
"""Name under which the network's input stands beside its layers."""
N_BINS = 512
"""Bins of a reported histogram, at most; half of them span the data at least."""

CAUSES = ("weights", "input", "clipping", "rounding")
"""What a layer's own error is made of: int8 weights and their bias; codes instead of real inputs; values beyond the
ends of the output's range; steps between its codes."""


@dataclass(kw_only=True, slots=True)
class Ratio:
    """Sums of squares of a signal and of the error of its approximation."""

    signal: float = 0.0
    """Sum of ``reference ** 2``."""
    noise: float = 0.0
    """Sum of ``(candidate - reference) ** 2``."""

    def add(self, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> None:
        """Take in two arrays of one shape."""
        real = reference.astype(np.float64)
        self.signal += float(np.square(real).sum())
        self.noise += float(np.square(candidate.astype(np.float64) - real).sum())

    @property
    def db(self) -> float | None:
        """``10 log10(signal / noise)``; None where there is no error."""
        if self.noise == 0.0:
            return None
        return 10 * math.log10(max(self.signal, np.finfo(np.float64).tiny) / self.noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorReport:
    """One computed tensor of the integer graph beside the float network, on streams that did not calibrate."""

    layer: str
    """Layer that computes it."""
    tensor: str
    """Its name in the integer graph."""
    dtype: str
    """"int8", "int16" or "float32"."""
    sqnr_db: float | None
    """Signal to error in dB with everything before it quantized too; None where there is no error."""
    local_sqnr_db: float | None
    """The same with true float inputs: what this layer alone adds."""
    causes: dict[str, float]
    """Share of each of :data:`CAUSES` in the sum of their separate squared errors; they add up to 1."""
    clip_low: float | None
    """Lower end of the range that the codes cover; None for float32."""
    clip_high: float | None
    """Upper end of it."""
    minimum: float
    """Smallest float value seen."""
    maximum: float
    """Largest float value seen."""
    saturated_share: float
    """Share of the float values more than half a step beyond the ends of the range."""
    unused_code_share: float
    """Share of the codes of the type outside the smallest and largest that occurred."""
    channel_ratio: float
    """Largest to smallest ``max |value|`` of a channel, dead ones left out."""
    dead_channels: int
    """Channels that stayed 0 in float."""
    histogram: tuple[tuple[float, int], ...]
    """(middle of a bin, count) of the float values, empty bins left out."""
    bin_width: float
    """Width of every bin."""


def report_tensors(
    step: StepGraph, graph: IntegerGraph, layers: Sequence[Layer], probes: Probes
) -> tuple[TensorReport, ...]:
    """Roll both networks out over ``probes [N, T, n_features]``; measure input and layers, in running order."""
    features = _Watch(FEATURES, graph.input_tensor)
    axes = node_axes(step.module, step.inputs)
    meters = [_Meter(step, graph, layer, axes) for layer in layers]
    for real, codes in zip(float_steps(step, probes), integer_steps(graph, probes), strict=True):
        features.observe(real[step.inputs[0]].numpy().reshape(codes[graph.input].shape), codes[graph.input])
        for meter in meters:
            meter.observe(real, codes)
    causes = {**dict.fromkeys(CAUSES, 0.0), **shares({"clipping": features.clipping, "rounding": features.rounding})}
    return (
        features.report(local=features.total, causes=causes),
        *(meter.watch.report(local=meter.own.ratio, causes=shares(meter.causes)) for meter in meters),
    )


class _Watch:
    """Accumulates one tensor over the steps."""

    def __init__(self, layer: str, tensor: Tensor) -> None:
        self.layer, self.tensor, self.quant = layer, tensor, tensor.quant
        self.total, self.clipping, self.rounding = Ratio(), Ratio(), Ratio()
        self.histogram = StreamingHistogram(layer, N_BINS)
        self.channel_peak = np.zeros(tensor.shape[3])
        self.codes = (2**31, -(2**31))
        self.saturated = self.values = 0

    def observe(self, real: Array, made: Array) -> None:
        """Float values and codes ``[N, T, F, C]`` of one step."""
        self.histogram.observe(real)
        self.channel_peak = np.maximum(self.channel_peak, np.abs(real).max(axis=(0, 1, 2)))
        self.values += real.size
        self.total.add(real, real_of(made, self.quant))
        if self.quant is not None:
            low, high = ends(self.quant)
            clipped, half = np.clip(real, low, high), self.quant.scale[0] / 2
            self.saturated += int(((real < low - half) | (real > high + half)).sum())
            self.clipping.add(real, clipped)
            self.rounding.add(clipped, dequantize(quantize(clipped, self.quant), self.quant))
            self.codes = (min(self.codes[0], int(made.min())), max(self.codes[1], int(made.max())))

    def report(self, *, local: Ratio, causes: dict[str, float]) -> TensorReport:
        """What was accumulated."""
        alive = self.channel_peak[self.channel_peak > 0]
        centers, counts = self.histogram.centers, self.histogram.counts
        limits = (None, None) if self.quant is None else ends(self.quant)
        return TensorReport(
            layer=self.layer,
            tensor=self.tensor.name,
            dtype=self.tensor.dtype,
            sqnr_db=self.total.db,
            local_sqnr_db=local.db,
            causes=causes,
            clip_low=limits[0],
            clip_high=limits[1],
            minimum=self.histogram.minimum,
            maximum=self.histogram.maximum,
            saturated_share=self.saturated / self.values,
            unused_code_share=self._unused_codes(),
            channel_ratio=float(alive.max() / alive.min()) if alive.size else 1.0,
            dead_channels=int((self.channel_peak == 0).sum()),
            histogram=tuple((float(centers[i]), int(counts[i])) for i in np.flatnonzero(counts)),
            bin_width=float(centers[1] - centers[0]),
        )

    def _unused_codes(self) -> float:
        if self.quant is None:
            return 0.0
        return 1.0 - (self.codes[1] - self.codes[0] + 1) / (self.quant.high - self.quant.low + 1)


class OwnError:
    """Accumulates what one layer of the integer graph makes of true float inputs, against what the float layer does."""

    def __init__(self, graph: IntegerGraph, layer: Layer, axes: Mapping[str, str]) -> None:
        nodes = [node for node in layer.node.args if isinstance(node, Node) and node.op != "get_attr"]
        self.sources = [
            (node, graph.tensors[name].quant) for node, name in zip(nodes, layer.op.inputs[: len(nodes)], strict=True)
        ]
        """Float nodes it reads, with the quantization of the tensors in their place."""
        self.ratio = Ratio()
        self._layer, self._axes, self._quant = layer, axes, graph.tensors[layer.tensor].quant
        self._kernel: Kernel = kernel(graph, layer.op)

    def observe(self, real: Mapping[str, torch.Tensor], codes: Mapping[str, Array]) -> None:
        """Float values of one step, by node; ``codes`` holds the constants of the graph."""
        inputs = []
        for node, quant in self.sources:
            value = in_graph_layout(self._axes[node.name], real[node.name])
            inputs.append(value if quant is None else quantize(value, quant))
        constants = [codes[name] for name in self._layer.op.inputs[len(inputs) :]]
        node = self._layer.value
        wanted = in_graph_layout(self._axes[node.name], real[node.name])
        self.ratio.add(wanted, real_of(self._kernel([*inputs, *constants], 1), self._quant))


class _Meter:
    """Accumulates one layer over the steps: its tensor, and the error it adds to true inputs."""

    def __init__(self, step: StepGraph, graph: IntegerGraph, layer: Layer, axes: Mapping[str, str]) -> None:
        self.layer, self._axes = layer, axes
        self.watch = _Watch(layer.name, graph.tensors[layer.tensor])
        self.own = OwnError(graph, layer, axes)
        self.causes = {"weights": Ratio(), "input": Ratio(), **{c: getattr(self.watch, c) for c in CAUSES[2:]}}
        self._stored = stored_constants(step, graph, layer)

    def observe(self, real: Mapping[str, torch.Tensor], codes: Mapping[str, Array]) -> None:
        """One step of both networks."""
        value = self._laid_out(self.layer.value, real[self.layer.value.name])
        self.watch.observe(value, codes[self.layer.tensor])
        self.own.observe(real, codes)
        coarse = {
            node.name: through_codes(real[node.name], quant) for node, quant in self.own.sources if quant is not None
        }
        self.causes["input"].add(value, self._recomputed({**real, **coarse}))
        if self._stored:
            self.causes["weights"].add(value, self._recomputed({**real, **self._stored}))

    def _recomputed(self, values: Mapping[str, torch.Tensor]) -> Array:
        """The layer in float, on these values of its arguments."""
        node = self.layer.node
        operator: Any = node.target
        made = operator(*(values[a.name] if isinstance(a, Node) else a for a in node.args), **node.kwargs)
        return self._laid_out(node, torch.relu(made) if self.layer.value is not node else made)

    def _laid_out(self, node: Node, value: torch.Tensor) -> Array:
        return in_graph_layout(self._axes[node.name], value)


def stored_constants(step: StepGraph, graph: IntegerGraph, layer: Layer) -> dict[str, torch.Tensor]:
    """What weight and bias of the integer graph stand for, by the float nodes whose place they take."""
    if not is_weighted(layer):
        return {}
    values = [quantized_weight(graph, layer, float_weight(step, layer).shape)]
    if float_bias(step, layer) is not None:
        values.append(quantized_bias(graph, layer))
    nodes = [node for node in layer.node.args[1:3] if isinstance(node, Node)]
    return {node.name: torch.from_numpy(value) for node, value in zip(nodes, values, strict=True)}


def shares(ratios: Mapping[str, Ratio]) -> dict[str, float]:
    """Share of each in the sum of the squared errors; all 0 where there is none."""
    total = sum(ratio.noise for ratio in ratios.values())
    return {name: ratio.noise / total if total else 0.0 for name, ratio in ratios.items()}


def real_of(made: Array, quant: QuantParams | None) -> Array:
    """Codes as what they stand for; float values as they are."""
    return made if quant is None else dequantize(made, quant)


def ends(quant: QuantParams) -> tuple[float, float]:
    """Real values of the smallest and the largest code of a tensor with one scale."""
    scale = quant.scale[0]
    return (quant.low - quant.zero_point) * scale, (quant.high - quant.zero_point) * scale


def through_codes(value: torch.Tensor, quant: QuantParams) -> torch.Tensor:
    """What is left of real values after a stay in codes."""
    return torch.from_numpy(dequantize(quantize(value.numpy(), quant), quant))
