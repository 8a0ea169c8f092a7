"""The integer graph as a ``.tflite`` file.

Operators are chosen so that XNNPACK, LiteRT's default delegate, takes the whole graph and follows requantization rule
"fp32": a fully connected layer is a 1x1 convolution, a mean over frequency or a change of parameters a depthwise one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.long_averages import band_matrix
from edgeaudio_export.targets.tflite_writer import TfliteWriter, fused_activation
from edgeaudio_export.targets.unit_depthwise import unit_depthwise
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.graph_shapes import slice_bounds
from edgeaudio_runtime.quantization import QuantParams

_Code = schema.BuiltinOperator
_Options = schema.BuiltinOptions
_MAX_DEPTHWISE_TAPS = 25
"""XNNPACK has depthwise kernels up to 25 taps; beyond, it runs a matrix product per channel, 20 times slower."""


def to_tflite(graph: IntegerGraph) -> bytes:
    """Write ``graph`` as a TensorFlow Lite flatbuffer.

    Returns:
        The file: input ``features`` and ``state_<i>_in``, output ``logits`` and ``state_<i>_out``, all int8 codes,
        i the index in ``graph.states``. Every shape is ``[1, T, F, C]``.

    Raises:
        ExportError: the graph has int16 tensors, whose kernels in LiteRT follow another rounding.
    """
    if any(tensor.dtype == "int16" for tensor in graph.tensors.values()):
        names = sorted(t.name for t in graph.tensors.values() if t.dtype == "int16")
        raise ExportError(
            f"tensors {names[:3]} are int16, which the tflite target does not write; quantize them to int8"
        )
    writer = TfliteWriter(graph)
    writer.begin()
    for op in graph.ops:
        _EMITTERS[op.kind](writer, op)
    return writer.finish()


def _conv(writer: TfliteWriter, op: Op) -> None:
    graph = writer.graph
    x = graph.tensors[op.inputs[0]]
    weight, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
    source = writer.tensor(op.inputs[0])
    band = band_matrix(graph, op) if weight.shape[1] > _MAX_DEPTHWISE_TAPS else None
    if band is not None:
        _long_average(writer, op, band)
        return
    pad = tuple(op.attrs.get("pad_f", (0, 0)))
    if pad != (0, 0):
        source = _pad_frequency(writer, op, source, x, pad)
    groups = int(op.attrs.get("groups", 1))
    depthwise = groups == x.shape[3] and groups > 1
    attrs = {**op.attrs, "depth_multiplier": weight.shape[0] // groups}
    writer.convolve(
        source,
        writer.tensor(op.outputs[0]),
        graph.constants[weight.name],
        weight.quant,
        graph.constants[bias.name],
        bias.quant,
        label=op.outputs[0],
        depthwise=depthwise,
        attrs=attrs,
    )


def _long_average(writer: TfliteWriter, op: Op, band: npt.NDArray[np.int8]) -> None:
    """A depthwise convolution whose channels are all alike, as a product over time: the same integers, faster."""
    graph = writer.graph
    x, out, weight, bias = (graph.tensors[name] for name in (op.inputs[0], op.outputs[0], *op.inputs[1:]))
    n, frames, _, channels = x.shape
    out_frames, label = out.shape[1], writer.names.get(op.outputs[0], op.outputs[0])
    turned = writer.intermediate(f"{label}/time_last", x, (n, channels, 1, frames))
    _transpose(writer, writer.tensor(op.inputs[0]), turned)
    product = writer.intermediate(f"{label}/average", out, (n, channels, 1, out_frames))
    writer.convolve(
        turned,
        product,
        band,
        _first_channel(weight.quant),
        graph.constants[bias.name][:1].repeat(out_frames),
        _first_channel(bias.quant),
        label=label,
        depthwise=False,
        attrs={"relu": op.attrs.get("relu", False)},
    )
    if out_frames == 1:
        writer.reshape(product, writer.tensor(op.outputs[0]), out.shape)
    else:
        _transpose(writer, product, writer.tensor(op.outputs[0]))


def _first_channel(quant: QuantParams | None) -> QuantParams | None:
    return None if quant is None else replace(quant, scale=quant.scale[:1], axis=None)


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
    graph = writer.graph
    weight, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
    data = graph.constants[weight.name]
    writer.convolve(
        writer.tensor(op.inputs[0]),
        writer.tensor(op.outputs[0]),
        data.reshape(data.shape[0], 1, 1, data.shape[1]),
        weight.quant,
        graph.constants[bias.name],
        bias.quant,
        label=op.outputs[0],
        depthwise=False,
        attrs=op.attrs,
    )


def _mean_frequency(writer: TfliteWriter, op: Op) -> None:
    _unit_depthwise(writer, op, bins=writer.graph.tensors[op.inputs[0]].shape[2])


def _requantize(writer: TfliteWriter, op: Op) -> None:
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
    _binary(writer, op, _Code.ADD, _Options.AddOptions, schema.AddOptionsT())


def _sub(writer: TfliteWriter, op: Op) -> None:
    _binary(writer, op, _Code.SUB, _Options.SubOptions, schema.SubOptionsT())


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
        "sigmoid": _unary(_Code.LOGISTIC),
        "tanh": _unary(_Code.TANH),
        "softmax": _unary(_Code.SOFTMAX, _Options.SoftmaxOptions, _softmax_options),
        "quantize": _unary(_Code.QUANTIZE, _Options.QuantizeOptions, schema.QuantizeOptionsT, version=1),
        "dequantize": _unary(_Code.DEQUANTIZE, _Options.DequantizeOptions, schema.DequantizeOptionsT),
        "requantize": _requantize,
    }
)
