"""QDQ ONNX models made canonical: int32 biases, so that every optimization level of ONNX Runtime computes the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeaudio_export.lowering.build import bias_codes
from edgeaudio_export.lowering.qdq_graph import Constant


def with_int32_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every Conv with a float bias a DequantizeLinear of int32 codes, scale input scale times weight scale.

    Args:
        model: QDQ model.

    Returns:
        A copy; biases that are quantized already stay, and those of convolutions that compute in float: whose input or
        weight is no DequantizeLinear, or whose result is not quantized.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    readers = _readers(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if _is_integer(node, producers, readers) and len(node.input) > 2 and node.input[2] in values:
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


def without_codes(model: onnx.ModelProto, original: onnx.ModelProto, edges: frozenset[str]) -> onnx.ModelProto:
    """Take the Q/DQ pair off some edges of a QDQ model, and give operations that then compute in float float weights.

    Args:
        model: What ONNX Runtime made of ``original``; operations have kept their names.
        original: The float model.
        edges: Edges of ``original`` that shall be float.

    Returns:
        A copy, or ``model`` itself where there is nothing to do.
    """
    if not edges:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    _drop_pairs(graph, edges)
    producers = {output: node for node in graph.node for output in node.output}
    readers, floats = _readers(graph), {node.name: node for node in original.graph.node}
    restored: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" and not _is_integer(node, producers, readers):
            node.input[1:] = floats[node.name].input[1:]
            restored.update(node.input[1:])
    for name in restored & set(producers):
        # ONNX Runtime names the DequantizeLinear of a bias after the bias.
        graph.node.remove(producers[name])
    known = {i.name for i in graph.initializer}
    graph.initializer.extend(i for i in original.graph.initializer if i.name in restored - known)
    _drop_unread(graph)
    return copy


def _drop_pairs(graph: onnx.GraphProto, edges: frozenset[str]) -> None:
    """Readers of an edge's DequantizeLinear read the edge; a graph output is then written by its own operation."""
    readers = _readers(graph)
    outputs = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    dropped: list[onnx.NodeProto] = []
    for node in graph.node:
        edge = node.input[0].removesuffix(_ORT_SUFFIX) if node.op_type == "QuantizeLinear" else ""
        if edge not in edges:
            continue
        (dequantize,) = readers[node.output[0]]
        dropped += [node, dequantize]
        if dequantize.output[0] in outputs:
            renamed[node.input[0]] = dequantize.output[0]
        else:
            renamed[dequantize.output[0]] = node.input[0]
    for node in dropped:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


_ORT_SUFFIX = "_QuantizeLinear_Input"
"""What ONNX Runtime adds to the name of a graph output that it quantizes."""


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    outputs = {o.name for o in graph.output}
    for node in reversed(list(graph.node)):
        read = {name for other in graph.node for name in other.input} | outputs
        if not read & set(node.output):
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _is_integer(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], readers: Mapping[str, list[onnx.NodeProto]]
) -> bool:
    """Whether a node is a convolution of codes by codes to codes."""
    if node.op_type != "Conv":
        return False
    sources = [producers[name].op_type for name in node.input[:2] if name in producers]
    output = node.output[0]
    if [reader.op_type for reader in readers.get(output, [])] == ["Relu"]:
        output = readers[output][0].output[0]
    after = {reader.op_type for reader in readers.get(output, [])}
    return sources == ["DequantizeLinear"] * 2 and after == {"QuantizeLinear"}
