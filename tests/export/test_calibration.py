"""Streaming histograms and the ranges chosen from them."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeaudio_export.calibration import CalibrationSpec, Range, StreamingHistogram, weight_scales
from edgeaudio_export.errors import ExportError

NEAR_BEST = 1.02
"""The histogram's range may cost this much more than the best of a grid on the samples: bins are an eighth of a code
wide."""

FLOAT32 = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def observed(*chunks: np.ndarray, n_bins: int = 512) -> StreamingHistogram:
    histogram = StreamingHistogram("x", n_bins)
    for chunk in chunks:
        histogram.observe(np.asarray(chunk, dtype=np.float32))
    return histogram


def squared_error(samples: np.ndarray, low: float, high: float) -> float:
    """Rounding and clipping error on the samples themselves, in plain float64."""
    scale = (high - low) / 255
    zero_point = np.clip(np.round(-128 - low / scale), -128, 127)
    codes = np.clip(np.round(samples / scale) + zero_point, -128, 127)
    return float(np.sum((samples - (codes - zero_point) * scale) ** 2))


@given(st.lists(hnp.arrays(np.float32, st.integers(0, 20), elements=FLOAT32), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_counts_do_not_depend_on_how_the_values_were_cut_or_ordered(chunks: list[np.ndarray]) -> None:
    whole = np.concatenate(chunks)
    one, many = observed(whole), observed(*chunks[::-1])
    np.testing.assert_array_equal(one.counts, many.counts)
    np.testing.assert_array_equal(one.centers, many.centers)
    assert one.counts.sum() == whole.size


def test_every_value_lies_in_the_bin_that_counts_it() -> None:
    values = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32)
    histogram = observed(values[:10], values[10:])
    width = histogram.centers[1] - histogram.centers[0]
    edges = np.append(histogram.centers - width / 2, histogram.centers[-1] + width / 2)
    np.testing.assert_array_equal(histogram.counts, np.histogram(values.astype(np.float64), edges)[0])
    assert np.log2(width) == np.round(np.log2(width))


def test_memory_is_the_bins_however_many_values_are_shown() -> None:
    histogram = observed(np.ones(1), n_bins=4096)
    before = sys.getsizeof(histogram.counts) + len(vars(histogram))
    for seed in range(50):
        histogram.observe(np.random.default_rng(seed).normal(0, seed + 1, 10_000).astype(np.float32))
    assert sys.getsizeof(histogram.counts) + len(vars(histogram)) == before
    assert histogram.counts.nbytes == 4096 * 8


@pytest.mark.parametrize("seed", range(6))
def test_the_error_minimizing_range_is_as_good_as_a_search_on_the_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.standard_t(3, 3000) * 2 + seed - 2
    if seed % 2:
        samples = np.maximum(samples, 0)
    samples = samples.astype(np.float32).astype(np.float64)
    chosen = observed(samples, n_bins=4096).range("mse")
    low, high = min(samples.min(), 0.0), max(samples.max(), 0.0)
    shares = np.linspace(0.05, 1.0, 40)
    best = min(squared_error(samples, low * a, high * b) for a, b in itertools.product(shares, shares))
    assert squared_error(samples, chosen.low, chosen.high) <= NEAR_BEST * best


def test_an_outlier_is_clipped_by_mse_and_covered_by_minmax() -> None:
    # Covering 2.0 costs (3/255)**2/12 a value, 11.5 in all; clipping it at 1.0 costs 1 and (2/255)**2/12 a value, 6.1.
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 1_000_000), 2.0)
    assert observed(values, n_bins=4096).range("mse").high < 1.5
    assert observed(values).range("minmax").high == 2.0


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FLOAT32.filter(lambda v: v == 0 or abs(v) > 1e-3)))
@settings(max_examples=60, deadline=None)
def test_a_range_contains_zero_and_zero_has_an_exact_code(values: np.ndarray) -> None:
    if not values.any():
        return
    for method in ("mse", "minmax"):
        found = observed(values).range(method)  # type: ignore[arg-type]
        assert found.low <= 0 <= found.high
        assert -128 <= found.params().zero_point <= 127


def test_parameters_of_a_range_by_hand() -> None:
    params = Range(minimum=-1.0, maximum=1.55, low=-1.0, high=1.55).params()
    assert params.scale == (float(np.float32(0.01)),)
    assert params.zero_point == -28


def test_values_that_are_all_positive_start_at_zero() -> None:
    found = observed(np.linspace(2, 3, 100)).range("minmax")
    assert (found.minimum, found.low, found.high) == (2.0, 0.0, 3.0)
    assert found.params().zero_point == -128


def test_a_dead_activation_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"activation 'x' was 0 throughout calibration.*remove the dead layer"):
        observed(np.zeros(10)).range("mse")


def test_an_activation_nobody_computed_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"activation 'x' was never computed.*at least one stream"):
        observed(np.zeros(0)).range("mse")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(ExportError, match=r"activation 'x' is NaN or infinite"):
        observed(np.array([1.0, bad]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "entropy"}, r"method='entropy' must be one of \['mse', 'minmax'\]"),
        ({"n_bins": 100}, r"n_bins=100 must be >= 256.*4096 is the default"),
        ({"batch": 0}, r"batch=0 must be >= 1"),
    ],
)
def test_a_calibration_spec_says_what_is_wrong(values: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ExportError, match=words):
        CalibrationSpec(**values)


def test_weight_scales_by_hand() -> None:
    weights = np.array([[1.27, -0.5], [0.0, 0.0], [-2.54, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(weight_scales(weights), [0.01, 0.02 / 1024, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(weight_scales(np.zeros((2, 3), np.float32)), [1.0, 1.0])
