"""How far back a step model of unknown make can hear, measured."""

from __future__ import annotations

import numpy as np

from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.onnx_runner import OnnxRunner

LONGEST_FRAMES = 500
"""Where the measurement ends; a recurrent network never forgets all."""
FORGOTTEN = 1e-3
"""Part of its largest effect below which a frame counts as forgotten."""


def receptive_field_frames(step: StepModel) -> int:
    """Feature frames one logit vector depends on, a multiple of the step, at most about :data:`LONGEST_FRAMES`.

    The same noise is heard twice, once with another first step; the last step whose logits then differ by more than
    :data:`FORGOTTEN` of the largest difference ends the field.
    """
    n_steps = -(-LONGEST_FRAMES // step.step_frames)
    noise = np.random.default_rng(0).standard_normal((n_steps * step.step_frames, step.n_features)).astype(np.float32)
    other = noise.copy()
    other[: step.step_frames] = -other[: step.step_frames]
    runner = OnnxRunner(step.model, step)
    effect = np.abs(runner.run_stream(noise) - runner.run_stream(other)).reshape(n_steps, -1).max(axis=1)
    heard = np.flatnonzero(effect > FORGOTTEN * effect.max())
    return int(step.step_frames * (heard[-1] + 1 if len(heard) else 1))
