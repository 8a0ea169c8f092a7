"""The numpy kernels of every operation of the integer graph, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from edgeaudio_runtime import activation_kernels as activation
from edgeaudio_runtime import conv_kernels as conv
from edgeaudio_runtime import elementwise_kernels as elementwise
from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.graph_shapes import slice_bounds
from edgeaudio_runtime.kernel import Array, Kernel


def kernel(graph: IntegerGraph, op: Op, frames_per_step: int = 0) -> Kernel:
    """Bind ``op`` to its constants and its quantization.

    Args:
        graph: Where the operation's tensors and constants are.
        op: One of ``graph.ops``.
        frames_per_step: For a slice on time, the frames its output grows by with each network step; 0 keeps its length.

    Returns:
        A function from input arrays and number of steps to the output array.
    """
    if op.kind == "slice":
        return _slice_kernel(op, frames_per_step)
    bound = _KERNELS[op.kind](graph, op)
    return _held(graph, op, bound) if op.kind in _PAIRWISE else bound


def _held(graph: IntegerGraph, op: Op, bound: Kernel) -> Kernel:
    """Several steps at once: the one frame that an operand has for a step stands for every frame of that step."""
    frames = [graph.tensors[name].shape[1] for name in op.inputs]
    held = frames.index(min(frames))
    if frames[0] == frames[1] or op.inputs[held] in graph.constants:
        return bound

    def run(arrays: list[Array], steps: int) -> Array:
        if steps > 1:
            arrays = list(arrays)
            arrays[held] = np.repeat(arrays[held], max(frames), axis=1)
        return bound(arrays, steps)

    return run


def _slice_kernel(op: Op, frames_per_step: int) -> Kernel:
    start, stop = slice_bounds(op)
    if op.attrs["axis"] == 3:
        return lambda arrays, steps: arrays[0][..., start:stop]
    if op.attrs["axis"] == 2:
        return lambda arrays, steps: arrays[0][:, :, start:stop]
    end = stop or None
    return lambda arrays, steps: arrays[0][:, start - (steps - 1) * frames_per_step : end]


def _concat_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    axis = int(op.attrs["axis"])
    return lambda arrays, steps: np.concatenate(arrays, axis=axis)


def _merge_frequency_kernel(graph: IntegerGraph, op: Op) -> Kernel:
    return lambda arrays, steps: arrays[0].reshape(*arrays[0].shape[:2], 1, -1)


_PAIRWISE = frozenset({"add", "sub", "mul"})

_KERNELS: Mapping[str, Callable[[IntegerGraph, Op], Kernel]] = MappingProxyType(
    {
        "conv": conv.conv_kernel,
        "fully_connected": conv.fully_connected_kernel,
        "add": elementwise.add_kernel,
        "sub": elementwise.sub_kernel,
        "mul": elementwise.mul_kernel,
        "relu": elementwise.relu_kernel,
        "clamp": elementwise.clamp_kernel,
        "quantize": elementwise.quantize_kernel,
        "dequantize": elementwise.dequantize_kernel,
        "requantize": elementwise.requantize_kernel,
        "concat": _concat_kernel,
        "merge_frequency": _merge_frequency_kernel,
        "mean_frequency": activation.mean_frequency_kernel,
        "sigmoid": activation.sigmoid_kernel,
        "tanh": activation.tanh_kernel,
        "softmax": activation.softmax_kernel,
    }
)
