"""The PT2E quantizer: writes a quantization plan onto the step graph."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from edgeaudio_export.observers import PerChannelWeightObserver, PerTensorWeightObserver
from edgeaudio_export.quantization_plan import QuantizationPlan
from edgeaudio_export.torchao_pt2e import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from edgeaudio_runtime.quantization import QuantParams


class StreamingQuantizer(Quantizer):  # type: ignore[misc]
    """Weights symmetric per channel or per tensor, activations per tensor with given parameters, states tied to what
    fills them.

    Every activation that holds codes is quantized once, where it is produced. An operation followed by a relu alone is
    quantized after the relu. Tensors without parameters in the plan stay float32.
    """

    def __init__(self, plan: QuantizationPlan) -> None:
        super().__init__()
        self._plan = plan

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write a quantization annotation on every activation and weight."""
        nodes = {node.name: node for node in model.graph.nodes if node.op in ("placeholder", "call_function")}
        spec = weight_spec(per_channel=self._plan.recipe.per_channel)
        for node in nodes.values():
            _annotate(node, {node.args[1]: spec} if node.name in self._plan.int8_weights else {}, None)
        for group in self._plan.groups:
            self._annotate_group([nodes[name] for name in group.members if name in self._plan.params])
        return model

    def _annotate_group(self, members: list[Node]) -> None:
        for member in members[:1]:
            _annotate_output(member, _activation_spec(self._plan.params[member.name]))
        for member in members[1:]:
            same = self._plan.params[member.name] == self._plan.params[members[0].name]
            own = SharedQuantizationSpec(members[0]) if same else _activation_spec(self._plan.params[member.name])
            _annotate_output(member, own)

    def validate(self, model: GraphModule) -> None:
        """Nothing further: the operations were checked before."""


def weight_spec(*, per_channel: bool) -> QuantizationSpec:
    """int8 weights in [-127, 127], one scale for each output channel or one for all."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if per_channel else None,
        observer_or_fake_quant_ctr=PerChannelWeightObserver if per_channel else PerTensorWeightObserver,
    )


def _activation_spec(params: QuantParams) -> FixedQParamsQuantizationSpec:
    return FixedQParamsQuantizationSpec(
        dtype=getattr(torch, params.dtype),
        scale=params.scale[0],
        zero_point=params.zero_point,
        quant_min=params.low,
        quant_max=params.high,
        qscheme=torch.per_tensor_affine,
    )


def _annotate(node: Node, inputs: dict[Node, QuantizationSpec], output: QuantizationSpec | None) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _annotate_output(node: Node, output: SharedQuantizationSpec | FixedQParamsQuantizationSpec) -> None:
    node.meta["quantization_annotation"].output_qspec = output
