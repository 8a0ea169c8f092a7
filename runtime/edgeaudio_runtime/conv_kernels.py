"""Convolutions and fully connected layers in numpy: int8 or int16 activations with int8 weights, and float32 islands.

Integers are multiplied in floating point because BLAS has no integer product: every product and every partial sum is an
integer below a bound known from the weights, so float32 is exact while that bound is at most 2**24, and float64
always (2**53). The order of additions therefore does not matter, and results equal integer arithmetic bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.kernel import Array, Kernel
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.requantization import largest_exact_float32, requantizer

_Product: TypeAlias = Callable[[Array, Array], Array]
"""Rows ``[N, T, F, ...]`` and a matrix to ``[N, T, F, columns]``."""


def conv_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Kernel of a ``conv``: dense, grouped, depthwise, pointwise, strided or dilated, valid in time."""
    return _kernel(graph, op, _convolution(graph, op))


def fully_connected_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    """Kernel of a ``fully_connected``: ``x @ weight.T`` on the last axis."""
    weights = _constant(graph, op, 1).T
    dtype = _compute_dtype(graph, op)
    matrix, product = np.ascontiguousarray(weights, dtype=dtype), _product_of(graph, op)
    return _kernel(graph, op, lambda x: product(x, matrix))


def _kernel(graph: IntegerGraph, op: Op, multiply: Any) -> Kernel:
    """Wrap the product into offset, bias and requantization (codes) or bias and relu (float32)."""
    dtype = _compute_dtype(graph, op)
    bias = _constant(graph, op, 2).astype(dtype)
    x, output = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if output.quant is None:
        floor = np.float32(0 if op.attrs.get("relu") else -np.inf)
        return lambda arrays, steps: np.maximum(multiply(arrays[0]) + bias, floor)
    assert x.quant is not None
    weight_quant = _weight_quant(graph, op)
    requantize = requantizer(
        graph.requantization,
        scale_in=x.quant.scale[0],
        scale_weight=np.asarray(weight_quant.scale, dtype=np.float32),
        output=output.quant,
        relu=bool(op.attrs.get("relu")),
        wide=x.dtype == "int16",
    )
    zero = dtype.type(x.quant.zero_point)

    def run(arrays: list[Array], steps: int) -> Array:
        acc = multiply(np.subtract(arrays[0], zero, dtype=dtype))
        acc += bias
        return requantize(acc)

    return run


def _compute_dtype(graph: IntegerGraph, op: Op) -> np.dtype[Any]:
    x = graph.tensors[op.inputs[0]]
    if x.quant is None:
        return np.dtype(np.float32)
    largest = max(abs(x.quant.low - x.quant.zero_point), abs(x.quant.high - x.quant.zero_point))
    weight, bias = _constant(graph, op, 1).astype(np.int64), _constant(graph, op, 2).astype(np.int64)
    sums = np.abs(weight).reshape(weight.shape[0], -1).sum(axis=1)
    bound = float((sums * largest + np.abs(bias)).max())
    return np.dtype(np.float32 if largest_exact_float32(bound) else np.float64)


def _convolution(graph: IntegerGraph, op: Op) -> Any:
    weight = _constant(graph, op, 1).astype(_compute_dtype(graph, op))
    x = graph.tensors[op.inputs[0]]
    groups = int(op.attrs.get("groups", 1))
    windows, product = _windows(op, weight.shape[1:3]), _product_of(graph, op)
    if groups == 1:
        return _dense(op, weight, windows, product)
    if groups == x.shape[3]:
        return _depthwise(weight, windows, groups)
    return _grouped(weight, windows, groups, product)


def _dense(op: Op, weight: Array, windows: Any, product: _Product) -> Any:
    matrix = np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)
    if weight.shape[1:3] == (1, 1) and tuple(op.attrs.get("pad_f", (0, 0))) == (0, 0):
        stride_t, stride_f = op.attrs.get("stride", (1, 1))
        return lambda x: product(x[:, ::stride_t, ::stride_f], matrix)
    return lambda x: product(windows(x), matrix)


def _product_of(graph: IntegerGraph, op: Op) -> _Product:
    """How to multiply: sums of integers are exact in any order, those of a float island must not depend on how many
    frames one call brings."""
    return _product_by_rows if graph.tensors[op.inputs[0]].quant is None else _product


def _product_by_rows(rows: Array, matrix: Array) -> Array:
    """``[N, T, F, ...] @ matrix``, each row by itself: BLAS adds in an order that depends on the number of rows."""
    flat: Array = np.matmul(rows.reshape(-1, 1, matrix.shape[0]), matrix)
    return flat.reshape(*rows.shape[:3], -1)


def _product(rows: Array, matrix: Array) -> Array:
    """``[N, T, F, ...] @ matrix`` as one product; numpy would run one for each frame otherwise."""
    flat: Array = np.matmul(rows.reshape(-1, matrix.shape[0]), matrix)
    return flat.reshape(*rows.shape[:3], -1)


def _depthwise(weight: Array, windows: Any, groups: int) -> Any:
    # [O, KT, KF, 1] to [KT, KF, C, multiplier]: output channel c * multiplier + m reads input channel c.
    taps = np.ascontiguousarray(weight[..., 0].reshape(groups, -1, *weight.shape[1:3]).transpose(2, 3, 0, 1))
    if taps.shape[3] == 1:
        single = np.ascontiguousarray(taps[..., 0])
        return lambda x: np.einsum("ntfklc,klc->ntfc", windows(x), single)

    def run(x: Array) -> Array:
        product: Array = np.einsum("ntfklc,klcm->ntfcm", windows(x), taps)
        return product.reshape(*product.shape[:3], -1)

    return run


def _grouped(weight: Array, windows: Any, groups: int, product: _Product) -> Any:
    per_group = weight.shape[0] // groups
    matrices = weight.reshape(groups, per_group, -1).transpose(0, 2, 1)

    def run(x: Array) -> Array:
        view = windows(x)
        parts = np.split(view, groups, axis=5)
        products = [product(part, matrix) for part, matrix in zip(parts, matrices, strict=True)]
        return np.concatenate(products, axis=3)

    return run


def _windows(op: Op, kernel: tuple[int, ...]) -> Any:
    """Function to a read-only view ``[N, T', F', KT, KF, C]`` of what each output reads; padding is centred, 0."""
    (stride_t, stride_f), (dilation_t, dilation_f) = op.attrs.get("stride", (1, 1)), op.attrs.get("dilation", (1, 1))
    pad = tuple(op.attrs.get("pad_f", (0, 0)))

    def view(x: Array) -> Array:
        if pad != (0, 0):
            x = np.pad(x, ((0, 0), (0, 0), pad, (0, 0)))
        n, frames, bins, channels = x.shape
        out_t = (frames - dilation_t * (kernel[0] - 1) - 1) // stride_t + 1
        out_f = (bins - dilation_f * (kernel[1] - 1) - 1) // stride_f + 1
        if out_t < 1 or out_f < 1:
            raise SpecError(
                f"operation 'conv' ({op.name or op.outputs[0]}): {frames} frames of {bins} bins are less than a window"
            )
        s_n, s_t, s_f, s_c = x.strides
        strides = (s_n, s_t * stride_t, s_f * stride_f, s_t * dilation_t, s_f * dilation_f, s_c)
        shape = (n, out_t, out_f, kernel[0], kernel[1], channels)
        return np.lib.stride_tricks.as_strided(x, shape=shape, strides=strides, writeable=False)

    return view


def _constant(graph: IntegerGraph, op: Op, index: int) -> npt.NDArray[Any]:
    name = op.inputs[index]
    if name not in graph.constants:
        raise SpecError(
            f"operation {op.kind!r} ({op.name or op.outputs[0]}): {name!r} is computed; weights must be constants"
        )
    return graph.constants[name]


def _weight_quant(graph: IntegerGraph, op: Op) -> QuantParams:
    weight: Tensor = graph.tensors[op.inputs[1]]
    assert weight.quant is not None
    return weight.quant
