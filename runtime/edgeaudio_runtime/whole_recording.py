"""Features of a whole recording where a frame may depend on all of it: what cannot stream, for windowed bundles.

Also the tail rule, which streams and whole recordings share.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.frame_transform import FrameTransform, preemphasize

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def check_multiple(multiple_of: int) -> None:
    """Refuse to round up to multiples of nothing.

    Raises:
        SpecError: ``multiple_of`` is < 1.
    """
    if multiple_of < 1:
        raise SpecError(f"multiple_of={multiple_of} must be >= 1; 1 rounds to nothing")


def padded_frames(spec: FeatureSpec, n_samples: int, multiple_of: int) -> int:
    """``spec.n_frames(n_samples)`` rounded up to ``multiple_of``.

    Raises:
        SpecError: ``multiple_of`` is < 1.
    """
    check_multiple(multiple_of)
    return -(-spec.n_frames(n_samples) // multiple_of) * multiple_of


def end_of_frames(spec: FeatureSpec, n_frames: int) -> int:
    """Sample after the last one that the first ``n_frames`` frames cover; 0 for no frame."""
    return (n_frames - 1) * spec.hop_length + spec.first_offset + spec.win_length if n_frames else 0


def whole_recording_features(spec: MelSpec, signal: Float64, multiple_of: int) -> Float32:
    """Features ``[n_frames, n_features]`` of ``signal``, full scale at -1..1, by any specification."""
    n_frames = padded_frames(spec, len(signal), multiple_of)
    if not n_frames:
        return np.empty((0, spec.n_features), dtype=np.float32)
    signal = normalize_utterance(spec, signal)
    if spec.edge == "zeros":
        # Silence behind the recording is part of the stream, so it goes through the pre-emphasis too.
        signal = np.pad(signal, (0, max(0, end_of_frames(spec, n_frames) - len(signal))))
    if spec.preemphasis_scope == "stream":
        preemphasize(signal, spec)
    frames = frame_signal(spec, signal, n_frames)
    transform = FrameTransform(spec, n_frames)
    if spec.utterance == "dynamic_range":
        return transform.floored_features(frames, spec.utterance_range)
    return transform.features(frames)


def normalize_utterance(spec: MelSpec, signal: Float64) -> Float64:
    """A copy of ``signal`` scaled by the rule ``spec.utterance``; silence (no positive peak) keeps its scale."""
    signal = signal - signal.mean() if spec.utterance == "centred_peak" else signal.copy()
    peak = {"signed_peak": signal.max(), "centred_peak": np.abs(signal).max()}.get(spec.utterance, 1.0)
    return signal / peak if peak > 0 else signal


def frame_signal(spec: MelSpec, signal: Float64, n_frames: int) -> Float64:
    """``signal`` as ``[n_frames, win_length]``, where it is too short with ``spec.edge`` before and behind it."""
    left = max(0, -spec.first_offset)
    right = max(0, end_of_frames(spec, n_frames) - len(signal))
    padded = np.pad(signal, (left, right), mode="reflect" if spec.edge == "reflect" else "constant")
    slots = np.lib.stride_tricks.sliding_window_view(padded[max(0, spec.first_offset) :], spec.win_length)
    return np.asarray(slots[:: spec.hop_length][:n_frames])
