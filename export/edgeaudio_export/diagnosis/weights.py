"""Weights of the integer graph beside those of the float network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeaudio_export.diagnosis.activations import N_BINS, Ratio
from edgeaudio_export.diagnosis.layers import Layer, float_weight, is_weighted, quantized_weight, weight_source
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_runtime.graph import IntegerGraph


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightReport:
    """One weight tensor."""

    layer: str
    """Layer it belongs to."""
    dtype: str
    """How it is stored: "int8", "float16" or "float32"."""
    bytes: int
    """Of its values."""
    sqnr_db: float | None
    """Signal to error in dB of the stored weight against float; None where there is no error."""
    per_channel: bool
    """Whether every output channel has a scale of its own."""
    channel_ratio: float
    """Largest to smallest ``max |w|`` of an output channel, dead ones left out."""
    dead_channels: int
    """Output channels whose weights are all 0."""
    unused_code_share: float
    """Share of the codes -127..127 outside the smallest and largest in use; 0 for floats."""
    clip: float | None
    """``127 * scale`` of the widest channel: the end of the range; None for floats."""
    counts: tuple[int, ...]
    """Histogram of the float weights over :attr:`edges`."""
    edges: tuple[float, ...]
    """Ends of its bins, one more than counts."""


def report_weights(step: StepGraph, graph: IntegerGraph, layers: Sequence[Layer]) -> tuple[WeightReport, ...]:
    """Measure the weights of every weighted layer, in running order."""
    return tuple(_report(step, graph, layer) for layer in layers if is_weighted(layer))


def _report(step: StepGraph, graph: IntegerGraph, layer: Layer) -> WeightReport:
    real = float_weight(step, layer)
    name = weight_source(graph, layer.op)
    tensor, data = graph.tensors[name], graph.constants[name]
    ratio = Ratio()
    ratio.add(real, quantized_weight(graph, layer, real.shape))
    peaks = np.abs(real).reshape(real.shape[0], -1).max(axis=1)
    alive = peaks[peaks > 0]
    counts, edges = np.histogram(real, bins=_n_bins(real.size))
    quant = tensor.quant
    return WeightReport(
        layer=layer.name,
        dtype=tensor.dtype,
        bytes=data.nbytes,
        sqnr_db=ratio.db,
        per_channel=quant is not None and len(set(quant.scale)) > 1,
        channel_ratio=float(alive.max() / alive.min()) if alive.size else 1.0,
        dead_channels=int((peaks == 0).sum()),
        unused_code_share=0.0 if quant is None else 1.0 - (int(data.max()) - int(data.min()) + 1) / 255,
        clip=None if quant is None else 127 * max(quant.scale),
        counts=tuple(int(count) for count in counts),
        edges=tuple(float(edge) for edge in edges),
    )


def _n_bins(n_values: int) -> int:
    """About the square root of the number of values, so that a bin is not a single weight."""
    return int(np.clip(np.sqrt(n_values), 8, N_BINS))
