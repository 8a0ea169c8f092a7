"""Path 1: PyTorch PT2E, from a step graph to an int8 simulation and a QDQ ONNX model with one set of parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.calibration.calibrate import Calibration
from edgeaudio_export.checks import place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import to_onnx
from edgeaudio_export.quantizer import StreamingQuantizer
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.step_graph import (
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
    """The int8 simulation; biases are whole multiples of their int32 scale."""
    step: StepGraph
    """Where it came from."""
    qdq: onnx.ModelProto
    """The same as an ONNX model."""

    def simulate(self, features: Features) -> Features:
        """Features ``[T, n_features]`` to dequantized logits ``[T_out, n_labels]``, one stream from reset."""
        return run_stream(self.module, self.step.network, features)


def quantize_with_pt2e(step: StepGraph, float_onnx: onnx.ModelProto, calibration: Calibration) -> Pt2eResult:
    """Annotate with the calibrated parameters, convert, and export to ONNX."""
    quantizer = StreamingQuantizer(calibration.groups, calibration.params())
    with quiet_torch(), torch.no_grad():
        prepared = prepare_pt2e(copy.deepcopy(step.module), quantizer)  # it writes into what it is given
        prepared(*step.example())  # one pass shows the weights to their observers
        converted = convert_pt2e(prepared)
    round_biases(converted)
    return Pt2eResult(module=converted, step=step, qdq=to_onnx(converted, step))


def round_biases(converted: GraphModule) -> None:
    """Round every bias to a multiple of input scale times weight scale, what an int32 bias can hold."""
    for node in list(converted.graph.nodes):
        if str(node.target) not in operations.WEIGHTED or len(node.args) < 3 or node.args[2] is None:
            continue
        scale = np.float32(_activation_scale(node)) * constant(converted, node.args[1].args[1]).numpy().astype(
            np.float32
        )
        codes = np.rint(constant(converted, node.args[2]).numpy().astype(np.float64) / scale)
        if np.abs(codes).max() > MAX_BIAS_CODE:
            raise ExportError(
                f"bias of {place(node)} needs code {np.abs(codes).max():.0f}, must be <= {MAX_BIAS_CODE}; "
                "the weights of that layer are too small for its bias"
            )
        rounded = torch.from_numpy((codes * scale.astype(np.float64)).astype(np.float32))
        bias = add_constant(converted, node, f"{node.name}_rounded_bias", rounded)
        node.args = (*node.args[:2], bias, *node.args[3:])
    converted.graph.eliminate_dead_code()
    converted.recompile()


def _activation_scale(node: Node) -> float:
    dequantize = node.args[0]
    assert isinstance(dequantize, Node)
    scale = dequantize.args[1]
    assert isinstance(scale, float)
    return scale
