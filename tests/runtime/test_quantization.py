"""Codes and quantization parameters."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import Quantizer, QuantParams, dequantize, quantize


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    params = QuantParams(scale=(0.5,), zero_point=3)
    real = np.array([0.25, 0.75, -0.25, 1.0, 300.0, -300.0], np.float32)
    assert quantize(real, params).tolist() == [3, 5, 3, 5, 127, -128]


def test_dequantize_is_centred_times_scale() -> None:
    params = QuantParams(scale=(0.5,), zero_point=3)
    assert dequantize(np.array([3, 5, -128], np.int8), params).tolist() == [0.0, 1.0, -65.5]


def exact_code(real: float, params: QuantParams) -> int:
    """The definition in exact arithmetic, but for the quotient, which is the float32 next to the true one."""
    # On the way through float64 nothing is lost: it has more than twice the digits.
    quotient = Fraction(float(np.float32(Fraction(real) / Fraction(params.scale[0]))))
    return min(max(round(quotient) + params.zero_point, params.low), params.high)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@given(data=st.data())
def test_codes_are_those_of_exact_arithmetic(dtype: str, data: st.DataObject) -> None:
    low, high = (-128, 127) if dtype == "int8" else (-32768, 32767)
    scale = data.draw(st.one_of(st.sampled_from([0.5, 1.0, 2.0**-7]), st.floats(2.0**-12, 8.0, width=32)))
    params = QuantParams(scale=(scale,), zero_point=data.draw(st.integers(low, high)), dtype=dtype)
    halves = st.integers(2 * low - 5, 2 * high + 5).map(lambda n: n * params.scale[0] / 2)  # ties and their neighbours
    anything = st.floats(-(2.0**100), 2.0**100, width=32)
    drawn = data.draw(st.lists(st.one_of(halves, anything), min_size=1, max_size=30))
    real = np.array([[*drawn, 0.0, -0.0, 2.0**100, -(2.0**100)]], np.float32)
    expected = [[exact_code(float(value), params) for value in real[0]]]
    assert quantize(real, params).tolist() == expected
    assert Quantizer(params, ndim=2)(real).tolist() == expected


@given(scale=st.floats(2.0**-10, 4.0, width=32), zero_point=st.integers(-128, 127))
def test_every_code_survives_the_way_to_real_and_back(scale: float, zero_point: int) -> None:
    params = QuantParams(scale=(scale,), zero_point=zero_point)
    codes = np.arange(-128, 128).astype(np.int8)
    assert np.array_equal(quantize(dequantize(codes, params), params), codes)


def test_scales_per_channel_run_along_their_axis() -> None:
    params = QuantParams(scale=(1.0, 2.0), axis=1)
    assert quantize(np.array([[4.0, 4.0]]), params).tolist() == [[4, 2]]


def test_int32_bounds_are_exact() -> None:
    params = QuantParams(scale=(1.0,), dtype="int32")
    assert quantize(np.array([1e12, -1e12]), params).tolist() == [2**31 - 1, -(2**31)]


def test_parameters_survive_json_exactly() -> None:
    params = QuantParams(scale=(0.1, 0.2), axis=0, qmin=-127)
    assert QuantParams.from_dict(params.to_dict()) == params


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.0,)}, "must be finite and > 0"),
        ({"scale": (float("nan"),)}, "must be finite and > 0"),
        ({"scale": ()}, "must be finite and > 0"),
        ({"scale": (1.0, 2.0)}, "give the axis they run along"),
        ({"scale": (1.0,), "zero_point": 200}, r"zero_point=200 must be in \[-128, 127\]"),
        ({"scale": (1.0,), "dtype": "int4"}, "dtype='int4' must be one of"),
    ],
)
def test_bad_parameters_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        QuantParams(**fields)


def test_unknown_fields_and_axes_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"unknown quantization fields \['bits'\]"):
        QuantParams.from_dict({"scale": [1.0], "bits": 8})
    with pytest.raises(SpecError, match="axis=3 must be an axis of the tensor, which has 1"):
        quantize(np.zeros(2, np.float32), QuantParams(scale=(1.0, 1.0), axis=3))
