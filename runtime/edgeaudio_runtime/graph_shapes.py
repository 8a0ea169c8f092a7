"""Shapes and quantization an operation must have: what a reader checks before it runs a graph from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor

Shape = tuple[int, ...]

MAX_ELEMENTS = 2**26
"""Elements a tensor may have; a larger shape is a damaged or hostile file, not a small audio model."""

_MAX_ATTRIBUTE = 2**20
"""Largest stride, dilation, padding or index; beyond, products of them leave 64 bits."""

_SHARED_QUANT = frozenset({"concat", "slice", "relu", "clamp", "merge_frequency"})


def check_shapes(graph: IntegerGraph) -> None:
    """Check every operation's tensors against its kind.

    Raises:
        SpecError: an operation has a wrong number of tensors, a shape that does not follow from its inputs, or breaks a
            rule of quantization (shared parameters, int32 biases, per-tensor activations).
    """
    for op in graph.ops:
        if len(op.outputs) != 1:
            raise SpecError(f"operation {op.kind!r} has {len(op.outputs)} outputs; it must have 1")
        inputs = [graph.tensors[name] for name in op.inputs]
        output = graph.tensors[op.outputs[0]]
        try:
            expected = _SHAPES[op.kind](op, inputs)
        except SpecError:
            raise
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise SpecError(
                f"operation {_label(op)}: wrong number or rank of inputs or attributes ({error!r})"
            ) from error
        if output.shape != expected:
            raise SpecError(f"operation {_label(op)}: output shape {list(output.shape)} must be {list(expected)}")
        _check_activations(graph, op, inputs, output)
        _check_quantization(op, inputs, output)
    _check_boundary(graph)


def _check_boundary(graph: IntegerGraph) -> None:
    for name in (graph.input, graph.output, *(state.input for state in graph.states)):
        tensor = graph.tensors[name]
        if len(tensor.shape) != 4 or tensor.shape[0] != 1:
            raise SpecError(f"tensor {name!r}: shape={list(tensor.shape)} must be [1, T, F, C]")
    if graph.output_tensor.shape[2] != 1:
        raise SpecError(f"output {graph.output!r}: shape={list(graph.output_tensor.shape)} must be [1, T, 1, n_labels]")


def _check_activations(graph: IntegerGraph, op: Op, inputs: list[Tensor], output: Tensor) -> None:
    widens_constant = op.kind == "dequantize" and inputs[0].name in graph.constants
    for tensor in (output,) if widens_constant else (inputs[0], output):
        if tensor.quant is not None and tensor.quant.axis is not None:
            raise SpecError(f"operation {_label(op)}: activation {tensor.name!r} must be quantized per tensor")
        if tensor.dtype == "int16" and tensor.zero_code != 0:
            raise SpecError(f"operation {_label(op)}: zero_point={tensor.zero_code} of int16 {tensor.name!r} must be 0")
    if widens_constant and inputs[0].quant is not None and inputs[0].quant.axis not in {None, 0}:
        raise SpecError(f"operation {_label(op)}: constant {inputs[0].name!r} must be per tensor or along axis 0")
    halves = [tensor.name for tensor in inputs if tensor.dtype == "float16"]
    if halves and op.kind != "dequantize":
        raise SpecError(f"operation {_label(op)}: {halves} are float16; widen them with dequantize first")


def _check_quantization(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    if op.kind in _SHARED_QUANT and any(tensor.quant != output.quant for tensor in inputs):
        raise SpecError(f"operation {_label(op)}: inputs and output must share scale and zero point")
    if op.kind in {"conv", "fully_connected"} and output.dtype != "float32":
        _check_weights(op, inputs, output)
    if op.kind == "quantize" and (inputs[0].dtype != "float32" or output.dtype == "float32"):
        raise SpecError(f"operation {_label(op)}: quantize goes from float32 to codes")
    if op.kind == "dequantize" and (inputs[0].dtype == "float32" or output.dtype != "float32"):
        raise SpecError(f"operation {_label(op)}: dequantize goes from codes to float32")
    strangers = [tensor for tensor in inputs if (tensor.dtype == "float32") != (output.dtype == "float32")]
    if strangers and op.kind not in {"quantize", "dequantize"}:
        raise SpecError(
            f"operation {_label(op)}: input {strangers[0].dtype} and output {output.dtype} mix codes and float32"
        )


def _check_weights(op: Op, inputs: list[Tensor], output: Tensor) -> None:
    weight, bias = inputs[1], inputs[2]
    if weight.dtype != "int8" or bias.dtype != "int32" or output.dtype not in {"int8", "int16"}:
        raise SpecError(
            f"operation {_label(op)}: weight {weight.dtype}, bias {bias.dtype}; they must be int8 and int32"
        )
    if weight.quant is None or weight.quant.zero_point != 0 or weight.quant.axis not in {None, 0}:
        raise SpecError(
            f"operation {_label(op)}: weight {weight.name!r} must be symmetric, per tensor or per channel along axis 0"
        )
    if len(weight.quant.scale) not in {1, weight.shape[0]}:
        raise SpecError(
            f"operation {_label(op)}: {weight.name!r}: {len(weight.quant.scale)} scales for {weight.shape[0]} channels"
        )


def _conv(op: Op, inputs: list[Tensor]) -> Shape:
    x, weight, bias = inputs
    n, frames, bins, channels = x.shape
    out_channels, kernel_t, kernel_f, in_channels = weight.shape
    groups = op.attrs.get("groups", 1)
    if groups < 1 or channels != in_channels * groups or out_channels % groups or bias.shape != (out_channels,):
        raise SpecError(
            f"operation {_label(op)}: {weight.shape}, {bias.shape}, groups={groups} do not fit {channels} channels"
        )
    (stride_t, stride_f), (dilation_t, dilation_f) = op.attrs.get("stride", (1, 1)), op.attrs.get("dilation", (1, 1))
    pad_low, pad_high = op.attrs.get("pad_f", (0, 0))
    _check_integers(op, stride_t, stride_f, dilation_t, dilation_f, pad_low, pad_high, groups)
    if min(stride_t, stride_f, dilation_t, dilation_f) < 1 or min(pad_low, pad_high) < 0:
        raise SpecError(f"operation {_label(op)}: stride and dilation must be >= 1, pad_f >= 0")
    if n * frames * (bins + pad_low + pad_high) * channels > MAX_ELEMENTS:
        raise SpecError(f"operation {_label(op)}: pad_f={[pad_low, pad_high]} makes more than {MAX_ELEMENTS} elements")
    out_t = (frames - dilation_t * (kernel_t - 1) - 1) // stride_t + 1
    out_f = (bins + pad_low + pad_high - dilation_f * (kernel_f - 1) - 1) // stride_f + 1
    return (n, out_t, out_f, out_channels)


def _fully_connected(op: Op, inputs: list[Tensor]) -> Shape:
    x, weight, bias = inputs
    if weight.shape[1:] != (x.shape[-1],) or bias.shape != (weight.shape[0],):
        raise SpecError(
            f"operation {_label(op)}: weight {weight.shape} and bias {bias.shape} do not fit {x.shape[-1]} channels"
        )
    return (*x.shape[:-1], weight.shape[0])


def _elementwise(op: Op, inputs: list[Tensor]) -> Shape:
    first, second = inputs
    shape = tuple(map(max, first.shape, second.shape))
    for tensor in (first, second):
        if len(tensor.shape) != 4 or any(have not in (want, 1) for have, want in zip(tensor.shape, shape, strict=True)):
            raise SpecError(f"operation {_label(op)}: shapes {list(first.shape)} and {list(second.shape)} do not fit")
    return shape


def _concat(op: Op, inputs: list[Tensor]) -> Shape:
    axis = _axis(op)
    first = inputs[0].shape
    for tensor in inputs:
        if len(tensor.shape) != 4 or any(tensor.shape[i] != first[i] for i in range(4) if i != axis):
            raise SpecError(
                f"operation {_label(op)}: shapes {[list(t.shape) for t in inputs]} differ beside axis {axis}"
            )
    return (*first[:axis], sum(t.shape[axis] for t in inputs), *first[axis + 1 :])


def _slice(op: Op, inputs: list[Tensor]) -> Shape:
    axis, (start, stop) = _axis(op), slice_bounds(op)
    shape = inputs[0].shape
    size = shape[axis]
    low, high = (size + start, size + stop) if axis == 1 else (start, stop)
    if not 0 <= low < high <= size:
        raise SpecError(
            f"operation {_label(op)}: start={start}, stop={stop} must select a part of {size} along axis {axis}"
        )
    return (*shape[:axis], high - low, *shape[axis + 1 :])


def slice_bounds(op: Op) -> tuple[int, int]:
    """``start`` and ``stop`` of a slice; on time both count from the end, checked."""
    start, stop = op.attrs["start"], op.attrs["stop"]
    _check_integers(op, start, stop)
    if op.attrs["axis"] == 1 and not (start < 0 and start < stop <= 0):
        raise SpecError(
            f"operation {_label(op)}: start={start}, stop={stop} on time must count from the end: start < stop <= 0"
        )
    return start, stop


def _axis(op: Op) -> int:
    axis = op.attrs["axis"]
    if axis not in (1, 2, 3):
        raise SpecError(f"operation {_label(op)}: axis={axis} must be 1 (time), 2 (frequency) or 3 (channels)")
    return int(axis)


def _same(op: Op, inputs: list[Tensor]) -> Shape:
    (x,) = inputs
    return x.shape


def _clamp(op: Op, inputs: list[Tensor]) -> Shape:
    low, high, quant = op.attrs["low"], op.attrs["high"], inputs[0].quant
    _check_integers(op, low, high)
    if quant is None or not quant.low <= low <= high <= quant.high:
        raise SpecError(f"operation {_label(op)}: low={low} and high={high} must be codes of its tensor, low <= high")
    return _same(op, inputs)


def _check_integers(op: Op, *values: object) -> None:
    wrong = [value for value in values if type(value) is not int or abs(value) > _MAX_ATTRIBUTE]
    if wrong:
        raise SpecError(f"operation {_label(op)}: attributes {wrong} must be whole numbers up to {_MAX_ATTRIBUTE}")


def _mean_frequency(op: Op, inputs: list[Tensor]) -> Shape:
    (x,) = inputs
    return (x.shape[0], x.shape[1], 1, x.shape[3])


def _merge_frequency(op: Op, inputs: list[Tensor]) -> Shape:
    (x,) = inputs
    return (x.shape[0], x.shape[1], 1, x.shape[2] * x.shape[3])


def _label(op: Op) -> str:
    return f"{op.kind!r} ({op.name or op.outputs[0]})"


_SHAPES: Mapping[str, Callable[[Op, list[Tensor]], Shape]] = MappingProxyType(
    {
        "conv": _conv,
        "fully_connected": _fully_connected,
        "add": _elementwise,
        "sub": _elementwise,
        "mul": _elementwise,
        "mean_frequency": _mean_frequency,
        "merge_frequency": _merge_frequency,
        "concat": _concat,
        "slice": _slice,
        "relu": _same,
        "clamp": _clamp,
        "sigmoid": _same,
        "tanh": _same,
        "softmax": _same,
        "quantize": _same,
        "dequantize": _same,
        "requantize": _same,
    }
)
