"""The PT2E quantizer: which tensors are int8 and which share parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.activation_groups import ActivationGroup
from edgeaudio_export.observers import PerChannelWeightObserver
from edgeaudio_export.torchao_pt2e import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from edgeaudio_runtime.quantization import QuantParams

WEIGHT_SPEC = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelWeightObserver,
)


class StreamingQuantizer(Quantizer):  # type: ignore[misc]
    """Static int8: weights symmetric per channel, activations per tensor with given parameters, states tied to what
    fills them.

    Every activation is quantized once, where it is produced. An operation followed by a relu alone is quantized after
    the relu.
    """

    def __init__(self, groups: Sequence[ActivationGroup], params: Mapping[str, QuantParams]) -> None:
        """``params`` are those of each group, by its name."""
        super().__init__()
        self._groups = tuple(groups)
        self._params = dict(params)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write a quantization annotation on every activation and weight."""
        nodes = {node.name: node for node in model.graph.nodes if node.op in ("placeholder", "call_function")}
        for node in nodes.values():
            weights = {node.args[1]: WEIGHT_SPEC} if str(node.target) in operations.WEIGHTED else {}
            _annotate(node, weights, None)
        for group in self._groups:
            members = [nodes[name] for name in group.members]
            _annotate_output(members[0], _activation_spec(self._params[group.name]))
            for member in members[1:]:
                _annotate_output(member, SharedQuantizationSpec(members[0]))
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing further: the operations were checked before."""


def _activation_spec(params: QuantParams) -> FixedQParamsQuantizationSpec:
    return FixedQParamsQuantizationSpec(
        dtype=torch.int8,
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
