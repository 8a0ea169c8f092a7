"""What an integer graph costs: multiply-accumulates and weight bytes, and the share of each that runs in int8."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeaudio_runtime.graph import IntegerGraph, Op

_WEIGHTED = frozenset({"conv", "fully_connected"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OpCost:
    """Cost of one operation for one network step."""

    name: str
    """Where it came from, or its output."""
    kind: str
    macs: int
    """Multiply-accumulates."""
    weight_bytes: int
    """Bytes of weights and biases."""
    is_int8: bool
    """Whether activations and weights are int8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCosts:
    """Cost of a network step."""

    ops: tuple[OpCost, ...]
    """One for each operation, in order."""
    state_bytes: int
    """Bytes carried from step to step."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a step."""
        return sum(op.macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights and biases."""
        return sum(op.weight_bytes for op in self.ops)

    @property
    def int8_mac_share(self) -> float:
        """Share of multiply-accumulates on int8, 1.0 when there are none at all."""
        return _share(sum(op.macs for op in self.ops if op.is_int8), self.macs)

    @property
    def int8_byte_share(self) -> float:
        """Share of weight bytes in int8 operations, 1.0 when there are none at all."""
        return _share(sum(op.weight_bytes for op in self.ops if op.is_int8), self.weight_bytes)


def graph_costs(graph: IntegerGraph) -> GraphCosts:
    """Count the multiply-accumulates and bytes of one network step of ``graph``."""
    states = [graph.tensors[state.input] for state in graph.states]
    return GraphCosts(
        ops=tuple(_op_cost(graph, op) for op in graph.ops),
        state_bytes=sum(math.prod(state.shape) * _item_bytes(state.dtype) for state in states),
    )


def _op_cost(graph: IntegerGraph, op: Op) -> OpCost:
    constants = [graph.constants[name] for name in op.inputs if name in graph.constants]
    types = {graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}
    return OpCost(
        name=op.name or op.outputs[0],
        kind=op.kind,
        macs=_macs(graph, op),
        weight_bytes=sum(data.nbytes for data in constants),
        is_int8=types <= {"int8", "int32"},
    )


def _macs(graph: IntegerGraph, op: Op) -> int:
    """Each output value of a convolution or fully connected layer reads one row of the weight."""
    output = math.prod(graph.tensors[op.outputs[0]].shape)
    if op.kind in _WEIGHTED:
        weight = graph.tensors[op.inputs[1]].shape
        return output * math.prod(weight[1:])
    if op.kind == "mean_frequency":
        return math.prod(graph.tensors[op.inputs[0]].shape)
    return output if op.kind == "mul" else 0


def _item_bytes(dtype: str) -> int:
    return {"int8": 1, "int16": 2, "int32": 4, "float32": 4}[dtype]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
