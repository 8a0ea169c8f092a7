"""The three requantization rules against hand numbers and against exact arithmetic on Python integers."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.requantization import (
    fixed_point_multiplier,
    float_multiplier,
    requantizer,
    rounding_right_shift,
    scale_double_rounding,
    scale_single_rounding,
    scale_wide,
)

ACCUMULATORS = st.integers(-(2**31) + 1, 2**31 - 1)
# Multipliers of real layers lie around 1e-4 to 1e-1; the wide range also reaches left shifts.
REAL_MULTIPLIERS = st.floats(2.0**-20, 3.0, width=32)


def reference_fixed_point(real: float) -> tuple[int, int]:
    """Mantissa and exponent of ``real`` in exact arithmetic."""
    value, exponent = Fraction(real), 0
    while value >= 1:
        value, exponent = value / 2, exponent + 1
    while value < Fraction(1, 2):
        value, exponent = value * 2, exponent - 1
    mantissa = int(value * 2**31 + Fraction(1, 2))
    return (mantissa // 2, exponent + 1) if mantissa == 2**31 else (mantissa, exponent)


def reference_tflm(acc: int, mantissa: int, exponent: int) -> int:
    """gemmlowp's two roundings as it writes them: a nudge and a division towards zero, then a masked remainder."""
    product = (acc << max(exponent, 0)) * mantissa
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)
    shift = max(-exponent, 0)
    remainder, threshold = high & ((1 << shift) - 1), (((1 << shift) - 1) >> 1) + (1 if high < 0 else 0)
    return (high >> shift) + (1 if remainder > threshold else 0)


def float32(value: float) -> float:
    """Round to float32 without numpy."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def reference_fp32(acc: int, scale_in: float, scale_weight: float, scale_out: float) -> int:
    """Each step in float64, then rounded to float32; float64 holds a product of two float32; ``round`` is to even."""
    multiplier = float32(float32(scale_in * scale_weight) / scale_out)
    return round(float32(float32(float(acc)) * multiplier))


@given(real=REAL_MULTIPLIERS)
def test_fixed_point_multiplier_is_the_exact_split_rounded_once(real: float) -> None:
    split = fixed_point_multiplier(np.array(real, np.float64))
    assert (int(split.mantissa), int(split.exponent)) == reference_fixed_point(real)


def test_a_mantissa_that_rounds_up_to_one_moves_into_the_exponent() -> None:
    split = fixed_point_multiplier(np.array(1.0 - 2.0**-40))
    assert (int(split.mantissa), int(split.exponent)) == (2**30, 1)


def test_a_vanishing_multiplier_is_zero() -> None:
    split = fixed_point_multiplier(np.array(2.0**-40))
    assert int(scale_double_rounding(np.array([2**30]), split)[0]) == 0
    assert int(scale_single_rounding(np.array([2**30]), split)[0]) == 0


@pytest.mark.parametrize(
    ("value", "shift", "expected"),
    [
        (5, 1, 3),
        (-5, 1, -3),
        (3, 1, 2),
        (-3, 1, -2),
        (6, 2, 2),
        (-6, 2, -2),
        (5, 2, 1),
        (-5, 2, -1),
        (7, 0, 7),
        (-7, 0, -7),
    ],
)
def test_rounding_right_shift_takes_ties_away_from_zero(value: int, shift: int, expected: int) -> None:
    assert int(rounding_right_shift(np.array(value), shift)) == expected


@given(acc=ACCUMULATORS, real=REAL_MULTIPLIERS)
def test_tflm_rule_is_gemmlowps_double_rounding(acc: int, real: float) -> None:
    acc = acc >> 2  # keeps the left-shifted accumulator inside 32 bits, as gemmlowp requires
    expected = reference_tflm(acc, *reference_fixed_point(real))
    assert int(scale_double_rounding(np.array([acc]), fixed_point_multiplier(np.array(real)))[0]) == expected


@given(acc=ACCUMULATORS, real=REAL_MULTIPLIERS)
def test_single_rule_rounds_the_exact_product_once(acc: int, real: float) -> None:
    mantissa, exponent = reference_fixed_point(real)
    expected = (Fraction(acc * mantissa) * Fraction(2) ** (exponent - 31) + Fraction(1, 2)).__floor__()
    assert int(scale_single_rounding(np.array([acc]), fixed_point_multiplier(np.array(real)))[0]) == expected


@given(acc=st.integers(-(2**40), 2**40), real=REAL_MULTIPLIERS)
def test_wide_accumulators_use_a_15_bit_multiplier(acc: int, real: float) -> None:
    mantissa, exponent = reference_fixed_point(real)
    reduced = (mantissa + 2**15) // 2**16 if mantissa < 0x7FFF0000 else 0x7FFF
    expected = (Fraction(acc * reduced) * Fraction(2) ** (exponent - 15) + Fraction(1, 2)).__floor__()
    assert int(scale_wide(np.array([acc]), fixed_point_multiplier(np.array(real)))[0]) == expected


@given(
    acc=ACCUMULATORS,
    scale_in=st.floats(2.0**-12, 1.0, width=32),
    scale_weight=st.floats(2.0**-14, 0.5, width=32),
    scale_out=st.floats(2.0**-8, 1.0, width=32),
    zero_point=st.integers(-128, 127),
)
def test_fp32_rule_rounds_every_step_to_float32(
    acc: int,
    scale_in: float,
    scale_weight: float,
    scale_out: float,
    zero_point: int,
) -> None:
    bound = requantizer(
        "fp32",
        scale_in=scale_in,
        scale_weight=scale_weight,
        output=QuantParams(scale=(scale_out,), zero_point=zero_point),
    )
    expected = min(max(reference_fp32(acc, scale_in, scale_weight, scale_out) + zero_point, -128), 127)
    assert int(bound(np.array([acc]))[0]) == expected


@pytest.mark.parametrize("rule", ["fp32", "tflm", "single"])
@given(acc=st.integers(-(2**40), 2**40), scale=st.floats(2.0**-14, 1.0, width=32))
def test_every_rule_requantizes_int16_activations_alike(rule: str, acc: int, scale: float) -> None:
    output = QuantParams(scale=(1.0,), dtype="int16")
    mantissa, exponent = reference_fixed_point(scale)
    reduced = (mantissa + 2**15) // 2**16 if mantissa < 0x7FFF0000 else 0x7FFF
    expected = (Fraction(acc * reduced) * Fraction(2) ** (exponent - 15) + Fraction(1, 2)).__floor__()
    bound = requantizer(rule, scale_in=scale, scale_weight=1.0, output=output, wide=True)
    assert int(bound(np.array([acc]))[0]) == min(max(expected, -32768), 32767)


def test_rules_disagree_where_they_should() -> None:
    # Multiplier 1/2: 2.5 is a tie; fp32 takes it to even, the fixed-point rules up.
    params = QuantParams(scale=(1.0,))
    codes = {
        rule: requantizer(rule, scale_in=0.5, scale_weight=1.0, output=params)(np.array([5, -5])).tolist()
        for rule in ("fp32", "tflm", "single")
    }
    assert codes == {"fp32": [2, -2], "tflm": [3, -2], "single": [3, -2]}
    # Multiplier 1/4: tflm rounds twice, and its second rounding takes -2.5 away from zero.
    codes = {
        rule: requantizer(rule, scale_in=0.25, scale_weight=1.0, output=params)(np.array([-10])).tolist()
        for rule in ("fp32", "tflm", "single")
    }
    assert codes == {"fp32": [-2], "tflm": [-3], "single": [-2]}


def test_relu_clamps_at_the_zero_point_and_all_clip_at_the_type() -> None:
    params = QuantParams(scale=(1.0,), zero_point=-10)
    plain = requantizer("fp32", scale_in=1.0, scale_weight=1.0, output=params)
    relu = requantizer("fp32", scale_in=1.0, scale_weight=1.0, output=params, relu=True)
    acc = np.array([-500, -1, 0, 1, 500])
    assert plain(acc).tolist() == [-128, -11, -10, -9, 127]
    assert relu(acc).tolist() == [-10, -10, -10, -9, 127]


def test_multiplier_per_channel_applies_along_the_last_axis() -> None:
    bound = requantizer(
        "fp32", scale_in=1.0, scale_weight=np.array([1.0, 0.5], np.float32), output=QuantParams(scale=(1.0,))
    )
    assert bound(np.array([[4, 4], [6, 6]])).tolist() == [[4, 2], [6, 3]]
    assert float_multiplier(0.1, 0.1, 0.3) == np.float32(
        np.float32(np.float32(0.1) * np.float32(0.1)) / np.float32(0.3)
    )


def test_an_unknown_rule_and_a_per_channel_output_are_refused() -> None:
    with pytest.raises(SpecError, match=r"requantization='half' must be one of \['fp32', 'tflm', 'single'\]"):
        requantizer("half", scale_in=1.0, scale_weight=1.0, output=QuantParams(scale=(1.0,)))
    with pytest.raises(SpecError, match="axis=0 of an output must be None"):
        requantizer("fp32", scale_in=1.0, scale_weight=1.0, output=QuantParams(scale=(1.0, 2.0), axis=0))
