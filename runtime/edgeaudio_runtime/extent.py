"""Where a word lies: the time grid of a stream, and the active stretch of the recent past."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.record import Record

_MARGIN_S = 0.5
"""Remembered beyond the averaging window, so that the pause before the word shows where the floor is."""
_BRIDGED_GAP_S = 0.1
"""Pauses inside a word (the closure of a stop) are shorter than this."""
_SHORTEST_S = 0.04
"""Shorter stretches are clicks, unless nothing else is there."""
_FLOOR_QUANTILE = 0.1
_LEVEL = 0.4
"""The level of activity lies at this share of the way from floor to peak."""
_MIN_CONTRAST = 0.05
"""Peak minus floor below this share of the larger size of the two is no contrast."""


class StreamClock(Record):
    """Ties network outputs and feature frames to seconds of audio since the last reset."""

    sample_rate: int
    """Hz."""
    hop_length: int
    """Samples between frames."""
    win_length: int
    """Samples in a frame."""
    first_offset: int
    """First sample of frame 0."""
    step_frames: int
    """Feature frames a network step consumes."""
    outputs_per_step: int
    """Outputs a network step yields."""
    window_frames: int
    """Feature frames the network averages; an upper bound for the length of a word."""

    @property
    def output_s(self) -> float:
        """Seconds between two outputs."""
        return self.step_frames * self.hop_length / self.sample_rate / self.outputs_per_step

    @property
    def memory_frames(self) -> int:
        """Feature frames worth remembering: the averaging window and a margin, in whole steps."""
        wanted = self.window_frames + round(_MARGIN_S * self.sample_rate / self.hop_length)
        return -(-wanted // self.step_frames) * self.step_frames

    @property
    def memory_outputs(self) -> int:
        """Outputs that cover the averaging window."""
        return -(-self.window_frames * self.outputs_per_step // self.step_frames)

    def n_frames_seen(self, output: int) -> int:
        """Feature frames that went in before output ``output`` came out: all those of its step."""
        return (output // self.outputs_per_step + 1) * self.step_frames

    def detected_s(self, output: int) -> float:
        """End of the last sample that output ``output`` depends on."""
        last = self.n_frames_seen(output) - 1
        return (self.first_offset + last * self.hop_length + self.win_length) / self.sample_rate

    def frame_start_s(self, frame: int) -> float:
        """Start of the hop around the centre of frame ``frame``."""
        first = self.first_offset + frame * self.hop_length + (self.win_length - self.hop_length) / 2
        return first / self.sample_rate

    def frame_end_s(self, frame: int) -> float:
        """End of the hop around the centre of frame ``frame``."""
        return self.frame_start_s(frame + 1)


def active_region(past: npt.NDArray[np.float32], *, clock: StreamClock, taken: int) -> tuple[int, int] | None:
    """Find the first and last frame of the word that ends at or before the newest frame.

    Args:
        past: Activity of the most recent frames, oldest first; NaN before the stream began or where unknown.
        clock: Frame grid.
        taken: Index in ``past`` of the last frame of the previous event; may be negative.

    Returns:
        Indices in ``past``, both inclusive, or None without contrast.

    The level is floor + 0.4 * (peak - floor); the floor is the 10 % quantile, the peak the maximum after ``taken`` and
    inside the averaging window. Stretches above the level with gaps of up to 0.1 s are one; those that begin at or
    before ``taken`` are cut there. Among those of at least 40 ms (else among all) the largest sum over the level wins.
    """
    first = max(0, len(past) - clock.window_frames, taken + 1)
    floor = _floor(past)
    if floor is None or first >= len(past):
        return None
    peak = float(np.fmax.reduce(past[first:]))
    if not np.isfinite(peak - floor) or peak - floor <= _MIN_CONTRAST * max(abs(peak), abs(floor)):
        return None
    level = floor + _LEVEL * (peak - floor)
    runs = _runs(past >= level, n_bridged(clock))
    # A run that reaches into the searched part keeps its true start, unless that belongs to the previous event.
    runs = [(max(a, taken + 1), b) for a, b in runs if b >= first]
    candidates = [run for run in runs if run[1] - run[0] + 1 >= _frames(clock, _SHORTEST_S)] or runs
    if len(candidates) == 1:
        return candidates[0]
    excess = np.fmax(past - level, 0)
    return max(candidates, key=lambda run: float(np.add.reduce(excess[run[0] : run[1] + 1])))


def _floor(past: npt.NDArray[np.float32]) -> float | None:
    """The quantile of what is known, between its two neighbours; ``np.quantile`` takes as long as all the rest."""
    n_known = int(np.count_nonzero(past == past))
    if not n_known:
        return None
    below, part = divmod(_FLOOR_QUANTILE * (n_known - 1), 1)
    rising = np.sort(past)  # NaN come last
    low, high = float(rising[int(below)]), float(rising[min(int(below) + 1, n_known - 1)])
    return low + part * (high - low)


def n_bridged(clock: StreamClock) -> int:
    """Frames of the longest gap inside one word."""
    return _frames(clock, _BRIDGED_GAP_S)


def _frames(clock: StreamClock, seconds: float) -> int:
    return round(seconds * clock.sample_rate / clock.hop_length)


def _runs(active: npt.NDArray[np.bool_], bridged: int) -> list[tuple[int, int]]:
    # Inclusive (first, last) of the stretches of True, joined over gaps of at most ``bridged``.
    runs: list[tuple[int, int]] = []
    edges = np.flatnonzero(active[1:] != active[:-1]).tolist()  # the last frame before each change
    bounds = [*([-1] if active[0] else []), *edges, *([len(active) - 1] if active[-1] else [])]
    for before, last in zip(bounds[::2], bounds[1::2], strict=True):
        if runs and before - runs[-1][1] <= bridged:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((before + 1, last))
    return runs
