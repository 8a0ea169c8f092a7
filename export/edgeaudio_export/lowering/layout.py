"""Pass 4: what the axes of every edge stand for; ``[N, C, T]``, ``[N, T, C]``, ``[N, C, T, F]`` and what lies between
them become one ``[N, T, F, C]``."""

from __future__ import annotations

from collections.abc import Sequence

from edgeaudio_export.axis_names import (
    FEATURES,
    IMAGE_FEATURES,
    LOGITS,
    RESHAPES,
    permuted,
    reshaped,
    squeezed,
    state_axes,
    unsqueezed,
)
from edgeaudio_export.errors import ExportError
from edgeaudio_export.lowering.qdq_graph import Node, QdqGraph

GRAPH_AXES = {"T": 1, "F": 2, "C": 3}
"""Axis of the integer graph for each axis name."""
RESHAPING = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
"""Operations after which a tensor has other axes in the same order."""
_KEEPING = frozenset({"Quantize", "Dequantize", "Requantize", "Concat", "Slice", "Relu"})
"""Operations that features may pass before they become an image."""


def layouts(graph: QdqGraph) -> dict[str, str]:
    """Axis names of every edge, such as "NCT"; refuses models whose axes do not fit together.

    Features and logits are ``[N, T, C]``, states ``[N, C, T]`` or ``[N, C, T, F]``; a Transpose changes the order, a
    Reshape, Squeeze or Unsqueeze adds or takes an axis of size 1 or joins bins and channels.
    """
    found = {edge: state_axes(edge, len(graph.shapes[edge])) for edge in graph.inputs[1:]}
    found[graph.inputs[0]] = IMAGE_FEATURES if _are_an_image(graph) else FEATURES
    for node in graph.nodes:
        edges = [found[name] for name in node.inputs if name in found]
        if len(set(edges)) != 1:
            raise ExportError(
                f"operation {node.op} {node.name!r} mixes axes {sorted(set(edges))}; transpose its inputs to one order"
            )
        found[node.output] = _after(graph, node, edges[0])
    for index, edge in enumerate(graph.outputs):
        wanted = found[graph.inputs[index]] if index else LOGITS
        if found.get(edge) != wanted:
            raise ExportError(f"output {edge!r} has axes {found.get(edge)}, must be {wanted}; transpose it in forward")
    return found


def _are_an_image(graph: QdqGraph) -> bool:
    """Whether features ``[N, T, F]`` get an axis of channels, so that their values are bins."""
    edges = {graph.inputs[0]}
    for node in graph.nodes:
        if node.inputs[0] in edges:
            if node.op in RESHAPING and len(graph.shapes[node.output]) == len(IMAGE_FEATURES) + 1:
                return True
            edges |= {node.output} if node.op in _KEEPING else set()
    return False


def _after(graph: QdqGraph, node: Node, axes: str) -> str:
    if node.op == "Transpose":
        return permuted(axes, node.attrs["perm"])
    if node.op in RESHAPING:
        return _reshaped(graph, node, axes)
    convolution = "NCTF" if len(axes) == 4 else "NCT"
    wanted = {"Conv": convolution, "MatMul": "NTC"}.get(node.op, axes)
    if axes != wanted:
        raise ExportError(
            f"operation {node.op} {node.name!r} runs on axes {axes}, must be {wanted}; transpose before it"
        )
    return axes


def _reshaped(graph: QdqGraph, node: Node, axes: str) -> str:
    before, after = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if node.op == "Reshape" or len(node.inputs) < 2:
        found = reshaped(axes, before, after)
    else:
        found = _one_by_one(node.op, axes, graph.indices(node.inputs[1]))
    if found is None:
        raise ExportError(f"operation {node.op} {node.name!r} makes {list(after)} of {axes} {list(before)}; {RESHAPES}")
    return found


def _one_by_one(op: str, axes: str, positions: Sequence[int]) -> str | None:
    found: str | None = axes
    rank = len(axes) + (len(positions) if op == "Unsqueeze" else 0)
    ordered = sorted((position % rank for position in positions), reverse=op == "Squeeze")
    for position in ordered:
        found = found and (squeezed if op == "Squeeze" else unsqueezed)(found, position)
    return found


def graph_shape(shape: tuple[int, ...], axes: str) -> tuple[int, int, int, int]:
    """ONNX shape of an edge to ``(1, T, F, C)``; an axis that it lacks has size 1."""
    sizes = dict(zip(axes, shape, strict=True))
    return 1, sizes["T"], sizes.get("F", 1), sizes.get("C", 1)
