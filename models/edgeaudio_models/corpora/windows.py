"""Short windows of speech and of everything else, cut from recordings by energy: what a voice activity detector learns.

Windows of speech hold speech nearly throughout, so that a label is true of the whole window; pauses of the same
recordings are windows of no speech, in the rooms and through the microphones in which speech was heard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio_models.audio_files import Int16, is_audio, read_audio
from edgeaudio_models.corpora.clips import SILENCE, SPLITS, Clip
from edgeaudio_models.corpora.opening import open_corpus
from edgeaudio_models.errors import CorpusError

SPEECH = "speech"
"""Label of a window that holds speech."""
FRAME_SECONDS = 0.01
"""Energy is taken over this long."""
FLOOR_PERCENTILE, PEAK_PERCENTILE = 10, 95
"""Of a recording's frame energies: what counts as its background and as its loud speech."""
SMALLEST_RANGE_DB = 12.0
"""A recording whose speech stands out by less says not where it is."""
ACTIVE_SHARE = 0.75
"""Share of a window's frames that must be above the middle of the range, in dB, for speech."""
QUIET_LEVEL = 0.25
"""A pause stays below this share of the range throughout."""
WINDOWS_PER_SECOND = 1.5
"""Windows taken of a recording; at least one, if it has one."""
PAUSES_PER_SECOND = 0.5
"""Pauses taken of a recording with speech; at least one, if it has one."""
HELD_OUT_PERCENT = 10
"""Share of speakers (or noise recordings) for validation, and as many for the test, where nothing else says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A labelled cut of a recording."""

    samples: Int16
    """``[n]``."""
    label: str
    """:data:`SPEECH` or ``_silence_``."""
    speaker: str
    """Who spoke, or in whose pause it lies; empty for noise."""
    split: str
    """"train", "validation" or "test"."""
    source: str
    """Name of the data set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPlan:
    """What to cut, and how long."""

    speech: tuple[Path, ...]
    """Corpora; clips of ``_silence_`` are left out. One without a test split is split by a hash of the speaker."""
    noise: tuple[tuple[str, Path], ...]
    """Data sets by name, each with a folder of its recordings, which hold no speech."""
    test_noise: tuple[str, ...] = ()
    """Beginnings of names of noise recordings that are for the test; none takes a share of them by hash."""
    seconds: float = 0.32
    """Length of a window."""
    sample_rate: int = 16_000
    """Of the windows, in Hz."""
    seed: int = 0
    """Of the choice among the windows of a recording."""

    def __post_init__(self) -> None:
        if not self.speech or not self.noise:
            counts = f"speech={len(self.speech)} and noise={len(self.noise)}"
            raise CorpusError(f"{counts} folders, there must be one of each at least")
        if not 0.1 <= self.seconds <= 2.0:
            raise CorpusError(
                f"seconds={self.seconds} must be in 0.1 to 2, the length of a syllable to that of a phrase"
            )


def cut_windows(plan: WindowPlan) -> Iterator[Window]:
    """All windows of ``plan``, recording by recording, in a stable order.

    Raises:
        CorpusError: A folder is missing or holds no audio.
        AudioError: A recording cannot be decoded.
    """
    for folder in plan.speech:
        corpus = open_corpus(folder)
        for clip in corpus.clips:
            if clip.label != SILENCE:
                split = clip.split if "test" in corpus.splits else held_out_split(clip.speaker or clip.path.name)
                yield from _of_speech(clip, split, plan)
    for source, folder in plan.noise:
        files = sorted(path for path in folder.rglob("*") if is_audio(path)) if folder.is_dir() else []
        if not files:
            raise CorpusError(f"{folder}: no recordings; give a folder of noise")
        for path in files:
            yield from _of_noise(path, source, plan)


def held_out_split(key: str, *, test: bool = True) -> str:
    """A split by a hash of ``key``: 10 % validation and, if ``test``, as many test."""
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if percent < HELD_OUT_PERCENT:
        return SPLITS[1]
    return SPLITS[2] if test and percent < 2 * HELD_OUT_PERCENT else SPLITS[0]


def find_speech(samples: Int16, *, sample_rate: int, seconds: float) -> tuple[list[int], list[int]]:
    """First samples of all windows that hold speech, and of all that lie in pauses; none where nothing stands out.

    The level of each 10 ms is compared with the range of the recording from background to loud speech (percentiles 10
    and 95), in dB: speech has three quarters of its frames above the middle, a pause all below a quarter.
    """
    size = round(FRAME_SECONDS * sample_rate)
    frames = samples[: len(samples) // size * size].astype(np.float64).reshape(-1, size)
    n_frames = round(seconds / FRAME_SECONDS)
    if len(frames) < n_frames:
        return [], []
    level = 10 * np.log10(np.square(frames).mean(axis=1) + 1.0)
    floor, peak = np.percentile(level, [FLOOR_PERCENTILE, PEAK_PERCENTILE])
    if peak - floor < SMALLEST_RANGE_DB:
        return [], []
    relative = np.lib.stride_tricks.sliding_window_view((level - floor) / (peak - floor), n_frames)
    spoken = np.flatnonzero((relative > 0.5).mean(axis=1) >= ACTIVE_SHARE) * size
    quiet = np.flatnonzero((relative < QUIET_LEVEL).all(axis=1)) * size
    return spoken.tolist(), quiet.tolist()


def _of_speech(clip: Clip, split: str, plan: WindowPlan) -> Iterator[Window]:
    samples = read_audio(clip.path, sample_rate=plan.sample_rate, start=clip.start or 0, stop=clip.stop)[0]
    found = find_speech(samples, sample_rate=plan.sample_rate, seconds=plan.seconds)
    rates = (WINDOWS_PER_SECOND, PAUSES_PER_SECOND)
    for starts, label, rate in zip(found, (SPEECH, SILENCE), rates, strict=True):
        most = max(1, round(rate * len(samples) / plan.sample_rate))
        for cut in _chosen(samples, starts, most, f"{clip.path.name} {label}", plan):
            yield Window(samples=cut, label=label, speaker=clip.speaker, split=split, source=clip.source)


def _of_noise(path: Path, source: str, plan: WindowPlan) -> Iterator[Window]:
    samples = read_audio(path, sample_rate=plan.sample_rate)[0]
    n_samples = round(plan.seconds * plan.sample_rate)
    starts = list(range(0, len(samples) - n_samples + 1, n_samples // 4))
    most = max(1, round(WINDOWS_PER_SECOND * len(samples) / plan.sample_rate))
    if plan.test_noise and path.name.startswith(plan.test_noise):
        split = SPLITS[2]
    else:
        # Takes of one recording ("1-17367-A") stay together.
        split = held_out_split(path.stem.rpartition("-")[0] or path.stem, test=not plan.test_noise)
    for cut in _chosen(samples, starts, most, path.name, plan):
        if np.count_nonzero(cut) > len(cut) // 2:  # the rest is digital silence, put there to fill the file
            yield Window(samples=cut, label=SILENCE, speaker="", split=split, source=source)


def _chosen(
    samples: Int16, starts: list[int], most: int, name: str, plan: WindowPlan
) -> Iterator[npt.NDArray[np.int16]]:
    """Up to ``most`` windows that do not overlap, drawn by the seed and the recording's name."""
    n_samples = round(plan.seconds * plan.sample_rate)
    digest = hashlib.sha256(f"{plan.seed} {name}".encode()).digest()
    drawn = np.random.default_rng(list(digest[:8])).permutation(len(starts))
    taken: list[int] = []
    for start in (starts[i] for i in drawn):
        if len(taken) == most:
            return
        if all(abs(start - other) >= n_samples for other in taken) and start + n_samples <= len(samples):
            taken.append(start)
            yield samples[start : start + n_samples]
