"""Intervals of shares and rates against the tail sums that define them, and closed forms where nothing was counted."""

from __future__ import annotations

import math

import pytest

from edgeaudio.parity.stream_statistics import claimable_rate, hours_needed, rate_interval, share_interval
from edgeaudio_runtime.errors import ParityError

ROUNDING = 1e-9  # of the special functions behind the intervals


def binomial_tail(least: int, n: int, share: float) -> float:
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(least, n + 1))


def poisson_head(most: int, mean: float) -> float:
    return sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(most + 1))


def test_a_share_lies_where_what_was_counted_is_just_not_too_rare() -> None:
    low, high = share_interval(7, 40)
    assert binomial_tail(7, 40, low) == pytest.approx(0.025, abs=ROUNDING)
    assert 1 - binomial_tail(8, 40, high) == pytest.approx(0.025, abs=ROUNDING)


def test_no_miss_and_nothing_but_misses_have_closed_forms() -> None:
    assert share_interval(0, 384) == (0.0, pytest.approx(1 - 0.025 ** (1 / 384)))
    assert share_interval(384, 384) == (pytest.approx(0.025 ** (1 / 384)), 1.0)


def test_a_rate_lies_where_what_was_counted_is_just_not_too_rare() -> None:
    low, high = rate_interval(3, 2.0)
    assert 1 - poisson_head(2, 2.0 * low) == pytest.approx(0.025, abs=ROUNDING)
    assert poisson_head(3, 2.0 * high) == pytest.approx(0.025, abs=ROUNDING)
    assert rate_interval(0, 2.0) == (0.0, pytest.approx(-math.log(0.025) / 2.0))


def test_the_shared_hours_of_speech_support_no_claim_below_three_and_a_half_an_hour() -> None:
    assert claimable_rate(0.87) == pytest.approx(3.443, abs=5e-4)  # 2.9957 / 0.87
    assert poisson_head(2, 5.0 * claimable_rate(5.0, count=2)) == pytest.approx(0.05, abs=ROUNDING)


def test_hours_needed_are_those_after_which_the_rate_is_claimable() -> None:
    assert hours_needed(0.1) == pytest.approx(29.957, abs=5e-4)
    assert claimable_rate(hours_needed(0.5)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: share_interval(5, 4), "count=5 of total=4 is no share"),
        (lambda: share_interval(0, 0), "total >= 1"),
        (lambda: rate_interval(0, 0.0), "hours=0 must be > 0"),
        (lambda: rate_interval(-1, 1.0), "count=-1 must be >= 0"),
        (lambda: claimable_rate(-1.0), "hours=-1 must be > 0"),
        (lambda: hours_needed(0.0), "rate=0 an hour must be > 0"),
    ],
)
def test_impossible_counts_are_refused(call: object, words: str) -> None:
    with pytest.raises(ParityError, match=words):
        call()  # type: ignore[operator]
