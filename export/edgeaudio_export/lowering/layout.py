"""Pass 4: what the axes of every edge stand for; ``[N, C, T]`` and ``[N, T, C]`` become one ``[N, T, 1, C]``."""

from __future__ import annotations

from edgeaudio_export.errors import ExportError
from edgeaudio_export.lowering.qdq_graph import AXIS_NAMES, Node, QdqGraph

GRAPH_AXES = {"T": 1, "C": 3}
"""Axis of the integer graph for each axis name."""


def layouts(graph: QdqGraph) -> dict[str, str]:
    """Axis names of every edge, such as "NCT"; refuses models whose axes do not fit together.

    Features and logits are ``[N, T, C]``, states ``[N, C, T]``; only a Transpose changes the order.
    """
    found = {edge: AXIS_NAMES["state" if index else "features"] for index, edge in enumerate(graph.inputs)}
    for node in graph.nodes:
        edges = [found[name] for name in node.inputs if name in found]
        if len(set(edges)) != 1:
            raise ExportError(
                f"operation {node.op} {node.name!r} mixes axes {sorted(set(edges))}; transpose its inputs to one order"
            )
        found[node.output] = _after(node, edges[0])
    for index, edge in enumerate(graph.outputs):
        wanted = AXIS_NAMES["state" if index else "logits"]
        if found.get(edge) != wanted:
            raise ExportError(f"output {edge!r} has axes {found.get(edge)}, must be {wanted}; transpose it in forward")
    return found


def _after(node: Node, axes: str) -> str:
    if node.op == "Transpose":
        return "".join(axes[i] for i in node.attrs["perm"])
    wanted = {"Conv": "NCT", "MatMul": "NTC"}.get(node.op, axes)
    if axes != wanted:
        raise ExportError(
            f"operation {node.op} {node.name!r} runs on axes {axes}, must be {wanted}; transpose before it"
        )
    return axes


def graph_shape(shape: tuple[int, ...], axes: str) -> tuple[int, int, int, int]:
    """ONNX shape of an edge to ``(1, T, 1, C)``."""
    return 1, shape[axes.index("T")], 1, shape[axes.index("C")]
