"""Writing an integer graph's tensors and convolutions into a TensorFlow Lite flatbuffer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_export.targets.stored_constants import StoredConstant
from edgeaudio_export.targets.tflite_flatbuffer import TfliteFlatbuffer
from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.graph_constants import widened_constants

_Code = schema.BuiltinOperator
_Options = schema.BuiltinOptions
_METADATA = "edgeaudio"


class TfliteWriter:
    """A flatbuffer in the making, addressed by the names of an integer graph's tensors."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.file = TfliteFlatbuffer(graph.name)
        self.index: dict[str, int] = {}
        self._widened = widened_constants(graph)
        self._inputs: list[int] = []
        self.names = {graph.input: "features", graph.output: "logits"}
        for i, state in enumerate(graph.states):
            self.names[state.input] = f"state_{i}_in"
            self.names.setdefault(state.output, f"state_{i}_out")

    def begin(self) -> None:
        """Add the inputs."""
        self._inputs = [self.tensor(name) for name in (self.graph.input, *(s.input for s in self.graph.states))]

    def finish(self) -> bytes:
        """Name the outputs and serialize."""
        outputs = [self.tensor(self.graph.output)]
        for i, state in enumerate(self.graph.states):
            outputs.append(self._output(f"state_{i}_out", state.output, taken=[*self._inputs, *outputs]))
        document = {"graph": self.graph.name, "requantization": self.graph.requantization}
        self.file.metadata(_METADATA, json.dumps(document, sort_keys=True).encode())
        return self.file.finish(self._inputs, outputs)

    def _output(self, name: str, source: str, *, taken: list[int]) -> int:
        """The tensor itself, or a copy where it already leaves (or enters) under another name."""
        if self.tensor(source) not in taken:
            return self.index[source]
        tensor = self.graph.tensors[source]
        copy = self.file.tensor(name, tensor.shape, tensor.dtype, tensor.quant)
        self.reshape(self.index[source], copy, tensor.shape)
        return copy

    def tensor(self, name: str) -> int:
        """Index of a graph tensor, added when first named."""
        if name not in self.index and name in self._widened:
            source = self._widened[name]
            tensor = self.graph.tensors[source]
            stored = StoredConstant(data=self.graph.constants[source], quant=tensor.quant, is_widened=True)
            self.index[name] = self.constant(name, stored, axis=0 if tensor.quant is None else tensor.quant.axis or 0)
        if name not in self.index:
            tensor = self.graph.tensors[name]
            data = self.graph.constants.get(name)
            label = self.names.get(name, name)
            self.index[name] = self.file.tensor(label, tensor.shape, tensor.dtype, tensor.quant, data=data)
        return self.index[name]

    def intermediate(self, label: str, like: Tensor, shape: tuple[int, ...]) -> int:
        """A tensor the graph does not have, with the parameters of one it has."""
        return self.file.tensor(label, shape, like.dtype, like.quant)

    def constant(self, label: str, stored: StoredConstant, *, axis: int) -> int:
        """A weight or bias, widened by an operator of its own where it is stored narrow; ``axis``: of its channels."""
        data = stored.data
        if not stored.is_widened:
            return self.file.tensor(label, data.shape, data.dtype.name, stored.quant, data=data, axis=axis)
        narrow = self.file.tensor(f"{label}/stored", data.shape, data.dtype.name, stored.quant, data=data, axis=axis)
        wide = self.file.tensor(label, data.shape, "float32")
        self.dequantize(narrow, wide)
        return wide

    def dequantize(self, source: int, target: int) -> None:
        """Codes or float16 to float32."""
        options = schema.DequantizeOptionsT()
        self.file.operator(_Code.DEQUANTIZE, [source], [target], _Options.DequantizeOptions, options, version=5)

    def quantize(self, source: int, target: int) -> None:
        """float32 or other codes to codes."""
        options = schema.QuantizeOptionsT()
        self.file.operator(_Code.QUANTIZE, [source], [target], _Options.QuantizeOptions, options)

    def reshape(self, source: int, target: int, shape: tuple[int, ...]) -> None:
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        wanted = self.file.integers("shape", list(shape))
        self.file.operator(_Code.RESHAPE, [source, wanted], [target], _Options.ReshapeOptions, options)

    def convolve(
        self,
        source: int,
        target: int,
        weight: StoredConstant,
        bias: StoredConstant,
        *,
        label: str,
        depthwise: bool,
        attrs: Mapping[str, Any],
    ) -> None:
        """A dense, grouped or depthwise convolution; ``weight`` is ``[O, KT, KF, C/groups]``."""
        if self.file.dtype(source) == "int16":
            # The 16x8 kernels add up in 64 bits and want the bias so.
            bias = replace(bias, data=bias.data.astype(np.int64))
        # TFLite keeps depthwise weights as [1, KH, KW, O].
        placed = replace(weight, data=weight.data.transpose(3, 1, 2, 0)) if depthwise else weight
        weight_index = self.constant(f"{label}/weight", placed, axis=3 if depthwise else 0)
        bias_index = self.constant(f"{label}/bias", bias, axis=0)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = schema.Padding.VALID
        stride, dilation = attrs.get("stride", (1, 1)), attrs.get("dilation", (1, 1))
        options.strideH, options.strideW = stride
        options.dilationHFactor, options.dilationWFactor = dilation
        options.fusedActivationFunction = fused_activation(attrs)
        if depthwise:
            options.depthMultiplier = int(attrs.get("depth_multiplier", 1))
        code = _Code.DEPTHWISE_CONV_2D if depthwise else _Code.CONV_2D
        kind = _Options.DepthwiseConv2DOptions if depthwise else _Options.Conv2DOptions
        self.file.operator(code, [source, weight_index, bias_index], [target], kind, options, version=3)


def fused_activation(attrs: Mapping[str, Any]) -> int:
    kinds = schema.ActivationFunctionType
    return int(kinds.RELU if attrs.get("relu") else kinds.NONE)
