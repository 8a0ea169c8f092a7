"""Labelled clips in every variant: features once for all cells, float decisions once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.parity.task import LabelledClips
from edgeaudio.progress import Progress
from edgeaudio.sweep.variants import Variant
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import quantize

if TYPE_CHECKING:
    from edgeaudio_models.streaming import StreamingModule

BLOCK = 64
"""Clips that run side by side: their tensors stay within a few megabytes."""

Features = npt.NDArray[np.float32]
Decisions = npt.NDArray[np.intp]


def hear(
    clips: LabelledClips,
    variants: Sequence[Variant],
    *,
    spec: FeatureSpec,
    step_frames: int,
    progress: Progress | None = None,
) -> Features:
    """Compute the features of every clip in every variant, by the front end of the device.

    Args:
        clips: At the rate of ``spec``.
        variants: Ways to hear each.
        spec: What the network hears.
        step_frames: Of the network.
        progress: Called with (clips done, clips in all).

    Returns:
        Features ``[n, variants, T, n_features]``, each hearing from a reset of the front end.
    """
    frames = []
    for done, samples in enumerate(clips.waveforms):
        heard = (variant.apply(samples, spec.sample_rate) for variant in variants)
        frames.append([compute_features(spec, one, multiple_of=step_frames) for one in heard])
        if progress is not None:
            progress(done + 1, len(clips.labels))
    return np.array(frames, dtype=np.float32)


def digest_of(clips: LabelledClips, variants: Sequence[Variant]) -> str:
    """Hex digest of everything that :func:`hear` is given of the data."""
    digest = hashlib.sha256(np.ascontiguousarray(clips.waveforms).tobytes())
    digest.update(repr((clips.waveforms.shape, clips.labels, clips.speakers, tuple(variants))).encode())
    return digest.hexdigest()


def float_decisions(module: StreamingModule, features: Features, progress: Progress | None = None) -> Decisions:
    """Label indices ``[n, variants]`` of the float network, each hearing scored by its last step from a reset."""
    import torch

    from edgeaudio_models.streaming import run_from_reset

    decided: list[int] = []
    module.eval()
    with one_torch_thread(), torch.no_grad():
        for block in _blocks(features, progress):
            decided += run_from_reset(module, torch.from_numpy(block))[:, -1].argmax(dim=1).tolist()
    return np.array(decided, dtype=np.intp).reshape(features.shape[:2])


def integer_decisions(program: NumpyProgram, features: Features, progress: Progress | None = None) -> Decisions:
    """Label indices ``[n, variants]`` of an integer graph, each hearing scored by its last step from a reset.

    Many streams run side by side as a batch; the numpy engine is what the other engines are held to.
    """
    decided: list[int] = []
    for block in _blocks(features, progress):
        decided += last_logits(program, block).argmax(axis=1).tolist()
    return np.array(decided, dtype=np.intp).reshape(features.shape[:2])


def last_logits(program: NumpyProgram, features: Features) -> npt.NDArray[np.integer[Any]]:
    """Logit codes ``[n, n_labels]`` after the last step of a batch of streams ``[n, T, n_features]`` from reset."""
    signature, n = program.signature, len(features)
    codes = quantize(features, signature.input_quant)
    states = {name: np.repeat(state, n, axis=0) for name, state in program.initial_states().items()}
    per_pass, total = program.steps_per_pass, features.shape[1] // signature.step_frames
    logits = np.empty((n, 0, 1, signature.n_labels), dtype=signature.output_quant.dtype)
    for first in range(0, total, per_pass):
        steps = min(per_pass, total - first)
        part = codes[:, first * signature.step_frames : (first + steps) * signature.step_frames]
        shape = (n, *program.feature_shape(steps)[1:])
        logits, states = program.run_pass(np.ascontiguousarray(part).reshape(shape), states, steps)
    last: npt.NDArray[np.integer[Any]] = logits[:, -1].reshape(n, signature.n_labels)
    return last


def _blocks(features: Features, progress: Progress | None) -> Iterator[Features]:
    flat = features.reshape(-1, *features.shape[2:])
    for first in range(0, len(flat), BLOCK):
        yield flat[first : first + BLOCK]
        if progress is not None:
            progress(min(first + BLOCK, len(flat)), len(flat))
