"""What counted events in streams allow one to claim: misses as a share, false accepts as a rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeaudio_runtime.errors import ParityError

CONFIDENCE = 0.95

PERCENTILES = (50, 90, 95, 99)
"""Of latencies."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a detector made of recordings with a keyword and of recordings without one."""

    misses: int
    """Recordings of a keyword without an event."""
    positives: int
    """Recordings of a keyword; 0 where there are none."""
    false_accepts: int
    """Events in the streams without a keyword."""
    hours: float
    """Length of these streams; 0 where there are none."""

    @property
    def miss_rate(self) -> float:
        """Share of the recordings that are missed."""
        return self.misses / self.positives

    @property
    def rate(self) -> float:
        """False accepts an hour."""
        return self.false_accepts / self.hours

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with exact 95 % intervals and what these hours allow one to claim; null what cannot be said."""
        values: dict[str, Any] = {"misses": self.misses, "positives": self.positives}
        values |= {"miss_rate": None, "miss_rate_ci95": None}
        if self.positives:
            values |= {
                "miss_rate": self.miss_rate,
                "miss_rate_ci95": list(share_interval(self.misses, self.positives)),
            }
        values |= {"false_accepts": self.false_accepts, "hours": self.hours}
        values |= dict.fromkeys(("false_accepts_an_hour", "false_accepts_an_hour_ci95", "claimable_an_hour"))
        if self.hours:
            values |= {
                "false_accepts_an_hour": self.rate,
                "false_accepts_an_hour_ci95": list(rate_interval(self.false_accepts, self.hours)),
                "claimable_an_hour": claimable_rate(self.hours, count=self.false_accepts),
            }
        return values


def share_interval(count: int, total: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Exact interval of a share, ``count`` of ``total`` (Clopper and Pearson, Biometrika 26, 1934).

    Raises:
        ParityError: ``total`` is no positive number, or ``count`` not within it.
    """
    from scipy.stats import beta

    if not 0 <= count <= total or total < 1:
        raise ParityError(f"count={count} of total={total} is no share; give 0 <= count <= total, total >= 1")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1.0 - tail, count + 1, total - count))
    return low, high


def rate_interval(count: int, hours: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Exact two-sided interval of a Poisson rate an hour, from ``count`` events in ``hours`` (Garwood, 1936).

    Raises:
        ParityError: ``hours`` is not above 0, or ``count`` below 0.
    """
    from scipy.stats import chi2

    _check_hours(hours)
    if count < 0:
        raise ParityError(f"count={count} must be >= 0")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(chi2.ppf(tail, 2 * count)) / 2.0
    return low / hours, float(chi2.ppf(1.0 - tail, 2 * count + 2)) / 2.0 / hours


def claimable_rate(hours: float, *, count: int = 0, confidence: float = CONFIDENCE) -> float:
    """Rate an hour that ``count`` events in ``hours`` allow one to claim to stay below: the one-sided upper bound.

    Without an event it is ``-ln(1 - confidence) / hours``, about 3 / hours at 95 %.

    Raises:
        ParityError: ``hours`` is not above 0.
    """
    from scipy.stats import chi2

    _check_hours(hours)
    return float(chi2.ppf(confidence, 2 * count + 2)) / 2.0 / hours


def hours_needed(rate: float, *, confidence: float = CONFIDENCE) -> float:
    """Hours without an event after which a rate an hour below ``rate`` may be claimed: ``-ln(1 - confidence) / rate``.

    Raises:
        ParityError: ``rate`` is not above 0.
    """
    if not rate > 0:
        raise ParityError(f"rate={rate:g} an hour must be > 0; no number of hours shows that nothing ever happens")
    return -math.log(1.0 - confidence) / rate


def rate_ratio_interval(
    first: int, second: int, first_hours: float, second_hours: float, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact interval of ``rate of second / rate of first`` of two Poisson counts; the upper end may be infinite.

    Given their sum, the second count is binomial with a share that the ratio determines (Przyborowski and Wilenski,
    Biometrika 31, 1940). Counts in the same recordings rise and fall together, which makes the interval too wide, not
    too narrow.

    Raises:
        ParityError: Hours are not above 0, or a count is below 0.
    """
    _check_hours(first_hours)
    _check_hours(second_hours)
    if first + second == 0:
        return 0.0, math.inf
    low, high = share_interval(second, first + second, confidence=confidence)
    hours = first_hours / second_hours
    return low / (1.0 - low) * hours, math.inf if high == 1.0 else high / (1.0 - high) * hours


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """:data:`PERCENTILES` of values, linear between order statistics, as "p50" and so on; None without values."""
    if not values:
        return None
    return {f"p{q}": float(np.percentile(values, q)) for q in PERCENTILES}


def _check_hours(hours: float) -> None:
    if not hours > 0:
        raise ParityError(f"hours={hours:g} must be > 0; give recordings to listen to")
