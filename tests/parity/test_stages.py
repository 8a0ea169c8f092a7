"""Verdicts of single rungs, by hand."""

import numpy as np
import pytest

from edgeaudio.parity.stages import (
    compare_codes,
    compare_reals,
    compare_sequences,
    compare_sqnr,
    compare_tolerant,
    sqnr_db,
)
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.tolerances import EXACT, CodeTolerance, code_tolerance

A = np.array([[0, 10, -128, 127]], dtype=np.int8)
B = np.array([[1, 10, 127, 127]], dtype=np.int8)


def test_code_distances_do_not_wrap() -> None:
    stage = compare_codes("engine", ("numpy", A), ("litert", B))
    assert (stage.compared, stage.mismatches, stage.max_lsb, stage.passed) == (4, 2, 255, False)


def test_an_allowed_share_of_codes_may_differ() -> None:
    assert compare_codes("x", ("a", A), ("b", B), allowed_lsb=1, allowed_share=0.25).passed
    assert not compare_codes("x", ("a", A), ("b", B), allowed_lsb=1, allowed_share=0.24).passed


def test_a_tolerance_bounds_both_the_largest_difference_and_the_share() -> None:
    near = np.array([[1, 10, -126, 127]], dtype=np.int8)
    stage = compare_tolerant("x", ("a", A), ("b", near), CodeTolerance(lsb=2, share=0.5))
    assert (stage.mismatches, stage.max_lsb, stage.passed) == (2, 2, True)
    assert stage.tolerance == "none off by more than 2, at most 50 % off"
    assert not compare_tolerant("x", ("a", A), ("b", near), CodeTolerance(lsb=1, share=0.5)).passed
    assert not compare_tolerant("x", ("a", A), ("b", near), CodeTolerance(lsb=2, share=0.25)).passed
    free = compare_tolerant("x", ("a", A), ("b", near), CodeTolerance(lsb=2, share=1.0))
    assert (free.passed, free.tolerance) == (True, "none off by more than 2")
    exact = compare_tolerant("x", ("a", A), ("b", A), EXACT)
    assert (exact.passed, exact.tolerance) == (True, "exact")
    assert not compare_tolerant("x", ("a", A), ("b", near), EXACT).passed


def test_tolerances_follow_the_type_of_the_logits() -> None:
    narrow, wide = QuantParams(scale=(0.1,)), QuantParams(scale=(0.1,), dtype="int16")
    assert code_tolerance(wide, exact=True) == EXACT
    assert code_tolerance(narrow, exact=False) == CodeTolerance(lsb=3, share=0.5)
    # A quarter of what an int8 code of the same range covers.
    assert code_tolerance(wide, exact=False) == CodeTolerance(lsb=256 // 4, share=1.0)


def test_nan_is_a_mismatch() -> None:
    stage = compare_reals("x", ("a", np.zeros(3)), ("b", np.array([0.0, np.nan, 0.0])), atol=1e-5, unit="nats")
    assert (stage.mismatches, stage.passed) == (1, False)


def test_hard_bound_holds_where_the_share_forgives() -> None:
    reference, candidate = np.zeros(1000), np.zeros(1000)
    candidate[0] = 5e-4
    assert compare_reals(
        "x", ("a", reference), ("b", candidate), atol=1e-4, unit="nats", allowed_share=1e-3, hard_atol=1e-3
    ).passed
    candidate[0] = 2e-3
    assert not compare_reals(
        "x", ("a", reference), ("b", candidate), atol=1e-4, unit="nats", allowed_share=1e-3, hard_atol=1e-3
    ).passed


def test_sqnr_of_a_tenth_is_twenty_db() -> None:
    assert sqnr_db(np.array([1.0, -1.0]), np.array([1.1, -1.1])) == pytest.approx(20.0)
    assert compare_sqnr("x", ("a", np.ones(2)), ("b", np.full(2, 1.1)), at_least_db=19.9).passed
    assert not compare_sqnr("x", ("a", np.ones(2)), ("b", np.full(2, 1.1)), at_least_db=20.1).passed


def test_a_missing_event_is_a_mismatch() -> None:
    assert compare_sequences("x", ("a", [1, 2]), ("b", [1]), compared=9).mismatches == 1
    assert compare_sequences("x", ("a", [1, 2]), ("b", [1, 2]), compared=9).passed


def test_empty_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ParityError, match=r"stage 'x': nothing to compare; give audio of at least one network step"):
        compare_codes("x", ("a", A[:0]), ("b", A[:0]))
    with pytest.raises(ParityError, match=r"reference has shape \(1, 4\), candidate \(4,\); they must be the same"):
        compare_codes("x", ("a", A), ("b", A[0]))
