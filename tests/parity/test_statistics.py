"""The numbers a reviewer signs."""

import math
import statistics
from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from statsmodels.stats.contingency_tables import mcnemar

from edgeaudio.parity.statistics import (
    N_RESAMPLES,
    compare_decisions,
    mcnemar_p,
    percentile_interval,
    resample_by_speaker,
)
from edgeaudio.parity.verdict import NON_INFERIOR, NOT_ENOUGH_DATA, judge_change
from edgeaudio.speech_gate import area_under_roc
from edgeaudio_runtime.errors import ParityError

AGREEMENT = 1e-6  # with other libraries, as promised
SAMPLING = math.sqrt(math.log(2 / 1e-9) / (2 * N_RESAMPLES))
"""No empirical distribution of so many draws is further from the true one, but once in 10^9 (Dvoretzky, Kiefer,
Wolfowitz; Massart, 1990)."""


def test_accuracy_delta_and_agreement_of_a_hand_counted_case() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    reference = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])  # 8 right
    candidate = np.array([0, 1, 2, 0, 1, 2, 0, 2, 1, 1])  # 7 right, 8 the same as the reference
    result = compare_decisions(truth, reference, candidate, [""] * 10)
    assert (result.reference, result.candidate, result.n) == (0.8, 0.7, 10)
    assert result.delta == pytest.approx(-0.1)
    assert result.agreement == pytest.approx(0.8)


def test_independent_clips_give_the_binomial_interval() -> None:
    n, p = 1000, 0.9
    truth = np.zeros(n, dtype=int)
    candidate = (np.arange(n) >= n * p).astype(int)
    low, high = compare_decisions(truth, truth, candidate, [""] * n).candidate_ci95
    half_width = 1.96 * np.sqrt(p * (1 - p) / n)
    assert high - low == pytest.approx(2 * half_width, rel=0.05)


def test_clips_of_one_speaker_count_as_one() -> None:
    # Ten speakers of 100 clips each, one of them always wrong: the spread is that of ten draws, not of a thousand.
    truth = np.zeros(1000, dtype=int)
    candidate = (np.arange(1000) < 100).astype(int)
    speakers = [str(i // 100) for i in range(1000)]
    low, high = compare_decisions(truth, truth, candidate, speakers).candidate_ci95
    assert high == 1.0
    assert low == pytest.approx(0.7)  # Binomial(10, 0.1): P(>= 3) = 7.0 %, P(>= 4) = 1.3 %
    assert compare_decisions(truth, truth, candidate, speakers).n_speakers == 10


def test_nothing_to_compare_is_refused() -> None:
    empty = np.zeros(0, dtype=int)
    with pytest.raises(ParityError, match="0 labels, 0 and 0 decisions, 0 speakers; all four must be one number > 0"):
        compare_decisions(empty, empty, empty, [])


def test_discordant_decisions_are_counted_on_both_sides() -> None:
    truth = np.zeros(10, dtype=int)
    reference = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    candidate = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    result = compare_decisions(truth, reference, candidate, [""] * 10)
    assert (result.only_reference, result.only_candidate) == (3, 1)
    assert result.mcnemar_p == pytest.approx(0.625)  # 2 (C(4,0) + C(4,1)) / 2**4


@pytest.mark.parametrize(
    ("lost", "won", "expected"),
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (10, 10, 1.0), (15, 5, 0.04138946533203125)],
)
def test_mcnemar_is_the_exact_sign_test_of_the_discordant_pairs(lost: int, won: int, expected: float) -> None:
    # (15, 5): 2 * 21700 / 2**20, the sum of C(20, k) for k <= 5
    assert mcnemar_p(lost, won) == pytest.approx(expected, rel=1e-12)


def test_hearings_of_a_clip_add_no_units_to_the_interval() -> None:
    truth = np.zeros(400, dtype=int)
    once = (np.arange(400) % 10 == 0).astype(int)
    result = compare_decisions(truth, truth, once, [""] * 400)
    repeated = compare_decisions(truth, np.tile(truth[:, None], 16), np.tile(once[:, None], 16), [""] * 400)
    assert (repeated.n, repeated.n_hearings, repeated.n_speakers) == (400, 16, 400)
    assert repeated.candidate_ci95 == result.candidate_ci95
    assert repeated.only_reference == 16 * result.only_reference
    assert repeated.mcnemar_p == result.mcnemar_p


def test_hearings_that_differ_within_clips_narrow_the_interval() -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros(500, dtype=int)
    candidate = (generator.random((500, 16)) < 0.1).astype(int)
    low, high = compare_decisions(truth, np.zeros((500, 16), dtype=int), candidate, [""] * 500).candidate_ci95
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.1 * 0.9 / 8000), rel=0.1)


def test_agreement_has_the_interval_of_its_share() -> None:
    # Both are wrong on every clip and differ on one in ten: accuracies say nothing, agreement does.
    truth, reference = np.zeros(1000, dtype=int), np.ones(1000, dtype=int)
    candidate = 1 + (np.arange(1000) % 10 == 0).astype(int)
    result = compare_decisions(truth, reference, candidate, [""] * 1000)
    assert (result.delta, result.agreement) == (0.0, 0.9)
    low, high = result.agreement_ci95
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.09 / 1000), rel=0.05)


def test_clips_that_show_no_change_bound_it_by_their_number() -> None:
    # The rule of three: a change in 3 of n clips would hardly show in none of them.
    truth = np.zeros(100, dtype=int)
    result = compare_decisions(truth, truth, truth, ["one", "other"] * 50)
    assert result.ci95 == pytest.approx((-0.0299573, 0.0299573), abs=1e-6)
    assert judge_change(result.ci95, 0.02) == NOT_ENOUGH_DATA
    assert judge_change(result.ci95, 0.03) == NON_INFERIOR
    assert compare_decisions(truth[:2], truth[:2], truth[:2], ["", ""]).ci95 == (-1.0, 1.0)


def test_other_numbers_of_hearings_are_refused() -> None:
    truth = np.zeros(3, dtype=int)
    with pytest.raises(ParityError, match="16 and 1 hearings of each clip; both must be one number"):
        compare_decisions(truth, np.zeros((3, 16), dtype=int), truth, [""] * 3)


def test_mcnemar_agrees_with_statsmodels() -> None:
    for lost, won in product((0, 1, 2, 7, 30, 211), (0, 1, 3, 30, 180)):
        expected = mcnemar([[500, lost], [won, 20]], exact=True).pvalue if lost + won else 1.0
        assert mcnemar_p(lost, won) == pytest.approx(expected, abs=AGREEMENT)


def test_the_bootstrap_draws_from_all_resamples_of_the_speakers_evenly() -> None:
    # Four speakers of unequal share and size: each of the 4^4 resamples is equally likely.
    right, sizes = [3, 10, 1, 5], [4, 10, 8, 6]
    exact = [sum(right[i] for i in draw) / sum(sizes[i] for i in draw) for draw in product(range(4), repeat=4)]
    speakers = [str(i) for i in range(4) for _ in range(sizes[i])]
    values = np.concatenate([np.arange(n) < k for k, n in zip(right, sizes, strict=True)]).astype(np.float64)
    drawn = resample_by_speaker(values[:, None], speakers, seed=1)[:, 0]
    for value in sorted(set(exact)):
        share = sum(one <= value + 1e-12 for one in exact) / len(exact)
        assert np.mean(drawn <= value + 1e-12) == pytest.approx(share, abs=SAMPLING)


def test_the_interval_ends_are_the_quantiles_that_interpolate_between_order_statistics() -> None:
    samples = np.random.default_rng(5).standard_normal(N_RESAMPLES)
    cuts = statistics.quantiles(samples.tolist(), n=40, method="inclusive")
    assert percentile_interval(samples) == pytest.approx((cuts[0], cuts[-1]), abs=AGREEMENT)


def test_the_area_under_the_roc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(6)
    positive, negative = generator.integers(0, 9, 50) + 2.0, generator.integers(0, 9, 70) + 0.0
    pairs = mannwhitneyu(positive, negative).statistic / (50 * 70)
    assert area_under_roc(positive, negative) == pytest.approx(pairs, abs=AGREEMENT)
