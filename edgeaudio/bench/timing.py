"""Interleaved timing: every contender runs in every round, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

WARM_UP_CALLS = 20
"""Calls before the first measured one: caches, lazy initialization, page faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Distribution of one contender's time, in microseconds per 10 ms of audio."""

    median_us: float
    p95_us: float
    min_us: float

    def to_dict(self) -> dict[str, float]:
        """JSON form, to a nanosecond."""
        return {key: round(value, 3) for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Something to time: ``call`` processes ``audio_ms`` of audio."""

    call: Callable[[], object]
    audio_ms: float
    calls_per_round: int = 50


def time_side_by_side(contenders: Mapping[str, Contender], *, rounds: int = 40) -> dict[str, Timing]:
    """Time each contender in each round; a round yields the mean of a few calls, the rounds a distribution."""
    for contender in contenders.values():
        for _ in range(WARM_UP_CALLS):
            contender.call()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            samples[name].append(_round_us(contender))
    return {name: _summary(values) for name, values in samples.items()}


def _round_us(contender: Contender) -> float:
    call = contender.call
    begin = time.perf_counter_ns()
    for _ in range(contender.calls_per_round):
        call()
    elapsed_us = (time.perf_counter_ns() - begin) / 1000
    return elapsed_us / contender.calls_per_round / (contender.audio_ms / 10)


def _summary(values: list[float]) -> Timing:
    median, p95 = np.percentile(values, [50, 95])
    return Timing(median_us=float(median), p95_us=float(p95), min_us=min(values))
