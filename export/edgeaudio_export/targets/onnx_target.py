"""The integer graph as an ONNX file: DequantizeLinear, operation, QuantizeLinear, with int8 inputs, outputs and states.

ONNX Runtime fuses these triples into integer kernels that follow requantization rule "fp32". Biases are int32, so that no
optimizer has to round them; a relu is the saturation at the zero point or a Clip on codes, so that nothing stands between an
operation and its QuantizeLinear. Inside, tensors are ``[N, C, T, F]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.graph_shapes import slice_bounds
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.requantization import float_multiplier
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.unit_depthwise import unit_depthwise

OPSET = 20
_IR_VERSION = 9
_TO_CHANNELS_FIRST = (0, 3, 1, 2)
_TO_CHANNELS_LAST = (0, 2, 3, 1)
_ELEMENT_TYPES = {"int8": TensorProto.INT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
_END = np.iinfo(np.int64).max


def to_onnx(graph: IntegerGraph) -> bytes:
    """Write ``graph`` as an ONNX model.

    Returns:
        The file: input ``features`` and output ``logits`` as int8 codes ``[1, T, F, C]``; ``state_<i>_in`` and
        ``state_<i>_out`` as int8 codes ``[1, C, T, F]``, i the index in ``graph.states``. The graph's name and
        requantization rule stand in the model's metadata.

    Raises:
        ExportError: the graph has int16 tensors, which ONNX Runtime computes in float.
    """
    names = sorted(t.name for t in graph.tensors.values() if t.dtype == "int16")
    if names:
        raise ExportError(f"tensors {names[:3]} are int16, which the onnx target does not write; quantize them to int8")
    model = _Writer(graph).write()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class _Writer:
    """One pass over the graph."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        # The name a tensor has in the file; inputs have fixed ones.
        self.names = {state.input: f"state_{i}_in" for i, state in enumerate(graph.states)}
        self.names[graph.input] = "features/channels_first"

    def write(self) -> onnx.ModelProto:
        """Boundary, operations in order, boundary."""
        graph = self.graph
        self.node("Transpose", ["features"], self.names[graph.input], perm=_TO_CHANNELS_FIRST)
        for op in graph.ops:
            _EMITTERS[op.kind](self, op)
        self.node("Transpose", [self.value(graph.output)], "logits", perm=_TO_CHANNELS_LAST)
        for i, state in enumerate(graph.states):
            self.node("Identity", [self.value(state.output)], f"state_{i}_out")
        inputs = [self._info("features", graph.input_tensor, graph.input_tensor.shape)]
        outputs = [self._info("logits", graph.output_tensor, graph.output_tensor.shape)]
        for i, state in enumerate(graph.states):
            tensor = graph.tensors[state.input]
            inputs.append(self._info(f"state_{i}_in", tensor, channels_first(tensor.shape)))
            outputs.append(self._info(f"state_{i}_out", tensor, channels_first(tensor.shape)))
        body = helper.make_graph(self.nodes, graph.name, inputs, outputs, list(self.initializers.values()))
        model = helper.make_model(
            body, producer_name="edgeaudio", ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
        helper.set_model_props(model, {"edgeaudio.graph": graph.name, "edgeaudio.requantization": graph.requantization})
        return model

    def _info(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, _ELEMENT_TYPES[tensor.dtype], shape)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, data: npt.NDArray[Any]) -> str:
        """Add an initializer once and return its name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(data, order="C"), name)
        return name

    def value(self, name: str) -> str:
        """Name in the file of a graph tensor; a constant becomes an initializer."""
        if name in self.graph.constants and name not in self.names:
            data = self.graph.constants[name]
            self.names[name] = self.constant(name, data.transpose(_TO_CHANNELS_FIRST) if data.ndim == 4 else data)
        return self.names.get(name, name)

    def real(self, name: str, op: Op) -> str:
        """A graph tensor as float32: itself, or dequantized for this reader alone, as fusion wants it."""
        tensor = self.graph.tensors[name]
        if tensor.quant is None:
            return self.value(name)
        return self.dequantize(self.value(name), tensor.quant, f"{op.outputs[0]}/real_{op.inputs.index(name)}")

    def dequantize(self, codes: str, quant: QuantParams, output: str) -> str:
        return self.node("DequantizeLinear", [codes, *self.parameters(quant, output)], output)

    def quantize(self, real: str, quant: QuantParams, output: str) -> str:
        return self.node("QuantizeLinear", [real, *self.parameters(quant, output)], output)

    def parameters(self, quant: QuantParams, label: str) -> tuple[str, str]:
        scale = np.asarray(quant.scale, np.float32)
        zero = np.full(scale.shape, quant.zero_point, quant.dtype)
        if quant.axis is None:
            scale, zero = scale.reshape(()), zero.reshape(())
        return self.constant(f"{label}/scale", scale), self.constant(f"{label}/zero_point", zero)

    def finish(self, op: Op, real: str, quant: QuantParams | None = None) -> None:
        """From the float result of an operation to its output tensor, with its relu; ``quant`` where the unit is another."""
        output = self.graph.tensors[op.outputs[0]]
        quant = quant or output.quant
        relu = bool(op.attrs.get("relu"))
        if quant is None:
            self.names[output.name] = self.node("Relu", [real], output.name) if relu else real
        elif relu and quant.zero_point > quant.low:
            codes = self.quantize(real, quant, f"{output.name}/unclipped")
            self.clip(codes, output.name, output.dtype, quant.zero_point, quant.high)
        else:
            self.quantize(real, quant, output.name)

    def clip(self, codes: str, output: str, dtype: str, low: int, high: int) -> None:
        limits = [self.constant(f"{output}/low", np.asarray(low, dtype)), self.constant(f"{output}/high", np.asarray(high, dtype))]
        self.node("Clip", [codes, *limits], output)

    def convolve(
        self, op: Op, weight: npt.NDArray[Any], weight_quant: QuantParams | None, bias: npt.NDArray[Any], attrs: Mapping[str, Any],
    ) -> None:
        """A convolution with ``weight [O, KT, KF, C/groups]``: QLinearConv on codes, Conv on float32."""
        x, output = self.graph.tensors[op.inputs[0]], self.graph.tensors[op.outputs[0]]
        pad_low, pad_high = attrs.get("pad_f", (0, 0))
        attributes = {
            "kernel_shape": weight.shape[1:3], "strides": attrs.get("stride", (1, 1)), "dilations": attrs.get("dilation", (1, 1)),
            "group": int(attrs.get("groups", 1)), "pads": (0, pad_low, 0, pad_high),
        }
        label = output.name
        kernel = self.constant(f"{label}/weight", weight.transpose(_TO_CHANNELS_FIRST))
        offset = self.constant(f"{label}/bias", bias)
        if x.quant is None or output.quant is None or weight_quant is None:
            self.finish(op, self.node("Conv", [self.value(x.name), kernel, offset], f"{label}/real", **attributes))
            return
        inputs = [self.value(x.name), *self.parameters(x.quant, f"{label}/x"), kernel,
                  *self.parameters(weight_quant, f"{label}/weight"), *self.parameters(output.quant, f"{label}/y"), offset]
        clipped = bool(op.attrs.get("relu")) and output.quant.zero_point > output.quant.low
        codes = self.node("QLinearConv", inputs, f"{label}/unclipped" if clipped else label, **attributes)
        if clipped:
            self.clip(codes, label, output.dtype, output.quant.zero_point, output.quant.high)


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[N, T, F, C]`` as ``[N, C, T, F]``."""
    return tuple(shape[i] for i in _TO_CHANNELS_FIRST)


def _conv(writer: _Writer, op: Op) -> None:
    graph = writer.graph
    weight, bias = (graph.tensors[name] for name in op.inputs[1:])
    writer.convolve(op, graph.constants[weight.name], weight.quant, graph.constants[bias.name], op.attrs)


def _fully_connected(writer: _Writer, op: Op) -> None:
    graph = writer.graph
    weight, bias = (graph.tensors[name] for name in op.inputs[1:])
    pointwise = graph.constants[weight.name][:, None, None, :]
    writer.convolve(op, pointwise, weight.quant, graph.constants[bias.name], op.attrs)


def _mean_frequency(writer: _Writer, op: Op) -> None:
    _unit_depthwise(writer, op, bins=writer.graph.tensors[op.inputs[0]].shape[2])


def _requantize(writer: _Writer, op: Op) -> None:
    _unit_depthwise(writer, op, bins=1)


def _unit_depthwise(writer: _Writer, op: Op, *, bins: int) -> None:
    """Sum over ``bins`` bins with weight 1 of scale ``1 / bins``: the form whose rounding every engine shares."""
    weight, weight_quant, bias, _ = unit_depthwise(writer.graph.tensors[op.inputs[0]], bins)
    writer.convolve(op, weight, weight_quant, bias, {"groups": weight.shape[0]})


def _concat(writer: _Writer, op: Op) -> None:
    writer.node("Concat", [writer.value(name) for name in op.inputs], op.outputs[0], axis=_axis(op))


def _slice(writer: _Writer, op: Op) -> None:
    start, stop = slice_bounds(op)
    end = _END if op.attrs["axis"] == 1 and stop == 0 else stop
    bounds = (("start", start), ("end", end), ("axis", _axis(op)))
    inputs = [writer.constant(f"{op.outputs[0]}/{name}", np.asarray([number], np.int64)) for name, number in bounds]
    writer.node("Slice", [writer.value(op.inputs[0]), *inputs], op.outputs[0])


def _axis(op: Op) -> int:
    return 2 if op.attrs["axis"] == 1 else 1


def _merge_frequency(writer: _Writer, op: Op) -> None:
    n, frames, _, channels = writer.graph.tensors[op.outputs[0]].shape
    label = op.outputs[0]
    turned = writer.node("Transpose", [writer.value(op.inputs[0])], f"{label}/frequency_first", perm=(0, 3, 1, 2))
    shape = writer.constant(f"{label}/shape", np.asarray([n, channels, frames, 1], np.int64))
    writer.node("Reshape", [turned, shape], label)


def _relu(writer: _Writer, op: Op) -> None:
    tensor = writer.graph.tensors[op.inputs[0]]
    if tensor.quant is None:
        writer.node("Relu", [writer.value(op.inputs[0])], op.outputs[0])
    else:
        zero, high = tensor.quant.zero_point, tensor.quant.high
        writer.clip(writer.value(op.inputs[0]), op.outputs[0], tensor.dtype, zero, high)


def _clamp(writer: _Writer, op: Op) -> None:
    dtype = writer.graph.tensors[op.inputs[0]].dtype
    writer.clip(writer.value(op.inputs[0]), op.outputs[0], dtype, op.attrs["low"], op.attrs["high"])


def _real(kind: str, **attributes: Any) -> Callable[[_Writer, Op], None]:
    """An operation on dequantized inputs."""
    def emit(writer: _Writer, op: Op) -> None:
        inputs = [writer.real(name, op) for name in op.inputs]
        writer.finish(op, writer.node(kind, inputs, f"{op.outputs[0]}/real", **attributes))

    return emit


def _mul(writer: _Writer, op: Op) -> None:
    """The integer product times one float32 multiplier, spelled out: DQ, Mul, Q rounds in another order on exact ties."""
    first, second, output = (writer.graph.tensors[name] for name in (*op.inputs, *op.outputs))
    if first.quant is None or second.quant is None or output.quant is None:
        _real("Mul")(writer, op)
        return
    label = output.name
    centred = [
        writer.dequantize(writer.value(tensor.name), replace(tensor.quant, scale=(1.0,)), f"{label}/centred_{i}")
        for i, tensor in enumerate((first, second)) if tensor.quant is not None]
    product = writer.node("Mul", centred, f"{label}/product")
    multiplier = float_multiplier(first.quant.scale[0], second.quant.scale[0], output.quant.scale[0])
    scaled = writer.node("Mul", [product, writer.constant(f"{label}/multiplier", multiplier)], f"{label}/scaled")
    writer.finish(op, scaled, replace(output.quant, scale=(1.0,)))


def _quantize(writer: _Writer, op: Op) -> None:
    quant = writer.graph.tensors[op.outputs[0]].quant
    assert quant is not None
    writer.quantize(writer.value(op.inputs[0]), quant, op.outputs[0])


def _dequantize(writer: _Writer, op: Op) -> None:
    quant = writer.graph.tensors[op.inputs[0]].quant
    assert quant is not None
    writer.dequantize(writer.value(op.inputs[0]), quant, op.outputs[0])


_EMITTERS: Mapping[str, Callable[[_Writer, Op], None]] = MappingProxyType({
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
})
