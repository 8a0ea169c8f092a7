"""Which activations must be scaled alike, channel by channel, for the network to stay what it is.

A relu, an addition, a FIFO (join and slice over time) and a state commute with a positive factor for each channel, so
all tensors that they connect form one group. The group may be rescaled if only weighted operations write into it and
only weighted operations read from it: their weights take the factor and its inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.node_axes import channel_axis, joins_bins, node_axes, rank
from edgeaudio_export.recovery.layers import Layer, layers_of
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_export.ties import Ties

_ALONG_AN_AXIS = frozenset({"aten.cat.default", "aten.slice.Tensor"})
"""Operations along one axis, which is their second argument; 0 where it is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelGroup:
    """Tensors that one positive factor for each channel may be taken out of."""

    name: str
    """Its first producer."""
    channels: int
    """Factors it has."""
    members: frozenset[str]
    """Nodes of its tensors, states included."""
    producers: tuple[str, ...]
    """Weighted operations that write into it."""
    consumers: tuple[str, ...]
    """Weighted operations that read from it."""


def channel_groups(step: StepGraph) -> tuple[ChannelGroup, ...]:
    """All groups that may be rescaled, in order of execution.

    A group with the features, the logits, a product, a sigmoid, tanh or softmax in it, or one that is joined or cut
    along its channels or makes channels of bins, has its scale given and is left out.
    """
    nodes = {n.name: n for n in step.module.graph.nodes if n.op in ("placeholder", "call_function")}
    layers, named = layers_of(step), node_axes(step.module, step.inputs)
    axes = channel_axes(step)
    found = []
    for members in _tied(step, nodes).values():
        group = [nodes[name] for name in members]
        joined = any(joins_bins(node, named) for node in group)
        if not joined and not any(_fixes_scale(node, step, axes, layers, frozenset(members)) for node in group):
            found.append(_group(group, layers))
    return tuple(sorted((g for g in found if g is not None), key=lambda g: list(layers).index(g.name)))


def channel_axes(step: StepGraph) -> dict[str, int]:
    """Axis of the channels of every activation."""
    return {name: channel_axis(axes) for name, axes in node_axes(step.module, step.inputs).items()}


def _tied(step: StepGraph, nodes: dict[str, Node]) -> dict[str, tuple[str, ...]]:
    ties: Ties[str] = Ties()
    for node in nodes.values():
        ties.add(node.name)
        if str(node.target) in operations.TIED:
            for source in node.all_input_nodes:
                ties.tie(source.name, node.name)
    for before, after in zip(step.inputs[1:], step.outputs[1:], strict=True):
        ties.tie(before, after)
    return ties.groups()


def _fixes_scale(
    node: Node, step: StepGraph, axes: dict[str, int], layers: dict[str, Layer], members: frozenset[str]
) -> bool:
    operator = str(node.target)
    if node.name in (step.inputs[0], step.outputs[0]) or operator in operations.FREE or operator in operations.FIXED:
        return True
    if operator in _ALONG_AN_AXIS:
        along = node.args[1] if len(node.args) > 1 else 0
        if along % rank(node) == axes[node.name]:  # type: ignore[operator]
            return True
    readers = [user for user in node.users if user.op == "call_function" and user.name not in members]
    return any(user.name not in layers or layers[user.name].channel_axis != axes[node.name] for user in readers)


def _group(group: list[Node], layers: dict[str, Layer]) -> ChannelGroup | None:
    members = frozenset(node.name for node in group)
    producers = tuple(name for name in layers if name in members)
    consumers = tuple(name for name, layer in layers.items() if layer.node.args[0] in group and name not in members)
    if not producers or not consumers:
        return None
    return ChannelGroup(
        name=producers[0],
        channels=layers[producers[0]].weight.shape[0],
        members=members,
        producers=producers,
        consumers=consumers,
    )
