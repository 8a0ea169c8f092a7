"""Rewrites of a float ONNX model before ONNX Runtime quantizes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


def linear_to_conv(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace ``MatMul(x [N,T,C], W [C,O])`` (+ ``Add`` of a bias) by a pointwise Conv between two Transposes.

    ONNX Runtime gives a Conv an int32 bias; the Add of a bias it would quantize to int8. Returns a copy.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            if node.output[0] not in taken:
                nodes.append(node)
            continue
        bias, output = _bias(node, readers, weights)
        taken.add(output)
        nodes.extend(_pointwise(graph, node, weights[node.input[1]], bias, output))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return copy


def _bias(
    node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], weights: dict[str, npt.NDArray[Any]]
) -> tuple[str, str]:
    """Name of the bias that an Add alone brings, "" without one, and the edge that then holds the result."""
    users = readers.get(node.output[0], [])
    if len(users) == 1 and users[0].op_type == "Add":
        for name in users[0].input:
            if name in weights:
                return name, users[0].output[0]
    return "", node.output[0]


def _pointwise(
    graph: onnx.GraphProto, node: onnx.NodeProto, weight: npt.NDArray[Any], bias: str, output: str
) -> list[onnx.NodeProto]:
    name = f"{node.name}_pointwise"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.T[:, :, None]), f"{name}_weight"))
    inputs = [f"{name}_in", f"{name}_weight", *([bias] if bias else [])]
    return [
        helper.make_node("Transpose", [node.input[0]], [f"{name}_in"], name=f"{name}_in", perm=[0, 2, 1]),
        helper.make_node("Conv", inputs, [f"{name}_out"], name=name, kernel_shape=[1]),
        helper.make_node("Transpose", [f"{name}_out"], [output], name=f"{name}_out", perm=[0, 2, 1]),
    ]
