"""What a detector is tuned on: logit codes of two halves of the recordings, no file in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.recordings import negative_files, positive_files, read_recording, said_in
from edgeaudio.parity.streams import INT8, Block, Networks, hear, silent_tail, sound_end_s
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError

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
    label: str | None = None
    """The keyword it is known to say; None takes any."""
    sound_end_s: float = 0.0
    """Where its sound ends, by energy."""


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
    said, other = _files(bundle, positives, positive_files), _files(bundle, negatives, negative_files)
    networks, rate = Networks(bundle=bundle, program=program), bundle.features.sample_rate
    n_files, done = len(said) + len(other), 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, n_files)

    def spoken(path: Path) -> Heard:
        samples = read_recording(path, rate)
        blocks = hear(networks, [samples, silent_tail(bundle)])
        told()
        return _joined(blocks, label=said_in(bundle, path), sound_end=sound_end_s(samples, rate))

    halves = {}
    for half in (CHOOSING, REPORTING):
        words = tuple(spoken(path) for path, its in said if its == half)
        stream = _Negatives([path for path, its in other if its == half], rate, told)
        heard = _joined(hear(networks, stream))
        halves[half] = Half(positives=words, negatives=heard, hours=stream.n_samples / rate / 3600)
    return halves


class _Negatives:
    """The recordings of one half without a keyword, joined as they are heard."""

    def __init__(self, files: Sequence[Path], rate: int, told: Callable[[], None]) -> None:
        self._files, self._rate, self._told = files, rate, told
        self.n_samples = 0

    def __iter__(self) -> Iterator[npt.NDArray[np.int16]]:
        for path in self._files:
            samples = read_recording(path, self._rate)
            self.n_samples += len(samples)
            yield samples
            self._told()


def _joined(blocks: Iterable[Block], *, label: str | None = None, sound_end: float = 0.0) -> Heard:
    every = list(blocks)
    return Heard(
        codes=np.concatenate([block.codes[INT8] for block in every]),
        activity=np.concatenate([block.activity for block in every]),
        label=label,
        sound_end_s=sound_end,
    )


def _files(
    bundle: Bundle, folders: Sequence[Path], find: Callable[[Bundle, Path], list[Path]]
) -> list[tuple[Path, str]]:
    found = [(path, half_of(path, folder)) for folder in folders for path in find(bundle, folder)]
    halves = {half for _, half in found}
    if len(halves) < 2:
        rule = "one half chooses and the other reports"
        raise ParityError(f"{len(found)} recordings in {', '.join(map(str, folders))} are too few: {rule}; give more")
    return found
