"""What a card says of a wake word: misses and false accepts in streams, of the float network and its int8 form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeaudio.bench.wake_word import document, rows, thresholds_of
from edgeaudio.parity.float_reference import FloatSteps
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.parity.stream_section import hear_folders
from edgeaudio.parity.streams import FLOAT, Networks
from edgeaudio.progress import progress_bar
from edgeaudio.zoo.reproduce import shown
from edgeaudio_runtime.bundle import Bundle


def stream_figures(bundle: Bundle, steps: FloatSteps, positives: Path, negatives: Sequence[Path]) -> dict[str, Any]:
    """Rows of ``python -m edgeaudio.bench.wake_word`` for both networks, JSON-ready.

    Args:
        bundle: Of the wake word.
        steps: Begins a stream of the float network it was made from.
        positives: Recordings of the phrase, each heard from a reset.
        negatives: Folders without it, each heard as one stream.

    Returns:
        ``wake_word``: what the int8 bundle does, ``float_rows`` the same of the float network.
    """
    networks = Networks(bundle=bundle, program=bundle.program("auto"), float_steps=steps)
    with progress_bar("listening") as bar, one_torch_thread():
        results = hear_folders(networks, [positives], negatives, thresholds=thresholds_of(bundle), progress=bar)
    in_int8, in_float = document(bundle, results, rows(results)), rows(results, FLOAT)
    names = {str(folder): shown(folder) for folder in negatives}
    clear = in_int8["first_without_false_accept"]
    return {
        "wake_word": {
            **in_int8,
            "data": shown(positives),
            "hours": {names[folder]: hours for folder, hours in in_int8["hours"].items()},
            "rows": [_named(row, names) for row in in_int8["rows"]],
            "first_without_false_accept": None if clear is None else _named(clear, names),
            "float_rows": [_named(asdict(row), names) for row in in_float],
        }
    }


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row with its folders named for others."""
    by_folder = {names[folder]: count for folder, count in row["false_accepts_by_folder"].items()}
    return {**row, "false_accepts_by_folder": by_folder}
