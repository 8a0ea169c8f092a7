"""The search: of all settings that keep the rate of false accepts, those that miss least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from edgeaudio.parity.stream_statistics import claimable_rate, rate_interval, share_interval
from edgeaudio.tuning.material import Half, Heard
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.noise_gate import decibels_per_unit

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
SMOOTHINGS_S = (0.08, 0.12, 0.2, 0.3)
PATIENCES = (1, 2, 4)
REFRACTORIES_S = (0.5, 1.0, 2.0)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a detector made of one half."""

    misses: int
    """Recordings of a keyword without an event."""
    positives: int
    """Recordings of a keyword."""
    false_accepts: int
    """Events in the stream without a keyword."""
    hours: float
    """Length of this stream."""

    @property
    def miss_rate(self) -> float:
        """Share of the recordings that are missed."""
        return self.misses / self.positives

    @property
    def rate(self) -> float:
        """False accepts an hour."""
        return self.false_accepts / self.hours

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with exact 95 % intervals and what these hours allow one to claim."""
        return {
            "misses": self.misses,
            "positives": self.positives,
            "miss_rate": self.miss_rate,
            "miss_rate_ci95": list(share_interval(self.misses, self.positives)),
            "false_accepts": self.false_accepts,
            "hours": self.hours,
            "false_accepts_an_hour": self.rate,
            "false_accepts_an_hour_ci95": list(rate_interval(self.false_accepts, self.hours)),
            "claimable_an_hour": claimable_rate(self.hours, count=self.false_accepts),
        }


def try_settings(bundle: Bundle, config: DetectorConfig, half: Half) -> Outcome:
    """Misses and false accepts of a bundle with these settings, events counted as the runtime reports them."""
    return Outcome(
        misses=sum(not detect(bundle, config, heard) for heard in half.positives),
        positives=len(half.positives),
        false_accepts=len(detect(bundle, config, half.negatives)),
        hours=half.hours,
    )


def detect(bundle: Bundle, config: DetectorConfig, heard: Heard) -> list[KeywordEvent]:
    """Events of one stream."""
    network = bundle.manifest.network
    detector = KeywordDetector(
        config,
        labels=bundle.labels,
        background_labels=bundle.background_labels,
        output_quant=network.output_quant,
        clock=bundle.clock,
        output=network.output,
        decibels_per_unit=decibels_per_unit(bundle.features),
    )
    return [*detector.process(heard.codes, heard.activity), *detector.flush()]


def candidates(base: DetectorConfig) -> list[DetectorConfig]:
    """Settings without a threshold yet: every smoothing, patience and refractory time; the rest stays as it is."""
    return [
        replace(base, smoothing_s=smoothing_s, patience=patience, refractory_s=refractory_s, thresholds={}, releases={})
        for smoothing_s, patience, refractory_s in product(SMOOTHINGS_S, PATIENCES, REFRACTORIES_S)
    ]


def with_threshold(config: DetectorConfig, threshold: float) -> DetectorConfig:
    """The settings with this threshold, and a release that is not above it."""
    return replace(config, threshold=threshold, release=min(config.release, threshold))


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
    """Median and 95th percentile of the seconds from the end of the word to the first report; empty without events."""
    first = [events[0].latency_s for events in (detect(bundle, config, heard) for heard in recordings) if events]
    if not first:
        return {}
    return {"p50": float(np.percentile(first, 50)), "p95": float(np.percentile(first, 95))}
