"""What a detector is tuned on: logit codes of two halves of the recordings, no file in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.stream import LogitStream

Codes = npt.NDArray[np.integer[Any]]
Activity = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

CHOOSING, REPORTING = "choosing", "reporting"
"""The two halves: one to choose by, one to report on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """One stream of logit codes with what the detector wants beside them."""

    codes: Codes
    """``[k, n_labels]``."""
    activity: Activity
    """One loudness-like value a feature frame."""


@dataclass(frozen=True, kw_only=True)
class Half:
    """Recordings of one half, heard."""

    positives: tuple[Heard, ...]
    """Each recording of a keyword by itself, from a reset to its end."""
    negatives: Heard
    """All recordings without a keyword, one after the other as one stream."""
    hours: float
    """Length of that stream."""


def half_of(path: Path, root: Path) -> str:
    """Which half a recording is in, by a hash of its place below the folder: the same wherever the folder lies."""
    digest = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
    return (CHOOSING, REPORTING)[digest[0] & 1]


def hear_halves(
    bundle: Bundle,
    positives: Sequence[Path],
    negatives: Sequence[Path],
    *,
    program: Program,
    progress: Progress | None = None,
) -> dict[str, Half]:
    """Run the network over all recordings.

    Args:
        bundle: A keyword bundle.
        positives: Folders of recordings that hold one keyword each.
        negatives: Folders of recordings without one.
        program: The bundle's, of any engine.
        progress: Called with (recordings heard, recordings in all).

    Raises:
        ParityError: A folder holds no recording, or one half has none of a kind.
    """
    files = {kind: _files(folders) for kind, folders in (("positives", positives), ("negatives", negatives))}
    n_files, done = sum(map(len, files.values())), 0
    said: dict[str, list[Heard]] = {CHOOSING: [], REPORTING: []}
    streams = {half: _Stream(bundle, program) for half in said}
    for kind, found in files.items():
        for path, half in found:
            samples = _read(path, bundle.features.sample_rate)
            if kind == "positives":
                stream = _Stream(bundle, program)
                stream.push(samples)
                said[half].append(stream.end())
            else:
                streams[half].push(samples)
            done += 1
            if progress is not None:
                progress(done, n_files)
    rate = bundle.features.sample_rate
    return {
        half: Half(positives=tuple(said[half]), negatives=stream.end(), hours=stream.n_samples / rate / 3600)
        for half, stream in streams.items()
    }


class _Stream:
    """Codes and activity of one stream, collected."""

    def __init__(self, bundle: Bundle, program: Program) -> None:
        self._spec, self._stream = bundle.features, LogitStream(bundle.features, program)
        self._codes: list[Codes] = []
        self._activity: list[Activity] = []
        self.n_samples = 0

    def push(self, samples: npt.NDArray[np.int16]) -> None:
        self.n_samples += len(samples)
        self._keep(*self._stream.process(samples))

    def end(self) -> Heard:
        self._keep(*self._stream.flush())
        return Heard(codes=np.concatenate(self._codes), activity=np.concatenate(self._activity))

    def _keep(self, codes: Codes, features: npt.NDArray[np.float32]) -> None:
        self._codes.append(codes)
        self._activity.append(activity(self._spec, features))


def _files(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    from edgeaudio_models.audio_files import is_audio

    found = []
    for folder in folders:
        here = [(path, half_of(path, folder)) for path in sorted(folder.rglob("*")) if is_audio(path)]
        if not here:
            raise ParityError(f"{folder}: no recordings; give a folder that holds some")
        found += here
    halves = {half for _, half in found}
    if len(halves) < 2:
        rule = "one half chooses and the other reports"
        raise ParityError(f"{len(found)} recordings in {', '.join(map(str, folders))} are too few: {rule}; give more")
    return found


def _read(path: Path, rate: int) -> npt.NDArray[np.int16]:
    from edgeaudio_models.audio_files import read_audio

    samples: npt.NDArray[np.int16] = read_audio(path, sample_rate=rate, channel=0)[0]
    return samples
