"""The integer graph as an ONNX file; all of it that is int8 gives the same codes at every optimization level.

Convolutions on int8 codes are QLinearConv with int32 biases: as DequantizeLinear, Conv, QuantizeLinear they would be
float arithmetic wherever a session's options keep them from being fused, and 6 % of a net's codes then differ.
The other operations keep the DequantizeLinear, operation, QuantizeLinear form, which is exact for them. A relu is the
saturation at the zero point or a Clip on codes. What has int16 codes is that form throughout, and float islands are
plain float32 operations whose weights a DequantizeLinear or Cast widens where they are stored narrow. Inside, tensors
are ``[N, C, T, F]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from edgeaudio_export.targets.inner_names import with_inner_names
from edgeaudio_export.targets.onnx_writer import TO_CHANNELS_FIRST, OnnxWriter
from edgeaudio_export.targets.stored_constants import stored_constants
from edgeaudio_export.targets.unit_depthwise import unit_depthwise
from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.graph_shapes import slice_bounds
from edgeaudio_runtime.requantization import float_multiplier

_END = np.iinfo(np.int64).max


def to_onnx(graph: IntegerGraph) -> bytes:
    """Write ``graph`` as an ONNX model.

    Returns:
        The file: input ``features`` and output ``logits`` as codes ``[1, T, F, C]``; ``state_<i>_in`` and
        ``state_<i>_out`` as codes (float32 in float islands) ``[1, C, T, F]``, i the index in ``graph.states``. The
        graph's name and requantization rule stand in the model's metadata.

    Raises:
        ExportError: weights are computed from activations.

    ONNX Runtime has no integer kernels for int16 codes: those operations are DequantizeLinear, float32, QuantizeLinear
    (opset 21), which rounds like no engine that computes in integers.
    """
    writer = OnnxWriter(with_inner_names(graph))
    writer.begin()
    for op in writer.graph.ops:
        _EMITTERS[op.kind](writer, op)
    model = writer.finish()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _conv(writer: OnnxWriter, op: Op) -> None:
    writer.convolve(op, *stored_constants(writer.graph, op), op.attrs)


def _fully_connected(writer: OnnxWriter, op: Op) -> None:
    weight, bias = stored_constants(writer.graph, op)
    out_channels, channels = weight.data.shape
    writer.convolve(op, weight.shaped(out_channels, 1, 1, channels), bias, op.attrs)


def _mean_frequency(writer: OnnxWriter, op: Op) -> None:
    _unit_depthwise(writer, op, bins=writer.graph.tensors[op.inputs[0]].shape[2])


def _requantize(writer: OnnxWriter, op: Op) -> None:
    if writer.is_int16(op):
        writer.write_real(op, writer.real(op.inputs[0], op))
    else:
        _unit_depthwise(writer, op, bins=1)


def _unit_depthwise(writer: OnnxWriter, op: Op, *, bins: int) -> None:
    """Sum over ``bins`` bins with weight 1 of scale ``1 / bins``: the form whose rounding every engine shares."""
    weight, bias = unit_depthwise(writer.graph.tensors[op.inputs[0]], bins)
    writer.convolve(op, weight, bias, {"groups": weight.data.shape[0]})


def _concat(writer: OnnxWriter, op: Op) -> None:
    writer.node("Concat", [writer.value(name) for name in op.inputs], op.outputs[0], axis=_axis(op))


def _slice(writer: OnnxWriter, op: Op) -> None:
    start, stop = slice_bounds(op)
    end = _END if op.attrs["axis"] == 1 and stop == 0 else stop
    bounds = (("start", start), ("end", end), ("axis", _axis(op)))
    inputs = [writer.constant(f"{op.outputs[0]}/{name}", np.asarray([number], np.int64)) for name, number in bounds]
    writer.node("Slice", [writer.value(op.inputs[0]), *inputs], op.outputs[0])


def _axis(op: Op) -> int:
    return TO_CHANNELS_FIRST.index(op.attrs["axis"])


def _merge_frequency(writer: OnnxWriter, op: Op) -> None:
    n, frames, _, channels = writer.graph.tensors[op.outputs[0]].shape
    label = op.outputs[0]
    turned = writer.node("Transpose", [writer.value(op.inputs[0])], f"{label}/frequency_first", perm=(0, 3, 1, 2))
    shape = writer.constant(f"{label}/shape", np.asarray([n, channels, frames, 1], np.int64))
    writer.node("Reshape", [turned, shape], label)


def _relu(writer: OnnxWriter, op: Op) -> None:
    tensor = writer.graph.tensors[op.inputs[0]]
    if tensor.quant is None:
        writer.node("Relu", [writer.value(op.inputs[0])], op.outputs[0])
    elif tensor.dtype == "int16":
        _real("Relu")(writer, op)
    else:
        zero, high = tensor.quant.zero_point, tensor.quant.high
        writer.clip(writer.value(op.inputs[0]), op.outputs[0], tensor.dtype, zero, high)


def _clamp(writer: OnnxWriter, op: Op) -> None:
    tensor, (low, high) = writer.graph.tensors[op.inputs[0]], (op.attrs["low"], op.attrs["high"])
    if tensor.quant is None or tensor.dtype != "int16":
        writer.clip(writer.value(op.inputs[0]), op.outputs[0], tensor.dtype, low, high)
        return
    # Clip has no int16 kernel; in units of codes float32 is exact.
    unit, label = replace(tensor.quant, scale=(1.0,)), op.outputs[0]
    real = writer.dequantize(writer.value(op.inputs[0]), unit, f"{label}/real")
    writer.clip(real, f"{label}/clipped", "float32", low, high)
    writer.quantize(f"{label}/clipped", unit, label)


def _real(kind: str, **attributes: Any) -> Callable[[OnnxWriter, Op], None]:
    """An operation on dequantized inputs."""

    def emit(writer: OnnxWriter, op: Op) -> None:
        inputs = [writer.real(name, op) for name in op.inputs]
        writer.write_real(op, writer.node(kind, inputs, f"{op.outputs[0]}/real", **attributes))

    return emit


def _mul(writer: OnnxWriter, op: Op) -> None:
    """The integer product times one float32 multiplier: DQ, Mul, Q would round in another order on exact ties."""
    first, second, output = (writer.graph.tensors[name] for name in (*op.inputs, *op.outputs))
    if first.quant is None or second.quant is None or output.quant is None:
        _real("Mul")(writer, op)
        return
    label = output.name
    centred = [
        writer.dequantize(writer.value(tensor.name), replace(tensor.quant, scale=(1.0,)), f"{label}/centred_{i}")
        for i, tensor in enumerate((first, second))
        if tensor.quant is not None
    ]
    product = writer.node("Mul", centred, f"{label}/product")
    multiplier = float_multiplier(first.quant.scale[0], second.quant.scale[0], output.quant.scale[0])
    scaled = writer.node("Mul", [product, writer.constant(f"{label}/multiplier", multiplier)], f"{label}/scaled")
    writer.write_real(op, scaled, replace(output.quant, scale=(1.0,)))


def _quantize(writer: OnnxWriter, op: Op) -> None:
    quant = writer.graph.tensors[op.outputs[0]].quant
    assert quant is not None
    writer.quantize(writer.value(op.inputs[0]), quant, op.outputs[0])


def _dequantize(writer: OnnxWriter, op: Op) -> None:
    if op.inputs[0] in writer.graph.constants:
        return  # widened where it is read, in the layout that its reader wants
    quant = writer.graph.tensors[op.inputs[0]].quant
    assert quant is not None
    writer.dequantize(writer.value(op.inputs[0]), quant, op.outputs[0])


_EMITTERS: Mapping[str, Callable[[OnnxWriter, Op], None]] = MappingProxyType(
    {
        "conv": _conv,
        "fully_connected": _fully_connected,
        "add": _real("Add"),
        "sub": _real("Sub"),
        "mul": _mul,
        "mean_frequency": _mean_frequency,
        "merge_frequency": _merge_frequency,
        "concat": _concat,
        "slice": _slice,
        "relu": _relu,
        "clamp": _clamp,
        "sigmoid": _real("Sigmoid"),
        "tanh": _real("Tanh"),
        "softmax": _real("Softmax", axis=1),
        "quantize": _quantize,
        "dequantize": _dequantize,
        "requantize": _requantize,
    }
)
