"""Writing an integer graph's tensors and convolutions into a TensorFlow Lite flatbuffer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_export.targets.tflite_flatbuffer import TfliteFlatbuffer
from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.quantization import QuantParams

_Code = schema.BuiltinOperator
_Options = schema.BuiltinOptions
_METADATA = "edgeaudio"


class TfliteWriter:
    """A flatbuffer in the making, addressed by the names of an integer graph's tensors."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.file = TfliteFlatbuffer(graph.name)
        self.index: dict[str, int] = {}
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
        if name not in self.index:
            tensor = self.graph.tensors[name]
            data = self.graph.constants.get(name)
            label = self.names.get(name, name)
            self.index[name] = self.file.tensor(label, tensor.shape, tensor.dtype, tensor.quant, data=data)
        return self.index[name]

    def intermediate(self, label: str, like: Tensor, shape: tuple[int, ...]) -> int:
        """A tensor the graph does not have, with the parameters of one it has."""
        return self.file.tensor(label, shape, like.dtype, like.quant)

    def reshape(self, source: int, target: int, shape: tuple[int, ...]) -> None:
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        wanted = self.file.integers("shape", list(shape))
        self.file.operator(_Code.RESHAPE, [source, wanted], [target], _Options.ReshapeOptions, options)

    def convolve(
        self,
        source: int,
        target: int,
        weight: npt.NDArray[Any],
        weight_quant: QuantParams | None,
        bias: npt.NDArray[Any],
        bias_quant: QuantParams | None,
        *,
        label: str,
        depthwise: bool,
        attrs: Mapping[str, Any],
    ) -> None:
        """A dense, grouped or depthwise convolution; ``weight`` is ``[O, KT, KF, C/groups]``."""
        if depthwise:
            # TFLite keeps depthwise weights as [1, KH, KW, O].
            weight = weight.transpose(3, 1, 2, 0)
        weight_index = self.file.tensor(
            f"{label}/weight", weight.shape, weight.dtype.name, weight_quant, data=weight, axis=3 if depthwise else 0
        )
        bias_index = self.file.tensor(f"{label}/bias", bias.shape, bias.dtype.name, bias_quant, data=bias, axis=0)
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
