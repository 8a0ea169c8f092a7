"""QDQ ONNX models made canonical: int32 biases, so that every optimization level of ONNX Runtime computes the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeaudio_export.lowering.build import bias_codes
from edgeaudio_export.lowering.qdq_graph import Constant


def with_int32_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every Conv with a float bias a DequantizeLinear of int32 codes, scale input scale times weight scale.

    Args:
        model: QDQ model whose convolutions read a DequantizeLinear on input and weight.

    Returns:
        A copy; biases that are quantized already stay.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in values:
            scale = np.atleast_1d(values[producers[node.input[0]].input[1]]) * values[producers[node.input[1]].input[1]]
            codes = bias_codes(Constant(data=values[node.input[2]]), scale.astype(np.float32), node.name)
            name = f"{node.output[0]}_bias"
            graph.initializer.extend(
                [
                    numpy_helper.from_array(codes, f"{name}_codes"),
                    numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
                ]
            )
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale"], [name], name=name, axis=0)
            )
            node.input[2] = name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy
