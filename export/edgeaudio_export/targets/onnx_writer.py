"""Writing an integer graph's tensors and convolutions as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.targets.stored_constants import StoredConstant
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.graph_constants import widened_constants
from edgeaudio_runtime.quantization import QuantParams

OPSET, _IR_VERSION = 20, 9
_INT16_OPSET, _INT16_IR_VERSION = 21, 10
"""The first ones whose QuantizeLinear knows int16; files without it stay readable by older runtimes."""
TO_CHANNELS_FIRST = (0, 3, 1, 2)
"""Axes of the integer graph in the order of ONNX."""
_TO_CHANNELS_LAST = (0, 2, 3, 1)
_ELEMENT_TYPES = {
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}


class OnnxWriter:
    """An ONNX graph in the making, addressed by the names of an integer graph's tensors."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        # The name a tensor has in the file; inputs have fixed ones.
        self.names = {state.input: f"state_{i}_in" for i, state in enumerate(graph.states)}
        self.names[graph.input] = "features/channels_first"
        self._widened = widened_constants(graph)

    def begin(self) -> None:
        """Add what leads from the feature input inwards."""
        self.node("Transpose", ["features"], self.names[self.graph.input], perm=TO_CHANNELS_FIRST)

    def finish(self) -> onnx.ModelProto:
        """Add what leads to the outputs, and build the model."""
        graph = self.graph
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
        has_int16 = any(tensor.dtype == "int16" for tensor in graph.tensors.values())
        opset, ir_version = (_INT16_OPSET, _INT16_IR_VERSION) if has_int16 else (OPSET, _IR_VERSION)
        model = helper.make_model(
            body, producer_name="edgeaudio", ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)]
        )
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
        """Name in the file of a graph tensor; a constant becomes an initializer, widened if it is stored narrow."""
        if name in self._widened and name not in self.names:
            source = self._widened[name]
            stored = StoredConstant(
                data=self.graph.constants[source], quant=self.graph.tensors[source].quant, is_widened=True
            )
            self.names[name] = self.stored(name, stored)
        if name in self.graph.constants and name not in self.names:
            data = self.graph.constants[name]
            self.names[name] = self.constant(name, data.transpose(TO_CHANNELS_FIRST) if data.ndim == 4 else data)
        return self.names.get(name, name)

    def stored(self, label: str, stored: StoredConstant, *, real: bool = False) -> str:
        """Add a weight or bias, channels first; widened where it is stored narrow, or where ``real`` asks for it."""
        data = stored.data.transpose(TO_CHANNELS_FIRST) if stored.data.ndim == 4 else stored.data
        if not (stored.is_widened or (real and stored.quant is not None)):
            return self.constant(label, data)
        narrow = self.constant(f"{label}/stored", data)
        if stored.quant is None:
            return self.node("Cast", [narrow], label, to=TensorProto.FLOAT)
        return self.dequantize(narrow, stored.quant, label)

    def is_int16(self, op: Op) -> bool:
        """Whether an operation reads or writes int16 codes, which no integer kernel of ONNX Runtime takes."""
        names = (op.inputs[0], op.outputs[0])
        return any(self.graph.tensors[name].dtype == "int16" for name in names)

    def real(self, name: str, op: Op) -> str:
        """A graph tensor as float32: itself, or dequantized for this reader alone, as fusion wants it."""
        tensor = self.graph.tensors[name]
        if tensor.quant is None:
            return self.value(name)
        return self.dequantize(self.value(name), tensor.quant, f"{op.outputs[0]}/real_{op.inputs.index(name)}")

    def dequantize(self, codes: str, quant: QuantParams, output: str) -> str:
        # A per-channel constant is one of weights or biases, whose channels are the first axis here too.
        axis = {} if quant.axis is None else {"axis": quant.axis}
        return self.node("DequantizeLinear", [codes, *self.parameters(quant, output)], output, **axis)

    def quantize(self, real: str, quant: QuantParams, output: str) -> str:
        return self.node("QuantizeLinear", [real, *self.parameters(quant, output)], output)

    def parameters(self, quant: QuantParams, label: str) -> tuple[str, str]:
        scale = np.asarray(quant.scale, np.float32)
        zero = np.full(scale.shape, quant.zero_point, quant.dtype)
        if quant.axis is None:
            scale, zero = scale.reshape(()), zero.reshape(())
        return self.constant(f"{label}/scale", scale), self.constant(f"{label}/zero_point", zero)

    def write_real(self, op: Op, real: str, quant: QuantParams | None = None) -> None:
        """From the float result of an operation to its output tensor, with its relu; ``quant`` where units differ."""
        output = self.graph.tensors[op.outputs[0]]
        quant = quant or output.quant
        relu = bool(op.attrs.get("relu"))
        if quant is None:
            self.names[output.name] = self.node("Relu", [real], output.name) if relu else real
        elif relu and quant.dtype == "int16":
            self.quantize(self.node("Relu", [real], f"{output.name}/relu"), quant, output.name)
        elif relu and quant.zero_point > quant.low:
            codes = self.quantize(real, quant, f"{output.name}/unclipped")
            self.clip(codes, output.name, output.dtype, quant.zero_point, quant.high)
        else:
            self.quantize(real, quant, output.name)

    def clip(self, codes: str, output: str, dtype: str, low: int, high: int) -> None:
        limits = [
            self.constant(f"{output}/low", np.asarray(low, dtype)),
            self.constant(f"{output}/high", np.asarray(high, dtype)),
        ]
        self.node("Clip", [codes, *limits], output)

    def convolve(
        self,
        op: Op,
        weight: StoredConstant,
        bias: StoredConstant,
        attrs: Mapping[str, Any],
    ) -> None:
        """A convolution with ``weight [O, KT, KF, C/groups]``: QLinearConv on int8 codes, else Conv on float32."""
        x, output = self.graph.tensors[op.inputs[0]], self.graph.tensors[op.outputs[0]]
        pad_low, pad_high = attrs.get("pad_f", (0, 0))
        attributes = {
            "kernel_shape": weight.data.shape[1:3],
            "strides": attrs.get("stride", (1, 1)),
            "dilations": attrs.get("dilation", (1, 1)),
            "group": int(attrs.get("groups", 1)),
            "pads": (0, pad_low, 0, pad_high),
        }
        label = output.name
        if x.quant is None or output.quant is None or weight.quant is None or self.is_int16(op):
            inputs = [
                self.real(x.name, op),
                self.stored(f"{label}/weight", weight, real=True),
                self.stored(f"{label}/bias", bias, real=True),
            ]
            self.write_real(op, self.node("Conv", inputs, f"{label}/real", **attributes))
            return
        inputs = [
            self.value(x.name),
            *self.parameters(x.quant, f"{label}/x"),
            self.stored(f"{label}/weight", weight),
            *self.parameters(weight.quant, f"{label}/weight"),
            *self.parameters(output.quant, f"{label}/y"),
            self.stored(f"{label}/bias", bias),
        ]
        clipped = bool(op.attrs.get("relu")) and output.quant.zero_point > output.quant.low
        codes = self.node("QLinearConv", inputs, f"{label}/unclipped" if clipped else label, **attributes)
        if clipped:
            self.clip(codes, label, output.dtype, output.quant.zero_point, output.quant.high)


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[N, T, F, C]`` as ``[N, C, T, F]``."""
    return tuple(shape[i] for i in TO_CHANNELS_FIRST)
