"""The numbers a reviewer signs."""

import numpy as np
import pytest

from edgeaudio.parity.statistics import compare_decisions
from edgeaudio_runtime.errors import ParityError


def test_accuracy_delta_and_agreement_of_a_hand_counted_case() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    reference = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])  # 8 right
    candidate = np.array([0, 1, 2, 0, 1, 2, 0, 2, 1, 1])  # 7 right, 8 the same as the reference
    result = compare_decisions(truth, reference, candidate, [""] * 10)
    assert (result.reference, result.candidate, result.n) == (0.8, 0.7, 10)
    assert result.delta == pytest.approx(-0.1)
    assert result.agreement == pytest.approx(0.8)


def test_interval_of_equal_decisions_is_a_point() -> None:
    decisions = np.array([0, 1, 0, 1])
    assert compare_decisions(np.array([0, 1, 1, 1]), decisions, decisions, ["a", "a", "b", ""]).ci95 == (0.0, 0.0)


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
