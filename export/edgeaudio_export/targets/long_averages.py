"""Averages over a long window, recognized so that a target may write them in a faster form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.targets.stored_constants import stored_constants
from edgeaudio_runtime.graph import IntegerGraph, Op


def band_matrix(graph: IntegerGraph, op: Op) -> npt.NDArray[Any] | None:
    """Weights ``[T_out, 1, 1, T]`` of a depthwise convolution over time whose channels are all alike, or None.

    Row t holds the kernel at the frames that output t reads, so that ``out[t] = sum over T of row * x``: the same
    products as the convolution, hence the same accumulators.
    """
    x, out = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    stored, bias = stored_constants(graph, op)
    weight = stored.data
    depthwise = op.attrs.get("groups", 1) == x.shape[3] == weight.shape[0]
    flat = x.shape[2] == 1 and weight.shape[2] == 1 and op.attrs.get("pad_f", (0, 0)) == (0, 0)
    if not (depthwise and flat and stored.is_alike and bias.is_alike):
        return None
    stride, dilation = op.attrs.get("stride", (1, 1))[0], op.attrs.get("dilation", (1, 1))[0]
    rows = np.zeros((out.shape[1], 1, 1, x.shape[1]), weight.dtype)
    taps = np.arange(weight.shape[1]) * dilation
    for t in range(out.shape[1]):
        rows[t, 0, 0, t * stride + taps] = weight[0, :, 0, 0]
    return rows
