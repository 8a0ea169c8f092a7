"""What a card says of a wake word: misses and false accepts in streams, of the float network and its int8 form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio.bench.wake_word import (
    SKIPPED_FOLDERS,
    THRESHOLDS,
    Codes,
    Recordings,
    document,
    listen,
    recordings,
    rows,
)
from edgeaudio.parity.float_reference import FloatNetwork
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.progress import say
from edgeaudio.zoo.reproduce import shown
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import QuantParams, quantize

FLOAT_LOGITS = QuantParams(scale=(2.0**-9,), dtype="int16")
"""Codes in which the detector is given float logits: steps of 0.002 up to 64, finer than any threshold."""


def stream_figures(bundle: Bundle, network: FloatNetwork, positives: Path, negatives: Sequence[Path]) -> dict[str, Any]:
    """Rows of ``python -m edgeaudio.bench.wake_word`` for both networks, JSON-ready.

    Args:
        bundle: Of the wake word.
        network: The float network it was made from.
        positives: Recordings of the phrase, each heard from a reset.
        negatives: Folders without it, each heard as one stream.

    Returns:
        ``wake_word``: what the int8 bundle does, ``float_rows`` the same of the float network.
    """
    thresholds = sorted({*THRESHOLDS, bundle.detector_config.threshold})
    heard = listen(bundle, positives, negatives, program=bundle.program("auto"), skipped=SKIPPED_FOLDERS)
    in_int8 = document(bundle, heard, rows(bundle, heard, thresholds))
    say("listening to the same in float")
    in_float = rows(bundle, _in_float(bundle, network, positives, negatives, heard), thresholds, quant=FLOAT_LOGITS)
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


def _in_float(
    bundle: Bundle, network: FloatNetwork, positives: Path, negatives: Sequence[Path], heard: Recordings
) -> Recordings:
    rate, step_frames = bundle.features.sample_rate, bundle.manifest.network.step_frames

    def codes(samples: Any) -> Codes:
        logits = network(compute_features(bundle.features, samples, multiple_of=step_frames))
        found: Codes = quantize(logits, FLOAT_LOGITS)
        return found

    with one_torch_thread():
        said = tuple(codes(clip) for clip in recordings(positives, rate, SKIPPED_FOLDERS))
        streams = {
            str(folder): codes(np.concatenate(list(recordings(folder, rate, SKIPPED_FOLDERS)))) for folder in negatives
        }
    return Recordings(positives=said, negatives=streams, hours=heard.hours)
