"""The PT2E quantizer: which tensors are int8 and which share parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.calibration import CalibrationSpec, StreamingHistogram
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.observers import HistogramObserver, PerChannelWeightObserver
from edgeaudio_export.ties import Ties
from edgeaudio_export.torchao_pt2e import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from edgeaudio_runtime.quantization import QuantParams

_FUSABLE = operations.WEIGHTED | {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor"}

WEIGHT_SPEC = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelWeightObserver,
)


class StreamingQuantizer(Quantizer):  # type: ignore[misc]
    """Static int8: weights symmetric per channel, activations affine per tensor, states tied to what fills them.

    Every activation is quantized once, where it is produced. An operation followed by a relu alone is quantized after
    the relu.
    """

    def __init__(
        self, spec: CalibrationSpec, placeholders: Mapping[str, str], state_pairs: tuple[tuple[str, str], ...]
    ) -> None:
        """``placeholders`` names the inputs for people; ``state_pairs`` are the nodes of each state going in and
        coming out."""
        super().__init__()
        self.histograms: dict[str, StreamingHistogram] = {}
        self._spec = spec
        self._placeholders = dict(placeholders)
        self._state_pairs = state_pairs

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write a quantization annotation on every activation and weight."""
        nodes = {node.name: node for node in model.graph.nodes if node.op in ("placeholder", "call_function")}
        for node in nodes.values():
            weights = {node.args[1]: WEIGHT_SPEC} if str(node.target) in operations.WEIGHTED else {}
            _annotate(node, weights, None)
        for group in self._groups(nodes).values():
            members = [nodes[name] for name in group]
            _annotate_output(members[0], self._lead_spec(members))
            for member in members[1:]:
                _annotate_output(member, SharedQuantizationSpec(members[0]))
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing further: the operations were checked before."""

    def _groups(self, nodes: dict[str, Node]) -> dict[str, tuple[str, ...]]:
        ties: Ties[str] = Ties()
        for node in nodes.values():
            if not fused_into_relu(node):
                ties.add(node.name)
                for source in tied_inputs(node):
                    ties.tie(source.name, node.name)
        for before, after in self._state_pairs:
            ties.tie(before, after)
        return ties.groups()

    def _lead_spec(self, members: list[Node]) -> QuantizationSpec | FixedQParamsQuantizationSpec:
        name = self._name(members)
        fixed = fixed_params(members)
        if fixed is not None:
            return FixedQParamsQuantizationSpec(
                dtype=torch.int8,
                scale=fixed.scale[0],
                zero_point=fixed.zero_point,
                quant_min=-128,
                quant_max=127,
                qscheme=torch.per_tensor_affine,
            )
        histogram = StreamingHistogram(name, self._spec.n_bins)
        self.histograms[name] = histogram
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=HistogramObserver.with_args(histogram=histogram, method=self._spec.method),
        )

    def _name(self, members: list[Node]) -> str:
        """An input's name where the group begins with one, else the module and operation that produce the values."""
        if members[0].name in self._placeholders:
            return self._placeholders[members[0].name]
        source = next((m for m in members if produces(m)), members[0])
        return f"{place(source)[1:-1]}/{source.name}"


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


def produces(node: Node) -> bool:
    """Whether the values of ``node`` are new: no input, and no tie to an input."""
    return node.op == "call_function" and not tied_inputs(node)


def fixed_params(members: list[Node]) -> QuantParams | None:
    """Parameters of a tie group that holds a sigmoid, tanh or softmax; None for any other group."""
    fixed = [m for m in members if str(m.target) in operations.FIXED]
    if not fixed:
        return None
    params = {operations.FIXED[str(m.target)] for m in fixed}
    others = [m for m in members if produces(m) and m not in fixed]
    if len(params) > 1 or others:
        raise ExportError(
            f"{fixed[0].target} in {place(fixed[0])} is tied to {place((others or fixed)[-1])} by cat, slice or add, "
            "but its scale is fixed; "
            "join them after a convolution"
        )
    return operations.FIXED[str(fixed[0].target)]


def _annotate(node: Node, inputs: dict[Node, QuantizationSpec], output: QuantizationSpec | None) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _annotate_output(
    node: Node, output: QuantizationSpec | SharedQuantizationSpec | FixedQParamsQuantizationSpec
) -> None:
    node.meta["quantization_annotation"].output_qspec = output
