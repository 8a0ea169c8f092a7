"""Groups of activations of a step graph that share one scale and zero point.

States belong to what fills them; cat, slice, add and the like tie their inputs to their output. Calibration finds one
range for a group and every quantization path gives it to all members.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_export.ties import Ties
from edgeaudio_runtime.quantization import QuantParams

_FUSABLE = operations.WEIGHTED | operations.PAIRWISE


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationGroup:
    """Activations that share scale and zero point."""

    name: str
    """"features", the name of a state, or the module and operation that produce the values: the same in every report,
    whichever path quantizes."""
    members: tuple[str, ...]
    """Nodes of the step graph; an operation that only a relu reads is none, its values are not coded."""
    computed: tuple[str, ...]
    """Those members that hold new values; the others only move values of these."""
    fixed: QuantParams | None
    """Parameters that do not depend on data (sigmoid, tanh, softmax), else None."""


def activation_groups(step: StepGraph) -> tuple[ActivationGroup, ...]:
    """All groups of a step graph, in the order in which it computes them.

    Raises:
        ExportError: A fixed scale is tied to another tensor's.
    """
    nodes = {node.name: node for node in step.module.graph.nodes if node.op in ("placeholder", "call_function")}
    ties: Ties[str] = Ties()
    for node in nodes.values():
        if not fused_into_relu(node):
            ties.add(node.name)
            for source in tied_inputs(node):
                ties.tie(source.name, node.name)
    for before, after in zip(step.inputs[1:], step.outputs[1:], strict=True):
        ties.tie(before, after)
    return tuple(_group(step, [nodes[name] for name in names]) for names in ties.groups().values())


def fused_into_relu(node: Node) -> bool:
    """Whether nothing but a relu reads the node, so that only the relu's output is a tensor of codes."""
    users = list(node.users)
    return str(node.target) in _FUSABLE and len(users) == 1 and str(users[0].target) == operations.RELU


def tied_inputs(node: Node) -> list[Node]:
    """Tensors that must share parameters with the output of ``node``."""
    operator = str(node.target)
    if operator not in operations.TIED:
        return []
    sources = node.all_input_nodes
    if operator == operations.RELU and fused_into_relu(sources[0]):
        return tied_inputs(sources[0])
    return sources


def _group(step: StepGraph, members: list[Node]) -> ActivationGroup:
    computed = [m.name for m in members if m.op == "call_function" and str(m.target) not in operations.MOVING]
    features = step.inputs[0]
    return ActivationGroup(
        name=_name(step, members),
        members=tuple(m.name for m in members),
        computed=tuple(([features] if features in {m.name for m in members} else []) + computed),
        fixed=_fixed_params(members),
    )


def _name(step: StepGraph, members: list[Node]) -> str:
    """An input's name where the group begins with one, else the module and operation that produce the values."""
    if members[0].name in step.inputs:
        names = ("features", *step.network.state_names)
        return names[step.inputs.index(members[0].name)]
    source = next((m for m in members if _produces(m)), members[0])
    return f"{place(source)[1:-1]}/{source.name}"


def _produces(node: Node) -> bool:
    """Whether the values of ``node`` are new: no input, and no tie to an input."""
    return node.op == "call_function" and not tied_inputs(node)


def _fixed_params(members: list[Node]) -> QuantParams | None:
    """Parameters of a tie group that holds a sigmoid, tanh or softmax; None for any other group."""
    fixed = [m for m in members if str(m.target) in operations.FIXED]
    if not fixed:
        return None
    params = {operations.FIXED[str(m.target)] for m in fixed}
    others = [m for m in members if _produces(m) and m not in fixed]
    if len(params) > 1 or others:
        raise ExportError(
            f"{fixed[0].target} in {place(fixed[0])} is tied to {place((others or fixed)[-1])} by cat, slice or add, "
            "but its scale is fixed; "
            "join them after a convolution"
        )
    return operations.FIXED[str(fixed[0].target)]
