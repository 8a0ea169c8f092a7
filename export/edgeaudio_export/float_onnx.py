"""ONNX models of a step with explicit states, all float32.

Inputs are ``features [1, step_frames, n_features]`` and ``state_<i>_in [1, C, K(, F)]``, outputs
``logits [1, outputs_per_step, n_labels]`` and ``state_<i>_out``.
"""

from __future__ import annotations

import contextlib
import io

import onnx
import torch
from torch.fx import GraphModule

from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.step_graph import OPSET, StepGraph

OPSET_INT16 = 21
"""The first operator set whose QuantizeLinear writes int16."""


def input_names(n_states: int) -> list[str]:
    """Names of the inputs, in order."""
    return ["features", *(f"state_{i}_in" for i in range(n_states))]


def output_names(n_states: int) -> list[str]:
    """Names of the outputs, in order."""
    return ["logits", *(f"state_{i}_out" for i in range(n_states))]


def to_onnx(module: GraphModule, step: StepGraph, opset: int = OPSET) -> onnx.ModelProto:
    """Export a step graph, float or with Q/DQ pairs, for a batch of one stream; int16 needs :data:`OPSET_INT16`."""
    n_states = len(step.outputs) - 1
    # The exporter reports its stages on stdout, which belongs to results.
    with quiet_torch(), contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            module,
            step.example(),
            dynamo=True,
            opset_version=opset,
            verbose=False,
            input_names=input_names(n_states),
            output_names=output_names(n_states),
        )
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model)
    return model
