"""Folders of recordings that hold a keyword each, or none: which files count, and what is said in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError

QUIET_FOLDERS = ("_silence_", "_background_noise_")
"""They hold no speech: their hours would make a rate of false accepts look smaller than it is where people talk."""


def positive_files(bundle: Bundle, folder: Path, skipped: Sequence[str] = QUIET_FOLDERS) -> list[Path]:
    """Recordings below ``folder`` that hold a keyword: all but those in folders named for a background label or
    ``skipped``.

    Raises:
        ParityError: There is none.
    """
    return audio_files(folder, {*skipped, *bundle.background_labels})


def negative_files(bundle: Bundle, folder: Path, skipped: Sequence[str] = QUIET_FOLDERS) -> list[Path]:
    """Recordings below ``folder`` that hold none: all but those in folders named for a keyword or ``skipped``.

    Raises:
        ParityError: There is none.
    """
    keywords = set(bundle.labels) - set(bundle.background_labels)
    return audio_files(folder, {*skipped, *keywords})


def audio_files(folder: Path, skipped: set[str]) -> list[Path]:
    """Every recording below ``folder`` in the order of their names, but for folders in it of a ``skipped`` name.

    Raises:
        ParityError: There is none.
    """
    from edgeaudio_models.audio_files import is_audio

    every = (path for path in sorted(folder.rglob("*")) if is_audio(path))
    files = [path for path in every if not skipped & set(path.relative_to(folder).parts)]
    if not files:
        raise ParityError(f"{folder}: no recordings; give a folder that holds some")
    return files


def said_in(bundle: Bundle, path: Path) -> str | None:
    """The keyword that a recording's folder is named for; None where it says nothing."""
    name = path.parent.name
    return name if name in bundle.labels and name not in bundle.background_labels else None


def read_recording(path: Path, sample_rate: int) -> npt.NDArray[np.int16]:
    """Samples ``[n]`` at ``sample_rate`` Hz, of the first channel."""
    from edgeaudio_models.audio_files import read_audio

    samples: npt.NDArray[np.int16] = read_audio(path, sample_rate=sample_rate, channel=0)[0]
    return samples
