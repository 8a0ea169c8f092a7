"""Sigmoid, tanh and softmax by table, and the mean over frequency, in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.kernel import Array, Kernel
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize
from edgeaudio_runtime.requantization import requantizer


def sigmoid_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``1 / (1 + exp(-x))``, codes by a table of all of them."""
    return _table_kernel(graph, op, lambda x: 1.0 / (1.0 + np.exp(-x)))


def tanh_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``tanh(x)``, codes by a table of all of them."""
    return _table_kernel(graph, op, np.tanh)


def _table_kernel(graph: IntegerGraph, op: Op, function: Callable[[Array], Array]) -> Kernel:
    source, target = graph.tensors[op.inputs[0]].quant, graph.tensors[op.outputs[0]].quant
    if source is None or target is None:
        return lambda arrays, steps: function(arrays[0]).astype(np.float32)
    codes = np.arange(source.low, source.high + 1).astype(source.dtype)
    table = quantize(function(dequantize(codes, source)), target)
    return lambda arrays, steps: table[arrays[0].astype(np.intp) - source.low]


def softmax_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``exp(x - max) / sum``, along the last axis, in float32."""
    source, target = graph.tensors[op.inputs[0]].quant, graph.tensors[op.outputs[0]].quant
    if source is None or target is None:
        return lambda arrays, steps: _softmax(arrays[0])
    if source.dtype != "int8":
        return lambda arrays, steps: quantize(_softmax(dequantize(arrays[0], source)), target)
    table = np.exp(np.arange(-255, 1).astype(np.float32) * np.float32(source.scale[0])).astype(np.float32)
    return lambda arrays, steps: _softmax_codes(arrays[0], table, target)


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def _softmax_codes(codes: Array, table: Array, target: QuantParams) -> Array:
    wide = codes.astype(np.intp)
    exponentials = table[wide - wide.max(axis=-1, keepdims=True) + 255]
    return quantize(exponentials / exponentials.sum(axis=-1, keepdims=True), target)


def mean_frequency_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Mean over F: the exact integer sum requantized by the graph's rule with multiplier ``s_i / (F * s_o)``.

    Equals a depthwise convolution over F with all weights 1 and weight scale ``float32(1 / F)``.
    """
    x, output = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if x.quant is None or output.quant is None:
        return lambda arrays, steps: arrays[0].mean(axis=2, keepdims=True, dtype=np.float32)
    bins = x.shape[2]
    requantize = requantizer(
        graph.requantization,
        scale_in=x.quant.scale[0],
        scale_weight=np.float32(1 / bins),
        output=output.quant,
        wide=x.dtype == "int16",
    )
    offset = np.int32(bins * x.quant.zero_point)
    return lambda arrays, steps: requantize(arrays[0].sum(axis=2, keepdims=True, dtype=np.int32) - offset)
