"""Repetitions of one frame or bin that the operation behind them makes by itself: they go."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgeaudio_export import operations

_STRETCHING = frozenset({"aten.repeat_interleave.self_int", "aten.expand.default"})


def drop_stretches(module: GraphModule) -> None:
    """Let additions and products read what an ``expand`` or ``repeat_interleave`` before them reads.

    One step of a network has one value for all its frames where a stream of many steps has to repeat it, so that only
    the former broadcasts. A repetition that anything else reads, or of more than one value, stays as it is.
    """
    for node in list(module.graph.nodes):
        if str(node.target) in _STRETCHING and _broadcasts(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _broadcasts(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = source.meta["val"].shape[1:], node.meta["val"].shape[1:]
    if len(before) != len(after) or any(old not in (new, 1) for old, new in zip(before, after, strict=True)):
        return False
    stretched = {i: new for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    return all(_fills(user, node, stretched) for user in node.users)


def _fills(user: Node, node: Node, sizes: dict[int, int]) -> bool:
    """Whether the other operand of an addition or product has these sizes."""
    if str(user.target) not in operations.PAIRWISE:
        return False
    others = [other for other in user.args[:2] if isinstance(other, Node) and other is not node]
    shapes = [other.meta["val"].shape[1:] for other in others]
    return bool(others) and all(shape[i] == size for shape in shapes for i, size in sizes.items())
