"""The integer graph as a ``.tflite`` file.

Operators are chosen so that XNNPACK, LiteRT's default delegate, takes the whole graph and follows requantization rule
"fp32": a fully connected layer is a 1x1 convolution, a mean over frequency or a change of parameters a depthwise one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.long_averages import band_matrix
from edgeaudio_export.targets.stored_constants import StoredConstant, stored_constants
from edgeaudio_export.targets.tflite_writer import TfliteWriter, fused_activation
from edgeaudio_export.targets.unit_depthwise import unit_depthwise
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.graph_shapes import slice_bounds

_Code = schema.BuiltinOperator
_Options = schema.BuiltinOptions
_MAX_DEPTHWISE_TAPS = 25
"""XNNPACK has depthwise kernels up to 25 taps; beyond, it runs a matrix product per channel, 20 times slower."""


def to_tflite(graph: IntegerGraph) -> bytes:
    """Write ``graph`` as a TensorFlow Lite flatbuffer.

    Returns:
        The file: input ``features`` and ``state_<i>_in``, output ``logits`` and ``state_<i>_out``, codes (states of
        float islands float32), i the index in ``graph.states``. Every shape is ``[1, T, F, C]``.

    Raises:
        ExportError: an operation mixes int8 and int16, for which LiteRT has no kernel.
    """
    writer = TfliteWriter(graph)
    writer.begin()
    for op in graph.ops:
        _check_one_type(graph, op)
        _EMITTERS[op.kind](writer, op)
    return writer.finish()


def _check_one_type(graph: IntegerGraph, op: Op) -> None:
    if op.kind in {"quantize", "dequantize", "requantize"}:
        return
    read = op.inputs[:1] if op.kind in {"conv", "fully_connected"} else op.inputs
    types = [graph.tensors[name].dtype for name in (*read, *op.outputs)]
    if len(set(types)) > 1:
        raise ExportError(
            f"operation {op.kind!r} ({op.name or op.outputs[0]}) has tensors of types {types}, for which LiteRT has no "
            "kernel; requantize its inputs to the type of its output"
        )


def _conv(writer: TfliteWriter, op: Op) -> None:
    graph = writer.graph
    x, out_channels = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]].shape[3]
    weight, bias = stored_constants(graph, op)
    band = band_matrix(graph, op) if weight.data.shape[1] > _MAX_DEPTHWISE_TAPS else None
    if band is not None:
        _long_average(writer, op, weight.of_one_channel(band), bias)
        return
    source, pad = writer.tensor(op.inputs[0]), tuple(op.attrs.get("pad_f", (0, 0)))
    if pad != (0, 0):
        source = _pad_frequency(writer, op, source, x, pad)
    groups = int(op.attrs.get("groups", 1))
    writer.convolve(
        source,
        writer.tensor(op.outputs[0]),
        weight,
        bias,
        label=op.outputs[0],
        depthwise=groups == x.shape[3] and groups > 1,
        attrs={**op.attrs, "depth_multiplier": out_channels // groups},
    )


def _long_average(writer: TfliteWriter, op: Op, band: StoredConstant, bias: StoredConstant) -> None:
    """A depthwise convolution whose channels are all alike, as a product over time: the same integers, faster."""
    graph = writer.graph
    x, out = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    n, frames, _, channels = x.shape
    out_frames, label = out.shape[1], writer.names.get(op.outputs[0], op.outputs[0])
    turned = writer.intermediate(f"{label}/time_last", x, (n, channels, 1, frames))
    _transpose(writer, writer.tensor(op.inputs[0]), turned)
    product = writer.intermediate(f"{label}/average", out, (n, channels, 1, out_frames))
    writer.convolve(
        turned,
        product,
        band,
        bias.of_one_channel(bias.data[:1].repeat(out_frames)),
        label=label,
        depthwise=False,
        attrs={"relu": op.attrs.get("relu", False)},
    )
    if out_frames == 1:
        writer.reshape(product, writer.tensor(op.outputs[0]), out.shape)
    else:
        _transpose(writer, product, writer.tensor(op.outputs[0]))


def _transpose(writer: TfliteWriter, source: int, target: int) -> None:
    """Swap time and channels."""
    inputs = [source, writer.file.integers("permutation", [0, 3, 2, 1])]
    writer.file.operator(
        _Code.TRANSPOSE, inputs, [target], _Options.TransposeOptions, schema.TransposeOptionsT(), version=2
    )


def _pad_frequency(writer: TfliteWriter, op: Op, source: int, x: Tensor, pad: tuple[int, ...]) -> int:
    rows = [[0, 0], [0, 0], list(pad), [0, 0]]
    amounts = writer.file.tensor(f"{op.outputs[0]}/padding", (4, 2), "int32", data=np.asarray(rows, np.int32))
    shape = (x.shape[0], x.shape[1], x.shape[2] + sum(pad), x.shape[3])
    padded = writer.intermediate(f"{op.outputs[0]}/padded", x, shape)
    writer.file.operator(_Code.PAD, [source, amounts], [padded], _Options.PadOptions, schema.PadOptionsT(), version=2)
    return padded


def _fully_connected(writer: TfliteWriter, op: Op) -> None:
    weight, bias = stored_constants(writer.graph, op)
    out_channels, channels = weight.data.shape
    writer.convolve(
        writer.tensor(op.inputs[0]),
        writer.tensor(op.outputs[0]),
        weight.shaped(out_channels, 1, 1, channels),
        bias,
        label=op.outputs[0],
        depthwise=False,
        attrs=op.attrs,
    )


def _mean_frequency(writer: TfliteWriter, op: Op) -> None:
    _unit_depthwise(writer, op, bins=writer.graph.tensors[op.inputs[0]].shape[2])


def _requantize(writer: TfliteWriter, op: Op) -> None:
    if "int16" in {writer.graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}:
        _quantize(writer, op)
    else:
        _unit_depthwise(writer, op, bins=1)


def _unit_depthwise(writer: TfliteWriter, op: Op, *, bins: int) -> None:
    """Sum over ``bins`` bins with weight 1 of scale ``1 / bins``: the only form whose rounding every engine shares."""
    unit = unit_depthwise(writer.graph.tensors[op.inputs[0]], bins)
    writer.convolve(
        writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0]), *unit, label=op.outputs[0], depthwise=True, attrs={}
    )


def _merge_frequency(writer: TfliteWriter, op: Op) -> None:
    shape = writer.graph.tensors[op.outputs[0]].shape
    writer.reshape(writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0]), shape)


def _concat(writer: TfliteWriter, op: Op) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = int(op.attrs["axis"])
    inputs = [writer.tensor(name) for name in op.inputs]
    writer.file.operator(
        _Code.CONCATENATION, inputs, [writer.tensor(op.outputs[0])], _Options.ConcatenationOptions, options, version=2
    )


def _slice(writer: TfliteWriter, op: Op) -> None:
    start, _ = slice_bounds(op)
    source, target = writer.graph.tensors[op.inputs[0]], writer.graph.tensors[op.outputs[0]]
    begin, axis = [0, 0, 0, 0], int(op.attrs["axis"])
    begin[axis] = start + source.shape[1] if op.attrs["axis"] == 1 else start
    size = list(target.shape)
    inputs = [writer.tensor(op.inputs[0]), writer.file.integers("begin", begin), writer.file.integers("size", size)]
    writer.file.operator(
        _Code.SLICE, inputs, [writer.tensor(op.outputs[0])], _Options.SliceOptions, schema.SliceOptionsT(), version=2
    )


def _add(writer: TfliteWriter, op: Op) -> None:
    options = schema.AddOptionsT()
    options.potScaleInt16 = False
    _binary(writer, op, _Code.ADD, _Options.AddOptions, options)


def _sub(writer: TfliteWriter, op: Op) -> None:
    options = schema.SubOptionsT()
    options.potScaleInt16 = False
    _binary(writer, op, _Code.SUB, _Options.SubOptions, options)


def _mul(writer: TfliteWriter, op: Op) -> None:
    _binary(writer, op, _Code.MUL, _Options.MulOptions, schema.MulOptionsT())


def _binary(writer: TfliteWriter, op: Op, code: int, options_type: int, options: Any) -> None:
    options.fusedActivationFunction = fused_activation(op.attrs)
    inputs = [writer.tensor(name) for name in op.inputs]
    writer.file.operator(code, inputs, [writer.tensor(op.outputs[0])], options_type, options, version=2)


def _unary(code: int, options_type: int = 0, options: Callable[[], object] | None = None, version: int = 2) -> Any:
    def emit(writer: TfliteWriter, op: Op) -> None:
        built = None if options is None else options()
        inputs, outputs = [writer.tensor(op.inputs[0])], [writer.tensor(op.outputs[0])]
        writer.file.operator(code, inputs, outputs, options_type, built, version=version)

    return emit


def _quantize(writer: TfliteWriter, op: Op) -> None:
    writer.quantize(writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0]))


def _dequantize(writer: TfliteWriter, op: Op) -> None:
    # A constant is widened where it is read, in the layout that its reader wants.
    if op.inputs[0] not in writer.graph.constants:
        writer.dequantize(writer.tensor(op.inputs[0]), writer.tensor(op.outputs[0]))


def _function(code: int, options_type: int = 0, options: Callable[[], object] | None = None) -> Any:
    """An operation of one input; on int16 codes it is computed in float32, as LiteRT's int16 kernels interpolate
    tables (22 to 30 % of the codes off, by up to 3) and fix the scale of the result."""
    plain = _unary(code, options_type, options)

    def emit(writer: TfliteWriter, op: Op) -> None:
        x = writer.graph.tensors[op.inputs[0]]
        if x.dtype != "int16":
            plain(writer, op)
            return
        label = writer.names.get(op.outputs[0], op.outputs[0])
        real, result = (writer.file.tensor(f"{label}/{name}", x.shape, "float32") for name in ("real", "result"))
        writer.dequantize(writer.tensor(op.inputs[0]), real)
        built = None if options is None else options()
        writer.file.operator(code, [real], [result], options_type, built)
        writer.quantize(result, writer.tensor(op.outputs[0]))

    return emit


def _softmax_options() -> object:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return options


def _clamp(writer: TfliteWriter, op: Op) -> None:
    tensor = writer.graph.tensors[op.inputs[0]]
    label = writer.names.get(op.outputs[0], op.outputs[0])
    middle = writer.intermediate(f"{label}/clamped_below", tensor, tensor.shape)
    for code, source, target, bound in (
        (_Code.MAXIMUM, writer.tensor(op.inputs[0]), middle, op.attrs["low"]),
        (_Code.MINIMUM, middle, writer.tensor(op.outputs[0]), op.attrs["high"]),
    ):
        limit = writer.file.tensor(
            f"{label}/limit", (1, 1, 1, 1), tensor.dtype, tensor.quant, data=np.full((1, 1, 1, 1), bound, tensor.dtype)
        )
        writer.file.operator(
            code, [source, limit], [target], _Options.MaximumMinimumOptions, schema.MaximumMinimumOptionsT(), version=2
        )


_EMITTERS: Mapping[str, Callable[[TfliteWriter, Op], None]] = MappingProxyType(
    {
        "conv": _conv,
        "fully_connected": _fully_connected,
        "add": _add,
        "sub": _sub,
        "mul": _mul,
        "mean_frequency": _mean_frequency,
        "merge_frequency": _merge_frequency,
        "concat": _concat,
        "slice": _slice,
        "relu": _unary(_Code.RELU),
        "clamp": _clamp,
        "sigmoid": _function(_Code.LOGISTIC),
        "tanh": _function(_Code.TANH),
        "softmax": _function(_Code.SOFTMAX, _Options.SoftmaxOptions, _softmax_options),
        "quantize": _quantize,
        "dequantize": _dequantize,
        "requantize": _requantize,
    }
)
