"""The file a killed training resumes from, written whole after every epoch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from edgeaudio_runtime.errors import EdgeAudioError
from edgeaudio_runtime.staging import OutputError, staged_file

STATE_VERSION = 1


class TrainingError(EdgeAudioError):
    """A training cannot start, go on or be resumed as asked."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) under a temporary name, then swap it in; OutputError if that fails."""
    try:
        with staged_file(path) as staged:
            torch.save({**state, "version": STATE_VERSION}, staged)
    except (OSError, RuntimeError) as error:
        remedy = "free space or choose another folder"
        raise OutputError(f"{path}: the training state cannot be written ({error}); {remedy}") from error


def load_state(path: Path, *, run: str) -> dict[str, Any] | None:
    """State of an earlier part of the same run, or None if there is none.

    Raises:
        TrainingError: The file is of another run (recipe or data differ), another version, or unreadable.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise TrainingError(f"{path}: no readable training state; remove it to start afresh") from error
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise TrainingError(f"{path}: written by another version; remove it to start afresh")
    if state.get("run") != run:
        raise TrainingError(f"{path}: belongs to another recipe or other data; remove it or train without resuming")
    return state
