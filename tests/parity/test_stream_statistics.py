"""Intervals of shares and rates against the tail sums that define them, and closed forms where nothing was counted."""

from __future__ import annotations

import math

import pytest
from scipy.stats import poisson
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.rates import confint_poisson
from statsmodels.stats.rates import test_poisson_2indep as ratio_test

from edgeaudio.parity.stream_statistics import (
    Outcome,
    claimable_rate,
    hours_needed,
    percentiles,
    rate_interval,
    rate_ratio_interval,
    share_interval,
)
from edgeaudio_runtime.errors import ParityError

AGREEMENT = 1e-6  # with other libraries, as promised
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


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 20), (7, 40), (40, 40), (3, 384), (950, 1023)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_shares_agree_with_statsmodels(count: int, total: int, confidence: float) -> None:
    expected = proportion_confint(count, total, alpha=1 - confidence, method="beta")
    assert share_interval(count, total, confidence=confidence) == pytest.approx(expected, abs=AGREEMENT)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 0.3085), (1, 0.0025, 0.4450), (2, 0.0252, 0.5561), (5, 0.1871, 0.8129), (9, 0.5550, 0.9975)],
)
def test_shares_of_ten_are_those_of_the_published_table(count: int, low: float, high: float) -> None:
    # Clopper and Pearson's limits for n = 10 as tables print them, to four decimals.
    assert share_interval(count, 10) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (2, 0.242, 7.225), (3, 0.619, 8.767), (5, 1.623, 11.668), (10, 4.795, 18.39)],
)
def test_rates_are_those_of_the_published_table(count: int, low: float, high: float) -> None:
    # Garwood's limits of a Poisson mean as tables print them, to three decimals.
    assert rate_interval(count, 1.0) == pytest.approx((low, high), abs=5.1e-4)


@pytest.mark.parametrize(("count", "hours"), [(0, 0.87), (1, 3.0), (17, 2.5), (400, 1000.0)])
def test_rates_agree_with_statsmodels(count: int, hours: float) -> None:
    expected = confint_poisson(count, hours, method="exact-c")
    assert rate_interval(count, hours) == pytest.approx(expected, abs=AGREEMENT)


def test_the_rule_of_three_is_exact() -> None:
    for hours in (0.1, 0.87, 5.99, 10_000.0):
        assert claimable_rate(hours) == pytest.approx(-math.log(0.05) / hours, abs=AGREEMENT)
        assert hours_needed(claimable_rate(hours)) == pytest.approx(hours, rel=AGREEMENT)


@pytest.mark.parametrize(("count", "hours"), [(1, 1.0), (4, 2.5), (60, 100.0)])
def test_what_is_claimable_is_where_so_few_events_are_just_too_rare(count: int, hours: float) -> None:
    assert poisson.cdf(count, claimable_rate(hours, count=count) * hours) == pytest.approx(0.05, abs=AGREEMENT)


@pytest.mark.parametrize(("first", "second", "hours"), [(5, 9, (1.0, 1.0)), (30, 12, (2.0, 1.5)), (1, 1, (1.0, 3.0))])
def test_ratios_of_rates_lie_where_the_conditional_test_just_rejects(
    first: int, second: int, hours: tuple[float, float]
) -> None:
    ends = rate_ratio_interval(first, second, *hours)
    for end, alternative in zip(ends, ("larger", "smaller"), strict=True):
        found = ratio_test(second, hours[1], first, hours[0], value=end, method="exact-cond", alternative=alternative)
        assert found.pvalue == pytest.approx(0.025, abs=AGREEMENT)


def test_ratios_of_rates_without_an_event_are_not_bounded() -> None:
    assert rate_ratio_interval(0, 0, 1.0, 1.0) == (0.0, math.inf)
    assert rate_ratio_interval(0, 4, 1.0, 1.0)[1] == math.inf
    assert rate_ratio_interval(4, 0, 1.0, 1.0)[0] == 0.0


def test_percentiles_of_a_hundred_and_one_steps_are_the_steps() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) is None


def test_what_was_not_heard_is_not_told() -> None:
    silent = Outcome(misses=0, positives=0, false_accepts=2, hours=4.0).to_dict()
    assert (silent["miss_rate"], silent["miss_rate_ci95"], silent["false_accepts_an_hour"]) == (None, None, 0.5)
    spoken = Outcome(misses=1, positives=4, false_accepts=0, hours=0.0).to_dict()
    assert (spoken["miss_rate"], spoken["false_accepts_an_hour"], spoken["claimable_an_hour"]) == (0.25, None, None)
