"""Codes and quantization parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    params = QuantParams(scale=(0.5,), zero_point=3)
    real = np.array([0.25, 0.75, -0.25, 1.0, 300.0, -300.0], np.float32)
    assert quantize(real, params).tolist() == [3, 5, 3, 5, 127, -128]


def test_dequantize_is_centred_times_scale() -> None:
    params = QuantParams(scale=(0.5,), zero_point=3)
    assert dequantize(np.array([3, 5, -128], np.int8), params).tolist() == [0.0, 1.0, -65.5]


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
