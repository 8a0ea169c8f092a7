"""What the axes of every activation of a step graph stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.axis_names import (
    FEATURES,
    IMAGE_FEATURES,
    RESHAPES,
    permuted,
    reshaped,
    squeezed,
    state_axes,
    unsqueezed,
)
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError

_WRITTEN = {"aten.conv1d.default": "NCT", "aten.conv2d.default": "NCTF", "aten.linear.default": "NTC"}


def node_axes(module: GraphModule, inputs: Sequence[str]) -> dict[str, str]:
    """Axis names of every activation, such as "NCT", by its node.

    Args:
        module: The step graph.
        inputs: Nodes of the features and of every state.

    Raises:
        ExportError: A change of shape that is more than an axis of size 1, or bins and channels that become channels.
    """
    found: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.name == inputs[0]:
            found[node.name] = IMAGE_FEATURES if _is_image(node) else FEATURES
        elif node.name in inputs:
            found[node.name] = state_axes(node.name, rank(node))
        sources = [source for source in node.all_input_nodes if source.name in found]
        if node.op == "call_function" and sources and hasattr(node.meta.get("val"), "shape"):
            found[node.name] = _after(node, sources[0], found[sources[0].name])
    return found


def rank(node: Node) -> int:
    """Number of axes."""
    return len(node.meta["val"].shape)


def channel_axis(axes: str) -> int:
    """Where the channels are; where there are none, the bins."""
    return axes.index("C" if "C" in axes else "F")


def joins_bins(node: Node, axes: dict[str, str]) -> bool:
    """Whether a node makes channels of bins, so that its channels are not those it reads."""
    if str(node.target) not in operations.RESHAPING:
        return False
    source = node.all_input_nodes[0]
    before, after = axes[source.name], axes[node.name]
    return "F" in before and "F" not in after and int(source.meta["val"].shape[before.index("F")]) > 1


def _is_image(features: Node) -> bool:
    """Whether features ``[N, T, F]`` get an axis of channels, so that their values are bins."""
    waiting, keeping = [features], operations.MOVING - operations.TURNING - operations.RESHAPING
    while waiting:
        for user in waiting.pop().users:
            operator = str(user.target)
            if operator in operations.RESHAPING and rank(user) == len(IMAGE_FEATURES) + 1:
                return True
            waiting += [user] if operator in keeping else []
    return False


def _after(node: Node, source: Node, axes: str) -> str:
    operator, arguments = str(node.target), node.args[1:]
    if operator in _WRITTEN:
        return _WRITTEN[operator]
    if operator in operations.TURNING:
        return permuted(axes, _order(operator, arguments, len(axes)))
    if operator not in operations.RESHAPING:
        return axes
    named = _reshaped(node, source, axes)
    if named is None:
        shapes = [["N", *map(int, n.meta["val"].shape[1:])] for n in (source, node)]
        raise ExportError(
            f"operation {operator} in {place(node)} makes {_shown(shapes[1])} of {axes} {_shown(shapes[0])}; {RESHAPES}"
        )
    return named


def _shown(shape: list[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _order(operator: str, arguments: Sequence[Any], n_axes: int) -> list[int]:
    if operator == "aten.permute.default":
        return [i % n_axes for i in arguments[0]]
    order = list(range(n_axes))
    one, other = (i % n_axes for i in arguments)
    order[one], order[other] = other, one
    return order


def _reshaped(node: Node, source: Node, axes: str) -> str | None:
    operator, before, after = str(node.target), source.meta["val"].shape, node.meta["val"].shape
    if operator == "aten.unsqueeze.default":
        return unsqueezed(axes, node.args[1])  # type: ignore[arg-type]
    if operator == "aten.squeeze.dim":
        return axes if len(after) == len(before) else squeezed(axes, node.args[1])  # type: ignore[arg-type]
    return reshaped(axes, before, after)
