"""Elementwise kernels in numpy: add, sub, mul, relu, clamp, quantize, dequantize, requantize."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.kernel import Array, Kernel
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize
from edgeaudio_runtime.requantization import float_multiplier, requantizer


def add_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``a + b``: exact in integers when all three tensors share quantization, in float32 otherwise."""
    return _sum_kernel(graph, op, sign=1)


def sub_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``a - b``: exact in integers when all three tensors share quantization, in float32 otherwise."""
    return _sum_kernel(graph, op, sign=-1)


def _sum_kernel(graph: IntegerGraph, op: Op, *, sign: int) -> Kernel:
    first, second, output = _tensors(graph, op)
    if first.quant is None or second.quant is None or output.quant is None:
        return _float_kernel(op, lambda a, b: a + np.float32(sign) * b)
    low, high = _limits(output.quant, op)
    if first.quant == second.quant == output.quant:
        # (a - z) +- (b - z) + z
        offset = -output.quant.zero_point if sign > 0 else output.quant.zero_point
        return lambda arrays, steps: _tied_sum(arrays[0], arrays[1], sign, offset, low, high)
    ratio_a = np.float32(first.quant.scale[0]) / np.float32(output.quant.scale[0])
    ratio_b = np.float32(sign) * np.float32(second.quant.scale[0]) / np.float32(output.quant.scale[0])
    zero_a, zero_b, zero = first.quant.zero_point, second.quant.zero_point, output.quant.zero_point
    dtype = output.dtype

    def rescaled(arrays: list[Array], steps: int) -> Array:
        """``clip(rint((a - z_a) * (s_a / s_o) + (b - z_b) * (s_b / s_o)) + z_o)``, each step rounded to float32."""
        a, b = (arrays[0].astype(np.float32) - zero_a) * ratio_a, (arrays[1].astype(np.float32) - zero_b) * ratio_b
        return np.asarray(np.clip(np.rint(a + b) + zero, low, high), dtype=dtype)

    return rescaled


def _tied_sum(a: Array, b: Array, sign: int, offset: int, low: int, high: int) -> Array:
    wide = np.int32 if a.dtype == np.int16 else np.int16
    total = np.add(a, b, dtype=wide) if sign > 0 else np.subtract(a, b, dtype=wide)
    total += wide(offset)
    return np.clip(total, low, high, out=total).astype(a.dtype)


def mul_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``a * b``: the exact integer product of centred codes, requantized by the graph's rule."""
    first, second, output = _tensors(graph, op)
    if first.quant is None or second.quant is None or output.quant is None:
        return _float_kernel(op, lambda a, b: a * b)
    has_int16 = "int16" in (first.dtype, second.dtype, output.dtype)
    scale_in, scale_weight, result = first.quant.scale[0], second.quant.scale[0], output.quant
    if has_int16:
        # LiteRT works this multiplier out in float32 before it splits it.
        scale_in = float(float_multiplier(scale_in, scale_weight, result.scale[0]))
        scale_weight, result = 1.0, replace(result, scale=(1.0,))
    requantize = requantizer(
        _rule(graph, first, second, output),
        scale_in=scale_in,
        scale_weight=scale_weight,
        output=result,
        relu=bool(op.attrs.get("relu")),
    )
    # 17 bits times 17 bits: above 2**31 only for int16, where int64 is needed.
    wide = np.dtype(np.int64 if has_int16 else np.int32)
    zero_a, zero_b = wide.type(first.quant.zero_point), wide.type(second.quant.zero_point)

    def run(arrays: list[Array], steps: int) -> Array:
        a, b = np.subtract(arrays[0], zero_a, dtype=wide), np.subtract(arrays[1], zero_b, dtype=wide)
        return requantize(np.multiply(a, b))

    return run


def relu_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """``max(x, 0)``: on codes, ``max(code, zero_point)``."""
    tensor = graph.tensors[op.inputs[0]]
    zero = np.dtype(tensor.dtype).type(tensor.zero_code)
    return lambda arrays, steps: np.maximum(arrays[0], zero)


def clamp_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Codes clipped to ``low`` and ``high``."""
    dtype = np.dtype(graph.tensors[op.inputs[0]].dtype).type
    low, high = dtype(op.attrs["low"]), dtype(op.attrs["high"])
    return lambda arrays, steps: np.clip(arrays[0], low, high)


def quantize_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """float32 to codes."""
    params = _quant(graph.tensors[op.outputs[0]])
    return lambda arrays, steps: quantize(arrays[0], params)


def dequantize_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Codes to float32."""
    params = _quant(graph.tensors[op.inputs[0]])
    return lambda arrays, steps: dequantize(arrays[0], params)


def requantize_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Codes to codes of other parameters, by the graph's rule with multiplier ``s_i / s_o``."""
    tensors = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    source, target = map(_quant, tensors)
    requantize = requantizer(_rule(graph, *tensors), scale_in=source.scale[0], scale_weight=1.0, output=target)
    zero = np.int32(source.zero_point)
    return lambda arrays, steps: requantize(arrays[0].astype(np.int32) - zero)


def _rule(graph: IntegerGraph, *tensors: Tensor) -> str:
    """The graph's rule; with int16 codes the one that all known int16 kernels follow."""
    return "tflm" if any(tensor.dtype == "int16" for tensor in tensors) else graph.requantization


def _float_kernel(op: Op, compute: Any) -> Kernel:
    floor = np.float32(0 if op.attrs.get("relu") else -np.inf)
    return lambda arrays, steps: np.maximum(compute(arrays[0], arrays[1]), floor)


def _tensors(graph: IntegerGraph, op: Op) -> tuple[Tensor, Tensor, Tensor]:
    return graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]]


def _limits(quant: QuantParams, op: Op) -> tuple[int, int]:
    return max(quant.low, quant.zero_point) if op.attrs.get("relu") else quant.low, quant.high


def _quant(tensor: Tensor) -> QuantParams:
    assert tensor.quant is not None
    return tensor.quant
