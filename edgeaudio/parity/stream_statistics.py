"""What counted events in streams allow one to claim: misses as a share, false accepts as a rate."""

from __future__ import annotations

import math

from edgeaudio_runtime.errors import ParityError

CONFIDENCE = 0.95

Interval = tuple[float, float]


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


def _check_hours(hours: float) -> None:
    if not hours > 0:
        raise ParityError(f"hours={hours:g} must be > 0; give recordings to listen to")
