"""A gate by energy: open where the sound rises far enough above a noise floor that follows the room."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.features import FeatureSpec, MelSpec, PcmSpec

FLOOR_RISE_DB_PER_S = 2.0
"""Speed at which the noise floor climbs; it falls at once. A word of 1 s lifts it by 2 dB, a fan is learnt in 10 s."""


def decibels_per_unit(spec: FeatureSpec) -> float | None:
    """dB of mean band level for a unit of ``listener.activity``; None where features are no sum of logarithms."""
    if isinstance(spec, PcmSpec):
        return 1.0
    if not isinstance(spec, MelSpec) or spec.log == "none" or spec.n_dct or spec.affine_scale <= 0:
        return None
    # A magnitude of 10 is 20 dB, a power of 10 is 10 dB.
    of_log10 = 20.0 / spec.power
    per_log = {"ln": of_log10 / float(np.log(10.0)), "log10": of_log10, "10log10": of_log10 / 10.0}[spec.log]
    return per_log / (spec.n_mels * spec.affine_scale)


class NoiseGate:
    """Says for each network output whether something sounded in the averaging window before it.

    The floor is the least level so far, where a level of the past counts ``FLOOR_RISE_DB_PER_S`` more for every second
    since: ``floor[i] = min over j <= i of (level[j] + rise * (i - j))``. A frame opens the gate when its level is
    ``gate_db`` or more above the floor; the gate stays open for one averaging window, and is open for the first one of
    a stream, of which nothing is known yet. Memory is two numbers; cutting the frames into other calls changes nothing.
    """

    def __init__(self, gate_db: float, *, clock: StreamClock, decibels_per_unit: float) -> None:
        """Start a stream.

        Args:
            gate_db: Level above the floor that opens the gate.
            clock: Frame grid, step and averaging window of the network.
            decibels_per_unit: See :func:`decibels_per_unit`.
        """
        self._clock, self._gate_db, self._db = clock, gate_db, decibels_per_unit
        self._rise = FLOOR_RISE_DB_PER_S * clock.hop_length / clock.sample_rate
        self._lowest = np.inf  # of level - rise * frame, so far
        self._n_frames = 0
        self._last_open = 0

    def hear(self, activity: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Whether the gate is open at each output of the steps of ``activity``, one value a frame, NaN if unknown."""
        clock, n = self._clock, len(activity)
        frames = np.arange(self._n_frames, self._n_frames + n)
        risen = self._rise * frames
        level = np.where(np.isnan(activity), np.inf, activity.astype(np.float64) * self._db)
        lowest = np.minimum.accumulate(np.concatenate(([self._lowest], level - risen)))[1:]
        is_open = level >= lowest + risen + self._gate_db
        last_open = np.maximum.accumulate(np.where(is_open, frames, self._last_open))
        if n:
            self._lowest, self._last_open, self._n_frames = float(lowest[-1]), int(last_open[-1]), self._n_frames + n
        newest = slice(clock.step_frames - 1, None, clock.step_frames)
        steps: npt.NDArray[Any] = frames[newest] - last_open[newest] < clock.window_frames
        return np.repeat(steps, clock.outputs_per_step)
