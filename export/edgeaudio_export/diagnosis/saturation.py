"""Would this graph compute the same on an x86 CPU without VNNI?

There ONNX Runtime multiplies unsigned 8-bit activations (code + 128) by signed weights with ``vpmaddubsw``, which adds
two neighbouring products in 16 bits and saturates: ``255 * (w0 + w1)`` beyond 32767 or below -32768 is cut off. Only
two weights of one sign can do that, and only where ``|w0| + |w1| > 128``. CPUs with VNNI, ARM CPUs, numpy and LiteRT
(whose x86 kernels widen to 16 bits first) never do; depthwise convolutions do not in ONNX Runtime either (MLAS
``qdwconv_avx2.cpp`` widens products to 32 bits). See also ONNX Runtime's issue 6004 and pull requests 12088, 24220.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.graph import IntegerGraph, Op

LOWEST_SUM, HIGHEST_SUM = -(2**15), 2**15 - 1
"""What a 16-bit sum of two products holds."""
SAFE_WEIGHT = 64
"""Largest weight code with which no pair can saturate: 255 * (64 + 64) = 32640. Seven bits, ``reduce_range``."""
MAX_WINDOWS = 512
"""Positions of each layer that the saturating kernel is tried on, spread over all that were seen."""

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaturationReport:
    """One layer that multiplies int8 by int8 in pairs."""

    layer: str
    """Name of the operation."""
    tensor: str
    """Tensor it writes."""
    pairs: int
    """Pairs of neighbouring weights, over all output channels."""
    exposed_pairs: int
    """Those whose sum of products can leave 16 bits for some activation codes."""
    reachable_pairs: int
    """Those that can for codes no larger than the largest code seen on the probes."""
    accumulators: int
    """Sums of products that the simulated kernel computed, one for each output value."""
    changed_accumulators: int
    """Those that saturation changed."""
    largest_change: int
    """Largest change of an accumulator, in products of codes."""

    @property
    def exposed_share(self) -> float:
        """Share of the pairs that are exposed."""
        return self.exposed_pairs / max(self.pairs, 1)


def report_saturation(
    graph: IntegerGraph, steps: Iterable[Mapping[str, Codes]], names: Mapping[str, str] | None = None
) -> tuple[SaturationReport, ...]:
    """Check every dense int8 layer.

    Args:
        graph: What will run.
        steps: Every tensor at every step, as :func:`~edgeaudio_export.diagnosis.rollout.integer_steps` yields them.
        names: Names of layers by the tensor they write; None takes the operation's own.

    Returns:
        A report for each convolution and fully connected layer with int8 input and weights, depthwise ones left out.
    """
    watched = [op for op in graph.ops if _is_paired(graph, op)]
    seen: dict[str, list[Codes]] = {op.outputs[0]: [] for op in watched}
    for values in steps:
        for op in watched:
            seen[op.outputs[0]].append(windows(graph, op, values[op.inputs[0]]))
    names = names or {}
    return tuple(
        _report(graph, op, names.get(op.outputs[0], op.name), np.concatenate(seen[op.outputs[0]])) for op in watched
    )


def _is_paired(graph: IntegerGraph, op: Op) -> bool:
    if op.kind not in ("conv", "fully_connected") or op.inputs[1] not in graph.constants:
        return False
    both = {graph.tensors[name].dtype for name in op.inputs[:2]}
    return both == {"int8"} and int(op.attrs.get("groups", 1)) == 1


def _report(graph: IntegerGraph, op: Op, name: str, rows: Codes) -> SaturationReport:
    matrix = padded(graph.constants[op.inputs[1]].reshape(graph.constants[op.inputs[1]].shape[0], -1))
    sums = matrix.reshape(len(matrix), -1, 2).astype(np.int64).sum(axis=2)
    same_sign = (matrix[:, ::2].astype(np.int64) * matrix[:, 1::2]) > 0
    chosen = rows[np.linspace(0, len(rows) - 1, min(MAX_WINDOWS, len(rows))).astype(np.intp)]
    unsigned = padded(chosen.astype(np.int64) + 128)
    exact, saturated = unsigned.astype(np.int64) @ matrix.T.astype(np.int64), saturating_product(unsigned, matrix)
    change = np.abs(saturated - exact)
    return SaturationReport(
        layer=name,
        tensor=op.outputs[0],
        pairs=sums.size,
        exposed_pairs=int((same_sign & leaves_16_bits(255 * sums)).sum()),
        reachable_pairs=int((same_sign & leaves_16_bits((int(rows.max()) + 128) * sums)).sum()),
        accumulators=change.size,
        changed_accumulators=int((change > 0).sum()),
        largest_change=int(change.max()),
    )


def leaves_16_bits(sums: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a 16-bit register cannot hold a sum."""
    result: npt.NDArray[np.bool_] = (sums > HIGHEST_SUM) | (sums < LOWEST_SUM)
    return result


def saturating_product(unsigned: Codes, matrix: Codes) -> npt.NDArray[np.int64]:
    """``unsigned [M, K] @ matrix[O, K].T`` as ``vpmaddubsw`` computes it, K even: sums of pairs saturate at 16 bits."""
    result = np.zeros((len(unsigned), len(matrix)), dtype=np.int64)
    for k in range(0, unsigned.shape[1], 2):
        pair = unsigned[:, k : k + 2].astype(np.int64) @ matrix[:, k : k + 2].T.astype(np.int64)
        result += np.clip(pair, LOWEST_SUM, HIGHEST_SUM)
    return result


def padded(matrix: Codes) -> Codes:
    """With a column of zeros where the number of columns is odd, as the kernels pack it."""
    return np.pad(matrix, ((0, 0), (0, matrix.shape[1] % 2)))


def windows(graph: IntegerGraph, op: Op, x: Codes) -> Codes:
    """Codes ``[positions, K]`` that each output position reads, in the order of the weights: time, bin, channel."""
    if op.kind == "fully_connected":
        return x.reshape(-1, x.shape[3])
    (stride_t, stride_f), (dilation_t, dilation_f) = op.attrs.get("stride", (1, 1)), op.attrs.get("dilation", (1, 1))
    _, kernel_t, kernel_f, channels = graph.constants[op.inputs[1]].shape
    zero = graph.tensors[op.inputs[0]].zero_code
    low, high = op.attrs.get("pad_f", (0, 0))
    x = np.pad(x, ((0, 0), (0, 0), (low, high), (0, 0)), constant_values=zero)
    span_t, span_f = dilation_t * (kernel_t - 1) + 1, dilation_f * (kernel_f - 1) + 1
    view = np.lib.stride_tricks.sliding_window_view(x, (span_t, span_f), axis=(1, 2))
    view = view[:, ::stride_t, ::stride_f, :, ::dilation_t, ::dilation_f].transpose(0, 1, 2, 4, 5, 3)
    return view.reshape(-1, kernel_t * kernel_f * channels)
