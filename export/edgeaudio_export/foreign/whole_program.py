"""Networks that hear whole recordings, as step models of open length."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import OPSET_INT16
from edgeaudio_export.foreign.reader import prepared
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.torch_program import PROGRAM_TOLERANCE, onnx_of_program
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_runtime.quantization import QuantParams

TRACED_STEPS = 20
"""Length of the recording the network is traced on, in steps; not one at which two axes have one size by chance."""
CHECKED_STEPS = (1, 7)
"""Lengths at which the traced network is held against the module."""


def whole_step_model(
    network: nn.Module, *, n_features: int, n_labels: int, step_frames: int, features: QuantParams | None
) -> StepModel:
    """Trace ``network(features [1, T, n_features]) -> logits [1, T, n_labels]`` with T open.

    Args:
        network: In evaluation mode.
        n_features: Values in a frame.
        n_labels: Values in a logit vector.
        step_frames: T is a multiple of this.
        features: Quantization of the features, if known.

    Raises:
        ExportError: It cannot be traced at an open length, or computes something else then.
    """
    example = torch.zeros(1, TRACED_STEPS * step_frames, n_features)
    frames = torch.export.Dim("frames", min=step_frames, max=1 << 20)
    try:
        with quiet_torch(), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=({1: frames},), strict=False)
    except Exception as error:
        raise ExportError(
            f"torch.export cannot trace {type(network).__name__} at an open length: {str(error).splitlines()[0]}"
        ) from error
    step = StepModel(
        model=prepared(onnx_of_program(program, ["features"], ["logits"], opset=OPSET_INT16)),
        step_frames=step_frames,
        n_features=n_features,
        outputs_per_step=step_frames,
        n_labels=n_labels,
        state_names=(),
        state_shapes=(),
        whole=True,
        features=features,
        float_operations=("Conv",),
    )
    _check(network, step)
    return step


def _check(network: nn.Module, step: StepModel) -> None:
    runner, generator = OnnxRunner(step.model, step, whole=True), np.random.default_rng(0)
    for n_steps in CHECKED_STEPS:
        noise = generator.normal(0, 0.1, (n_steps * step.step_frames, step.n_features)).astype(np.float32)
        with torch.no_grad():
            wanted = network(torch.from_numpy(noise)[None])[0].numpy()
        found = runner.run_stream(noise)
        error = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
        if not error <= PROGRAM_TOLERANCE * max(float(np.abs(wanted).max()), 1.0):
            raise ExportError(
                f"its ONNX form differs from the network by {error:.3g} on {len(noise)} frames; this is a fault of the "
                "export: please report the model"
            )
