"""The commands on a card: what was typed, with the folders of the machine named by what they hold."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeaudio.zoo.judging import Measurements

VARIABLE = "EDGEAUDIO_DATA"


def retrain_command(name: str, data: Path | None, measure: Measurements) -> str:
    """``edgeaudio zoo retrain`` of an entry from its corpus ``data``, with the same measurements."""
    words = ["edgeaudio zoo retrain", shlex.quote(name)]
    if data is not None:
        words += ["--data", shown(data)]
    if measure.folder != data:
        words += ["--test", shown(measure.folder)]
    for negatives in measure.negatives:
        words += ["--negatives", shown(negatives)]
    if measure.split is not None:
        words += ["--split", shlex.quote(measure.split)]
    for noise in measure.noise:
        title, _, pattern = noise.partition("=")
        words += ["--noise", f'"{title}={_below(Path(pattern))}"']
    if measure.background is not None:
        words += ["--background", shown(measure.background)]
    return " ".join([*words, "--output", f"build/{name}"])


def shown(path: Path) -> str:
    """A path for others: below ``$EDGEAUDIO_DATA`` where it lies there, else its last part."""
    below = _below(path)
    return below if below.startswith(f"${VARIABLE}") else shlex.quote(below)


def _below(path: Path) -> str:
    root = os.environ.get(VARIABLE)
    full = Path(os.path.abspath(path))
    if root and full.is_relative_to(os.path.abspath(root)):
        return f"${VARIABLE}/{full.relative_to(os.path.abspath(root)).as_posix()}"
    return full.name
