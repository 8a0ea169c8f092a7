"""Pass 2: a relu, or the Add of a bias, that alone reads a result joins the operation before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgeaudio_export.lowering.qdq_graph import Node, QdqGraph

CLAMPING = frozenset({"Conv", "MatMul", "Add", "Sub", "Mul"})
"""Operations that can clamp their result at the zero point."""


def fuse(graph: QdqGraph) -> QdqGraph:
    """Fuse MatMul + Add(constant) and then any operation + Relu."""
    return _fuse_relu(_fuse_bias(graph))


def _fuse_bias(graph: QdqGraph) -> QdqGraph:
    readers, nodes = _readers(graph), _by_output(graph)
    for node in graph.nodes:
        if node.op != "Add":
            continue
        constants = [name for name in node.inputs if name in graph.constants]
        edges = [name for name in node.inputs if name not in graph.constants]
        source = nodes.get(edges[0]) if len(edges) == 1 else None
        if source is not None and source.op == "MatMul" and readers[edges[0]] == 1:
            _join(nodes, source, replace(source, output=node.output, bias=constants[0]))
    return replace(graph, nodes=tuple(nodes.values()))


def _fuse_relu(graph: QdqGraph) -> QdqGraph:
    readers, nodes = _readers(graph), _by_output(graph)
    for node in graph.nodes:
        source = nodes.get(node.inputs[0]) if node.op == "Relu" else None
        if (
            source is not None
            and source.op in CLAMPING
            and readers[source.output] == 1
            and _same_codes(graph, source.output, node.output)
        ):
            _join(nodes, source, replace(source, output=node.output, relu=True))
    return replace(graph, nodes=tuple(nodes.values()))


def _same_codes(graph: QdqGraph, before: str, after: str) -> bool:
    """Whether a clamp at the zero point does what the relu does: the edge before it is float, or both agree."""
    return before not in graph.quants or graph.quants[before] == graph.quants.get(after)


def _join(nodes: dict[str, Node], source: Node, joined: Node) -> None:
    """Put ``joined`` where the second operation stood; the first one goes."""
    del nodes[source.output]
    nodes[joined.output] = joined


def _readers(graph: QdqGraph) -> Counter[str]:
    return Counter([name for node in graph.nodes for name in node.inputs] + list(graph.outputs))


def _by_output(graph: QdqGraph) -> dict[str, Node]:
    return {node.output: node for node in graph.nodes}
