"""The weighted operations of a step graph: reading them, and a copy of the graph with others in their place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.activation_groups import fused_into_relu
from edgeaudio_export.calibration import WEIGHT_LEVELS, weight_scales
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.step_graph import StepGraph, add_constant, constant


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear operation."""

    name: str
    """Its node in the graph."""
    node: Node
    """That node."""
    weight: Tensor
    """``[O, I / groups, K]`` or ``[O, I / groups, KT, KF]`` of a convolution, ``[O, I]`` of a linear operation."""
    bias: Tensor
    """``[O]``; zeros where the operation has none."""
    groups: int
    """1 where every output reads every input; the number of channels of a depthwise convolution."""
    relu: bool
    """Whether a relu alone reads it."""

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in its input and output."""
        return 2 if self.weight.ndim == 2 else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every output reads one input channel."""
        return self.groups > 1 and self.weight.shape[1] == 1

    def run(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The operation on ``x`` with these weights, before any relu; differentiable."""
        operator: Any = self.node.target
        result: Tensor = operator(x, weight, bias, *self.node.args[3:])
        return result


def layers_of(step: StepGraph) -> dict[str, Layer]:
    """Every weighted operation by the name of its node, in order of execution."""
    nodes = [node for node in step.module.graph.nodes if str(node.target) in operations.WEIGHTED]
    return {node.name: _layer(step, node) for node in nodes}


def _layer(step: StepGraph, node: Node) -> Layer:
    weight = constant(step.module, node.args[1])
    has_bias = len(node.args) > 2 and node.args[2] is not None
    groups = node.args[6] if len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return Layer(
        name=node.name,
        node=node,
        weight=weight,
        bias=constant(step.module, node.args[2]) if has_bias else torch.zeros(weight.shape[0]),
        groups=groups,
        relu=fused_into_relu(node),
    )


def with_weights(step: StepGraph, changes: Mapping[str, tuple[Tensor, Tensor]]) -> StepGraph:
    """A copy of the graph in which the named layers have another weight and bias; ``step`` stays as it was."""
    with quiet_torch():
        module = copy.deepcopy(step.module)
    for node in list(module.graph.nodes):
        if node.name in changes:
            weight, bias = (value.detach().clone().float() for value in changes[node.name])
            weight_node = add_constant(module, node, f"{node.name}_weight", weight)
            bias_node = add_constant(module, node, f"{node.name}_bias", bias)
            node.args = (node.args[0], weight_node, bias_node, *node.args[3:])
    module.graph.eliminate_dead_code()
    module.recompile()
    return replace(step, module=module)


def spread_inputs(values: Tensor, layer: Layer) -> Tensor:
    """One value for each input channel, ``[I]``, where each meets the weights: broadcasts over ``layer.weight``."""
    outputs, width = layer.weight.shape[:2]
    rows = values.reshape(layer.groups, 1, width).expand(layer.groups, outputs // layer.groups, width)
    spread = rows.reshape(outputs, width)
    return spread.reshape(outputs, width, *[1] * (layer.weight.ndim - 2))


def per_output(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each output channel, ``[O]``, shaped to broadcast over ``weight``."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def scales_of(weight: Tensor, *, per_channel: bool) -> Tensor:
    """The int8 scale of every output channel or of all weights, shaped to broadcast over ``weight``."""
    return per_output(torch.from_numpy(weight_scales(weight.numpy(), per_channel=per_channel)), weight)


def nearest(weight: Tensor, *, per_channel: bool) -> Tensor:
    """Weights as the int8 codes closest to them give them back: what quantization makes of them."""
    scale = scales_of(weight, per_channel=per_channel)
    return torch.clamp(torch.round(weight / scale), -WEIGHT_LEVELS, WEIGHT_LEVELS) * scale


def channel_rows(values: Tensor, axis: int) -> Tensor:
    """An activation ``[N, C, T]``, ``[N, C, T, F]`` (axis 1) or ``[N, T, C]`` (axis 2) as rows ``[N * T * F, C]``."""
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])
