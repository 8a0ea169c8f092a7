"""The search: of all settings that keep the rate of false accepts, those that miss least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from edgeaudio.parity.stream_statistics import Outcome, percentiles
from edgeaudio.parity.streams import THRESHOLDS, detector, of_label, with_threshold
from edgeaudio.tuning.material import Half, Heard
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.events import KeywordEvent

SMOOTHINGS_S = (0.08, 0.12, 0.2, 0.3)
PATIENCES = (1, 2, 4)
REFRACTORIES_S = (0.5, 1.0, 2.0)

Progress = Callable[[int, int], None]


def try_settings(bundle: Bundle, config: DetectorConfig, half: Half) -> Outcome:
    """Misses and false accepts of a bundle with these settings, events counted as the runtime reports them."""
    return Outcome(
        misses=sum(not detect(bundle, config, heard) for heard in half.positives),
        positives=len(half.positives),
        false_accepts=len(detect(bundle, config, half.negatives)),
        hours=half.hours,
    )


def detect(bundle: Bundle, config: DetectorConfig, heard: Heard) -> list[KeywordEvent]:
    """Events of one stream; of a recording that is known to say a keyword, those of that one."""
    listener = detector(bundle, config)
    return of_label([*listener.process(heard.codes, heard.activity), *listener.flush()], heard.label)


def candidates(base: DetectorConfig) -> list[DetectorConfig]:
    """Settings without a threshold yet: every smoothing, patience and refractory time; the rest stays as it is."""
    return [
        replace(base, smoothing_s=smoothing_s, patience=patience, refractory_s=refractory_s, thresholds={}, releases={})
        for smoothing_s, patience, refractory_s in product(SMOOTHINGS_S, PATIENCES, REFRACTORIES_S)
    ]


def lowest_threshold(bundle: Bundle, config: DetectorConfig, half: Half, *, target: float) -> tuple[float, int] | None:
    """The lowest of :data:`THRESHOLDS` that keeps ``target`` false accepts an hour, and how many there were.

    By bisection: a higher threshold is taken to accept no more. None if even the highest accepts too many.
    """
    most = int(np.floor(target * half.hours + 1e-9))
    counts: dict[int, int] = {}
    low, high = 0, len(THRESHOLDS)
    while low < high:
        middle = (low + high) // 2
        counts[middle] = len(detect(bundle, with_threshold(config, THRESHOLDS[middle]), half.negatives))
        low, high = (low, middle) if counts[middle] <= most else (middle + 1, high)
    return None if low == len(THRESHOLDS) else (THRESHOLDS[low], counts[low])


def choose(
    bundle: Bundle, half: Half, *, target: float, progress: Progress | None = None
) -> tuple[DetectorConfig, Outcome]:
    """The settings that miss least at no more than ``target`` false accepts an hour, jointly over all four.

    Ties go to fewer false accepts, then to the shorter smoothing, patience and refractory time, which answer sooner.

    Args:
        bundle: Whose detector it is.
        half: What to choose by.
        target: False accepts an hour, > 0.
        progress: Called with (settings tried, settings in all).

    Raises:
        ParityError: ``target`` is not above 0, or no settings keep it.
    """
    if not target > 0:
        raise ParityError(f"target={target:g} false accepts an hour must be > 0; no recordings show that there is none")
    best: tuple[tuple[int, int, int], DetectorConfig] | None = None
    every = candidates(bundle.detector_config)
    for tried, config in enumerate(every):
        found = lowest_threshold(bundle, config, half, target=target)
        if found is not None:
            settled = with_threshold(config, found[0])
            misses = sum(not detect(bundle, settled, heard) for heard in half.positives)
            rank = (misses, found[1], tried)
            best = min([(rank, settled), *([best] if best else [])], key=lambda entry: entry[0])
        if progress is not None:
            progress(tried + 1, len(every))
    if best is None:
        rule = f"even threshold {THRESHOLDS[-1]} accepts more in {half.hours:.2f} hours"
        raise ParityError(f"target={target:g} false accepts an hour cannot be kept: {rule}; allow more")
    return best[1], try_settings(bundle, best[1], half)


def trade_off(bundle: Bundle, config: DetectorConfig, half: Half) -> list[dict[str, Any]]:
    """Misses against false accepts at every threshold (a DET curve; Martin et al., Eurospeech 1997), JSON-ready."""
    outcomes = ((t, try_settings(bundle, with_threshold(config, t), half)) for t in THRESHOLDS)
    return [{"threshold": threshold, **outcome.to_dict()} for threshold, outcome in outcomes]


def latencies_s(bundle: Bundle, config: DetectorConfig, recordings: Sequence[Heard]) -> dict[str, float]:
    """Percentiles of the seconds from the end of the sound to the first event; empty without events."""
    events = ((heard, detect(bundle, config, heard)) for heard in recordings)
    return percentiles([found[0].detected_s - heard.sound_end_s for heard, found in events if found]) or {}
