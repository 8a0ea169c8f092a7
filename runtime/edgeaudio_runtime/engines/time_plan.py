"""How tensors grow when several network steps run in one call, and whether that equals running them one by one."""

from __future__ import annotations

from collections.abc import Mapping

from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.record import Record


class Growth(Record):
    """Frames of a tensor for k steps: ``fixed + k * per_step``."""

    fixed: int
    """Frames that come before this call's audio."""
    per_step: int
    """Frames each step adds."""


def time_plan(graph: IntegerGraph) -> Mapping[str, Growth] | None:
    """Growth of every tensor when k steps run at once, or None when only one step at a time gives the same result.

    Several steps may run at once when every state is a FIFO (its concatenation with the frames that later fill it) and
    no operation loses or delays frames of its own. A recurrent cell is the common case of None.
    """
    plan: dict[str, Growth] = {graph.input: Growth(fixed=0, per_step=graph.step_frames)}
    for state in graph.states:
        plan[state.input] = Growth(fixed=graph.tensors[state.input].shape[1], per_step=0)
    for name in graph.constants:
        plan[name] = Growth(fixed=0, per_step=0)
    for op in graph.ops:
        growth = _growth(graph, op, plan)
        if growth is None or growth.fixed < 0:
            return None
        plan[op.outputs[0]] = growth
    if plan[graph.output] != Growth(fixed=0, per_step=graph.outputs_per_step):
        return None
    return plan


def _growth(graph: IntegerGraph, op: Op, plan: Mapping[str, Growth]) -> Growth | None:
    if op.kind == "concat" and op.attrs["axis"] == 1:
        return _concat_growth(graph, op, plan)
    first = plan[op.inputs[0]]
    if op.kind == "slice" and op.attrs["axis"] == 1:
        return _slice_growth(graph, op, first)
    if op.kind in _PAIRWISE:
        constants = [name for name in op.inputs if name in graph.constants]
        if not constants:
            return _pairwise_growth(graph, op, plan)
        if any(graph.tensors[name].shape[1] > 1 for name in constants):
            return None
    data = [plan[name] for name in op.inputs if name not in graph.constants]
    # A state that is not read through its FIFO stands for one step only.
    if not data or any(growth != data[0] or growth.per_step == 0 for growth in data):
        return None
    if op.kind == "conv":
        return _conv_growth(graph, op, first)
    return data[0]


_PAIRWISE = frozenset({"add", "sub", "mul"})


def _pairwise_growth(graph: IntegerGraph, op: Op, plan: Mapping[str, Growth]) -> Growth | None:
    """Equal growth, or one frame a step that holds for all frames of its step."""
    first, second = sorted((plan[name] for name in op.inputs), key=lambda growth: growth.per_step)
    if first.per_step == 0:
        return None
    if first == second:
        return first
    is_held = first.per_step == 1 and first.fixed == second.fixed == 0
    return second if is_held and second.per_step == graph.tensors[op.outputs[0]].shape[1] else None


def _conv_growth(graph: IntegerGraph, op: Op, growth: Growth) -> Growth | None:
    stride = op.attrs.get("stride", (1, 1))[0]
    if growth.per_step % stride:
        return None
    per_step = growth.per_step // stride
    return Growth(fixed=graph.tensors[op.outputs[0]].shape[1] - per_step, per_step=per_step)


def _concat_growth(graph: IntegerGraph, op: Op, plan: Mapping[str, Growth]) -> Growth | None:
    states = {state.input: state.output for state in graph.states}
    if len(op.inputs) != 2 or op.inputs[0] not in states:
        return None
    stream = plan[op.inputs[1]]
    if stream.fixed or not stream.per_step or not _fills(graph, states[op.inputs[0]], op):
        return None
    return Growth(fixed=plan[op.inputs[0]].fixed, per_step=stream.per_step)


def _fills(graph: IntegerGraph, state_output: str, concat: Op) -> bool:
    """Whether the state ends as the last frames of the concatenation it begins."""
    if state_output in (concat.outputs[0], concat.inputs[1]):
        return True
    writer = next((op for op in graph.ops if state_output in op.outputs), None)
    if writer is None or writer.kind != "slice" or writer.attrs["axis"] != 1:
        return False
    return writer.attrs["stop"] == 0 and writer.inputs[0] in (concat.outputs[0], concat.inputs[1])


def _slice_growth(graph: IntegerGraph, op: Op, growth: Growth) -> Growth | None:
    length = op.attrs["stop"] - op.attrs["start"]
    if any(state.output == op.outputs[0] for state in graph.states):
        return Growth(fixed=length, per_step=0)
    if length < growth.per_step or not growth.per_step:
        return None
    return Growth(fixed=length - growth.per_step, per_step=growth.per_step)
