"""Pass 1: read a QDQ ONNX model and take its Quantize/Dequantize pairs, the boundary's too, into the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgeaudio_export.errors import ExportError
from edgeaudio_export.lowering.qdq_graph import Constant, Node, QdqGraph
from edgeaudio_runtime.quantization import QuantParams


def parse(model: onnx.ModelProto) -> QdqGraph:
    """ONNX to a QDQ graph; refuses a tensor that is quantized in two ways."""
    parser = _Parser(model)
    for node in model.graph.node:
        parser.read(node)
    return QdqGraph(
        nodes=tuple(parser.nodes),
        constants=parser.constants,
        quants=parser.quants,
        shapes=parser.shapes,
        inputs=tuple(i.name for i in model.graph.input if i.name not in parser.constants),
        outputs=tuple(parser.edge(o.name) for o in model.graph.output),
    )


class _Parser:
    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = [*graph.input, *graph.value_info, *graph.output]
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        self.constants = {i.name: Constant(data=numpy_helper.to_array(i)) for i in model.graph.initializer}
        self.quants: dict[str, QuantParams] = {}
        self.nodes: list[Node] = []
        self._alias: dict[str, str] = {}

    def edge(self, name: str) -> str:
        """The float value that an edge stands for."""
        while name in self._alias:
            name = self._alias[name]
        return name

    def read(self, node: onnx.NodeProto) -> None:
        handler = _HANDLERS.get(node.op_type, _Parser._operation)
        handler(self, node)

    def _constant(self, node: onnx.NodeProto) -> None:
        self.constants[node.output[0]] = Constant(data=numpy_helper.to_array(_attributes(node)["value"]))

    def _identity(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        else:
            self._alias[node.output[0]] = node.input[0]

    def _transpose(self, node: onnx.NodeProto) -> None:
        source = node.input[0]
        if source in self.constants:
            axes = tuple(_attributes(node)["perm"])
            self.constants[node.output[0]] = self.constants[source].transposed(axes)
        else:
            self._operation(node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        source = self.edge(node.input[0])
        params = self._params(node, np.dtype(np.int8))
        known = self.quants.setdefault(source, params)
        if known == params:
            self._alias[node.output[0]] = source
        elif node.input[0] in self._alias:
            # It reads what the codes stand for: codes become codes of other parameters.
            self.quants[node.output[0]] = params
            self.nodes.append(Node(op="Requantize", name=node.name, inputs=(source,), output=node.output[0]))
        else:
            raise ExportError(f"tensor {source!r} is quantized in two ways, {known} and {params}; quantize it once")

    def _dequantize(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.constants:
            codes = self.constants[node.input[0]].data
            self.constants[node.output[0]] = Constant(data=codes, quant=self._params(node, codes.dtype))
        else:
            self._alias[node.output[0]] = node.input[0]

    def _operation(self, node: onnx.NodeProto) -> None:
        inputs = tuple(self._input(name, node.name) for name in node.input)
        self.nodes.append(
            Node(op=node.op_type, name=node.name, inputs=inputs, output=node.output[0], attrs=_attributes(node))
        )

    def _input(self, name: str, who: str) -> str:
        if name in self.quants and name not in self._alias:
            raise ExportError(
                f"operation {who!r} reads the float tensor {name!r} beside its codes; let it read the DequantizeLinear"
            )
        return self.edge(name)

    def _params(self, node: onnx.NodeProto, dtype: np.dtype[Any]) -> QuantParams:
        scale: npt.NDArray[Any] = np.atleast_1d(self.constants[node.input[1]].data)
        zero_point = np.zeros(1, dtype=dtype)
        if len(node.input) > 2 and node.input[2]:
            zero_point = np.atleast_1d(self.constants[node.input[2]].data)
        if zero_point.dtype.name not in ("int8", "int16", "int32") or (zero_point != zero_point[0]).any():
            raise ExportError(
                f"{node.name!r} has {zero_point.dtype} zero points {zero_point[:4].tolist()}; "
                "use int8 or int16 with one zero point for all channels"
            )
        axis = _attributes(node).get("axis", 1) if scale.size > 1 or self._is_vector(node) else None
        return QuantParams(
            scale=tuple(scale.tolist()), zero_point=int(zero_point[0]), axis=axis, dtype=zero_point.dtype.name
        )

    def _is_vector(self, node: onnx.NodeProto) -> bool:
        """Whether a scale of one value is nevertheless a list over channels, as for a convolution with one filter."""
        return self.constants[node.input[1]].data.ndim == 1 and node.input[0] in self.constants


_HANDLERS = {
    "Constant": _Parser._constant,
    "Identity": _Parser._identity,
    "Transpose": _Parser._transpose,
    "QuantizeLinear": _Parser._quantize,
    "DequantizeLinear": _Parser._dequantize,
}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
