"""Path 1: PyTorch PT2E, from a step graph to an int8 simulation and a QDQ ONNX model with one set of parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import OPSET_INT16, to_onnx
from edgeaudio_export.quantization_plan import QuantizationPlan
from edgeaudio_export.quantizer import StreamingQuantizer
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.step_graph import (
    OPSET,
    Features,
    StepGraph,
    add_constant,
    constant,
    run_stream,
)
from edgeaudio_export.torchao_pt2e import convert_pt2e, prepare_pt2e

MAX_BIAS_CODE = 2**30
"""Largest bias code: half of int32, so that bias and products fit the accumulator together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pt2eResult:
    """What path 1 yields."""

    module: GraphModule
    """The simulation; biases of integer operations are whole multiples of their int32 scale."""
    step: StepGraph
    """Where it came from."""
    qdq: onnx.ModelProto
    """The same as an ONNX model."""

    def simulate(self, features: Features) -> Features:
        """Features ``[T, n_features]`` to dequantized logits ``[T_out, n_labels]``, one stream from reset."""
        return run_stream(self.module, self.step.network, features)


def quantize_with_pt2e(step: StepGraph, plan: QuantizationPlan) -> Pt2eResult:
    """Annotate as the plan says, convert, and export to ONNX; the step graph stays as it was."""
    quantizer = StreamingQuantizer(plan)
    with quiet_torch(), torch.no_grad():
        prepared = prepare_pt2e(copy.deepcopy(step.module), quantizer)
        prepared(*step.example())  # one pass shows the weights to their observers
        converted = convert_pt2e(prepared)
    if plan.recipe.scheme.weights == "float16":
        round_weights(converted)
    round_biases(converted, plan)
    qdq = to_onnx(converted, step, OPSET_INT16 if plan.is_wide else OPSET)
    return Pt2eResult(module=converted, step=step, qdq=qdq)


def round_weights(converted: GraphModule) -> None:
    """Round the weights of every convolution and linear layer to float16, as which they will be stored."""
    for node in _weighted(converted):
        weight = constant(converted, node.args[1])
        if float(weight.abs().max()) > torch.finfo(torch.float16).max:
            raise ExportError(
                f"weight of {place(node)} reaches {float(weight.abs().max()):.3g}, float16 ends at "
                f"{torch.finfo(torch.float16).max:.0f}; store it as float32"
            )
        rounded = add_constant(converted, node, f"{node.name}_float16", weight.half().float())
        node.args = (node.args[0], rounded, *node.args[2:])
    _tidy(converted)


def round_biases(converted: GraphModule, plan: QuantizationPlan) -> None:
    """Round the biases of integer operations to multiples of input scale times weight scale, as int32 holds them."""
    for node in _weighted(converted):
        if node.name not in plan.integer_operations or len(node.args) < 3 or node.args[2] is None:
            continue
        scale = np.float32(_scale(node.args[0])) * _weight_scale(converted, node)
        codes = np.rint(constant(converted, node.args[2]).numpy().astype(np.float64) / scale)
        if np.abs(codes).max() > MAX_BIAS_CODE:
            raise ExportError(
                f"bias of {place(node)} needs code {np.abs(codes).max():.0f}, must be <= {MAX_BIAS_CODE}; "
                "the weights of that layer are too small for its bias"
            )
        rounded = torch.from_numpy((codes * scale.astype(np.float64)).astype(np.float32))
        bias = add_constant(converted, node, f"{node.name}_rounded_bias", rounded)
        node.args = (*node.args[:2], bias, *node.args[3:])
    _tidy(converted)


def _weighted(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if str(node.target) in operations.WEIGHTED]


def _tidy(module: GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.recompile()


def _weight_scale(module: GraphModule, node: Node) -> npt.NDArray[np.float32]:
    """Scales ``[O]`` or ``[1]`` of quantized weights."""
    weight = node.args[1]
    assert isinstance(weight, Node)
    if "per_tensor" in str(weight.target):
        return np.array([_scale(weight)], dtype=np.float32)
    return constant(module, weight.args[1]).numpy().astype(np.float32)


def _scale(dequantize: object) -> float:
    assert isinstance(dequantize, Node)
    scale = dequantize.args[1]
    assert isinstance(scale, float)
    return scale
