"""Interleaved timing: every contender runs in every round, so that a busy machine slows all of them alike.

What is timed is processor time of the whole process, all its threads: it is wall-clock time on a quiet machine, and
on a busy one it leaves out the time in which other processes ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

WARM_UP_CALLS = 20
"""Calls before the first measured one: caches, lazy initialization, page faults."""

ROUND_US = 1000.0
"""A contender's share of a round: as many calls as fit, at least one. Short against the time slices of a busy machine,
so that the median round was not interrupted, and the same for all, so that nobody is interrupted more often."""

DEFAULT_ROUNDS = 200


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


def time_side_by_side(contenders: Mapping[Name, Contender], *, rounds: int = DEFAULT_ROUNDS) -> dict[Name, Timing]:
    """Time each contender in each round; a round yields the mean of a few calls, the rounds a distribution.

    One call that is not measured begins each share, so that what the others left in the caches is not counted.
    """
    n_calls = {name: _calls_per_round(contender) for name, contender in contenders.items()}
    samples: dict[Name, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            contender.call()
            us_per_call = _call_us(contender, n_calls[name])
            samples[name].append(us_per_call / (contender.audio_ms / 10))
    return {name: _summary(values) for name, values in samples.items()}


def _calls_per_round(contender: Contender) -> int:
    _call_us(contender, WARM_UP_CALLS)
    return max(1, int(ROUND_US / max(_call_us(contender, WARM_UP_CALLS), 0.1)))


def _call_us(contender: Contender, n_calls: int) -> float:
    call = contender.call
    begin = time.process_time_ns()
    for _ in range(n_calls):
        call()
    return (time.process_time_ns() - begin) / 1000 / n_calls


def _summary(values: list[float]) -> Timing:
    median, p95 = np.percentile(values, [50, 95])
    return Timing(median_us=float(median), p95_us=float(p95), min_us=min(values))
