"""Feature streams for calibration, computed when they are asked for, and the conditions that probe its coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.probe_audio import at_level, to_int16
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features

Int16 = npt.NDArray[np.int16]
Features = npt.NDArray[np.float32]

CALIBRATION_LEVELS_DB = (0.0, -10.0, 6.0, -20.0)
"""Levels the calibration clips are played at, in turn: a device does not hear at the level of the recordings."""
CALIBRATION_SEED = 0
PROBE_LEVELS_DBFS = (0.0, -20.0, -40.0, -60.0)
"""Peaks of the clips in the level sweep of :func:`probe_conditions`."""
PROBE_NOISE_DBFS = (-60.0, -30.0, -10.0)
"""Effective values of the white noise there."""
PROBE_CLIPPING_DB = 20.0
"""Gain beyond full scale of the clips that a microphone would cut off."""
PROBE_CLIPS = 16
"""Clips in each condition."""


Array = TypeVar("Array", bound=npt.NDArray[Any])


class LazyArrays(Sequence[Array], Generic[Array]):
    """A sequence of arrays each of which is computed on access and not kept."""

    def __init__(self, length: int, compute: Callable[[int], Array]) -> None:
        self._length = length
        self._compute = compute

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | Sequence[Array]:
        chosen = range(self._length)[index]
        if isinstance(chosen, range):
            return LazyArrays(len(chosen), lambda i: self._compute(chosen[i]))
        return self._compute(chosen)


def calibration_streams(
    spec: FeatureSpec, clips: Int16 | Sequence[Int16], *, n_clips: int, step_frames: int
) -> LazyArrays[Features]:
    """Features of clips drawn with a fixed seed, at :data:`CALIBRATION_LEVELS_DB` in turn.

    Args:
        spec: Front end.
        clips: Recordings at its rate.
        n_clips: How many to draw; all of them if there are fewer.
        step_frames: Streams are flushed to a multiple of it.

    Returns:
        Streams ``[T, n_features]``; memory holds those that are in use, however many there are.
    """
    generator = np.random.default_rng(CALIBRATION_SEED)
    chosen = generator.permutation(len(clips))[:n_clips]

    def compute(turn: int) -> Features:
        samples = at_level(clips[chosen[turn]], CALIBRATION_LEVELS_DB[turn % len(CALIBRATION_LEVELS_DB)])
        return compute_features(spec, samples, multiple_of=step_frames)

    return LazyArrays(len(chosen), compute)


def probe_conditions(
    spec: FeatureSpec, clips: Int16 | Sequence[Int16], *, step_frames: int
) -> dict[str, Sequence[Features]]:
    """What a device may hear, by condition: speech from 0 to -60 dBFS, clipped speech, white noise, digital silence.

    Args:
        spec: Front end.
        clips: Recordings at its rate, not those of the calibration; the first :data:`PROBE_CLIPS` are used.
        step_frames: Streams are flushed to a multiple of it.

    Returns:
        Streams ``[T, n_features]`` by the name of the condition, for
        :func:`edgeaudio_export.calibration.coverage.coverage`; computed on access.
    """
    used = [np.asarray(clip) for clip in clips[:PROBE_CLIPS]]
    length = max(map(len, used))
    generator = np.random.default_rng(CALIBRATION_SEED)
    noise = generator.standard_normal(length)
    heard: dict[str, list[Int16]] = {
        f"speech at {level:g} dBFS": [_peak_at(clip, level) for clip in used] for level in PROBE_LEVELS_DBFS
    }
    heard[f"speech clipped by {PROBE_CLIPPING_DB:g} dB"] = [_peak_at(clip, PROBE_CLIPPING_DB) for clip in used]
    heard |= {f"noise at {level:g} dBFS": [to_int16(32768 * 10 ** (level / 20) * noise)] for level in PROBE_NOISE_DBFS}
    heard["digital silence"] = [np.zeros(length, dtype=np.int16)]
    return {condition: _streams(spec, samples, step_frames) for condition, samples in heard.items()}


def _streams(spec: FeatureSpec, samples: Sequence[Int16], step_frames: int) -> LazyArrays[Features]:
    return LazyArrays(len(samples), lambda i: compute_features(spec, samples[i], multiple_of=step_frames))


def _peak_at(clip: Int16, level_dbfs: float) -> Int16:
    peak = max(1, int(np.abs(clip.astype(np.int32)).max()))
    return to_int16(clip * (32768 * 10 ** (level_dbfs / 20) / peak))


def calibration_facts(spec: FeatureSpec) -> Mapping[str, object]:
    """What a manifest says of the clips beside what the calibration itself says."""
    return {
        "seed": CALIBRATION_SEED,
        "sample_rate": spec.sample_rate,
        "levels_db": list(CALIBRATION_LEVELS_DB),
    }
