"""Layers: each operation of the float step beside the operation of the integer graph that computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import StepGraph, constant
from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.quantization import dequantize

Float32 = npt.NDArray[np.float32]

_KINDS = {
    **dict.fromkeys(operations.WEIGHTED, "weighted"),
    "aten.add.Tensor": "add",
    "aten.sub.Tensor": "sub",
    "aten.mul.Tensor": "mul",
    "aten.sigmoid.default": "sigmoid",
    "aten.tanh.default": "tanh",
    "aten.softmax.int": "softmax",
}
_GRAPH_KINDS = {kind: kind for kind in _KINDS.values()} | {"conv": "weighted", "fully_connected": "weighted"}
"""Kinds that compute new values, float operator and integer operation under one name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One computing operation in both worlds."""

    name: str
    """Module path and operation, as reports and recipes name it."""
    node: Node
    """The float operation."""
    value: Node
    """The float node whose value the integer operation writes: the operation or the relu it took in."""
    op: Op
    """The integer operation."""

    @property
    def tensor(self) -> str:
        """Name of the tensor it writes in the integer graph."""
        return self.op.outputs[0]


def pair_layers(step: StepGraph, graph: IntegerGraph) -> tuple[Layer, ...]:
    """Pair the operations of a float step with those of an integer graph made from it, in running order.

    Raises:
        ExportError: The graph has other operations than the network.

    A quantization path may reorder branches, but not a chain; so the n-th of a kind, with weights of one shape, is the
    n-th of that kind and shape in the other world. Operations that only move or convert codes have no partner.
    """
    nodes: dict[str, list[Node]] = {}
    for node in step.module.graph.nodes:
        if node.op == "call_function" and str(node.target) in _KINDS:
            nodes.setdefault(_node_kind(step, node), []).append(node)
    found = [(op, _op_kind(graph, op)) for op in graph.ops if op.kind in _GRAPH_KINDS]
    counts = {kind: sum(k == kind for _, k in found) for kind in {*nodes, *(k for _, k in found)}}
    for kind, count in sorted(counts.items()):
        if count != len(nodes.get(kind, [])):
            raise ExportError(
                f"integer graph {graph.name!r} has {count} operations of kind {kind!r}, the network "
                f"{len(nodes.get(kind, []))}; export the graph from this network"
            )
    turns: dict[str, Iterator[Node]] = {kind: iter(group) for kind, group in nodes.items()}
    return tuple(_layer(next(turns[kind]), op) for op, kind in found)


def _node_kind(step: StepGraph, node: Node) -> str:
    """Kind of a float operation, with the shape of its weights if it has some."""
    kind = _KINDS[str(node.target)]
    return _with_shape(kind, constant(step.module, node.args[1]).shape) if kind == "weighted" else kind


def _op_kind(graph: IntegerGraph, op: Op) -> str:
    """The same of an integer operation."""
    kind = _GRAPH_KINDS[op.kind]
    if kind != "weighted":
        return kind
    shape = graph.tensors[weight_source(graph, op)].shape
    return _with_shape(kind, [shape[axis] for axis in (0, 3, 1, 2)] if len(shape) == 4 else shape)


def _with_shape(kind: str, shape: Sequence[int]) -> str:
    """Kind and weights ``[O, C/groups, KT, KF]``, missing axes of size 1."""
    sizes = [*shape, 1, 1][:4]
    return f"{kind} {'x'.join(map(str, sizes))}"


def _layer(node: Node, op: Op) -> Layer:
    relus = [user for user in node.users if str(user.target) == operations.RELU]
    value = relus[0] if op.attrs.get("relu") and relus else node
    return Layer(name=layer_name(node), node=node, value=value, op=op)


def layer_name(node: Node) -> str:
    """Module path and node name of a float operation, such as "blocks.0.pointwise.conv/conv1d_2"."""
    return f"{place(node)[1:-1]}/{node.name}"


def float_weight(step: StepGraph, layer: Layer) -> Float32:
    """Weight ``[O, C/groups, K]``, ``[O, C/groups, KT, KF]`` or ``[O, C]`` of a weighted layer, batch norms folded."""
    weight: Float32 = constant(step.module, layer.node.args[1]).numpy().astype(np.float32)
    return weight


def float_bias(step: StepGraph, layer: Layer) -> Float32 | None:
    """Bias ``[O]``, or None."""
    node = layer.node.args[2] if len(layer.node.args) > 2 else None
    return None if node is None else constant(step.module, node).numpy().astype(np.float32)


def is_weighted(layer: Layer) -> bool:
    """Whether the layer multiplies by weights of its own."""
    return str(layer.node.target) in operations.WEIGHTED


def weight_source(graph: IntegerGraph, op: Op) -> str:
    """Name of the constant that holds the weight, seen through a ``dequantize`` in front of a float operation."""
    made = {o.outputs[0]: o for o in graph.ops if o.kind == "dequantize"}
    name = op.inputs[1]
    return made[name].inputs[0] if name in made else name


def quantized_weight(graph: IntegerGraph, layer: Layer, shape: tuple[int, ...]) -> Float32:
    """What the weight of the integer graph stands for, float32 in the layout ``shape`` of the float weight."""
    name = weight_source(graph, layer.op)
    tensor, data = graph.tensors[name], graph.constants[name]
    real = data.astype(np.float32) if tensor.quant is None else dequantize(data, tensor.quant)
    # [O, KT, KF, C/groups] to [O, C/groups, KT, KF]; fully connected weights stand as they are.
    ordered = real.transpose(0, 3, 1, 2) if real.ndim == 4 else real
    return np.ascontiguousarray(ordered.reshape(shape))


def quantized_bias(graph: IntegerGraph, layer: Layer) -> Float32:
    """What the bias of the integer graph stands for, float32 ``[O]``."""
    tensor, data = graph.tensors[layer.op.inputs[2]], graph.constants[layer.op.inputs[2]]
    return data.astype(np.float32) if tensor.quant is None else dequantize(data, tensor.quant)


def in_graph_layout(axes: str, value: torch.Tensor) -> Float32:
    """A float value with axes such as "NCT" as ``[N, T, F, C]``."""
    sizes = dict(zip(axes, value.shape, strict=True))
    ordered: Float32 = value.permute([axes.index(name) for name in "NTFC" if name in sizes]).numpy()
    return ordered.reshape([sizes.get(name, 1) for name in "NTFC"])
