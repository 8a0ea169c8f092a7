"""Streaming histograms and the ranges that every method chooses from them."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from edgeaudio_export.calibration import METHODS, CalibrationSpec, Range, StreamingHistogram, weight_scales
from edgeaudio_export.calibration.methods import entropy_ends, merged_divergence
from edgeaudio_export.calibration.statistics import ActivationStatistics
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


def chosen(*chunks: np.ndarray, n_bins: int = 4096, dtype: str = "int8", symmetric: bool = False, **spec: Any) -> Range:
    """The range after each chunk was one stream."""
    calibration = CalibrationSpec(n_bins=n_bins, **spec)
    statistics = ActivationStatistics("x", calibration)
    for chunk in chunks:
        values = np.asarray(chunk, dtype=np.float32)
        statistics.histogram.observe(values)
        if values.size:
            statistics.end_stream(float(values.min()), float(values.max()))
    return statistics.choose(calibration, dtype, symmetric=symmetric)


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
    found = chosen(samples)
    low, high = min(samples.min(), 0.0), max(samples.max(), 0.0)
    shares = np.linspace(0.05, 1.0, 40)
    best = min(squared_error(samples, low * a, high * b) for a, b in itertools.product(shares, shares))
    assert squared_error(samples, found.low, found.high) <= NEAR_BEST * best


def test_an_outlier_is_clipped_by_mse_and_covered_by_minmax() -> None:
    # Covering 2.0 costs (3/255)**2/12 a value, 11.5 in all; clipping it at 1.0 costs 1 and (2/255)**2/12 a value, 6.1.
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 1_000_000), 2.0)
    assert chosen(values).high < 1.5
    assert chosen(values, method="minmax").high == 2.0


def test_codes_of_16_bits_cover_the_outlier_that_8_bits_clip() -> None:
    # Covering 2.0 costs (3/65535)**2/12 a value, 0.0002 in all; clipping it at 1.0 costs 1.
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 1_000_000), 2.0)
    assert chosen(values, dtype="int16").high == 2.0


def test_a_symmetric_range_of_least_error_is_as_good_as_a_search_on_the_samples() -> None:
    samples = np.random.default_rng(3).standard_t(3, 3000).astype(np.float32).astype(np.float64)
    found = chosen(samples, symmetric=True)
    assert found.low == -found.high

    def error(end: float) -> float:
        codes = np.clip(np.round(samples / (end / 127)), -128, 127)
        return float(np.sum((samples - codes * end / 127) ** 2))

    largest = float(np.abs(samples).max())
    assert error(found.high) <= NEAR_BEST * min(error(largest * share) for share in np.linspace(0.05, 1.0, 200))


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FLOAT32.filter(lambda v: v == 0 or abs(v) > 1e-3)))
@settings(max_examples=12, deadline=None)
def test_a_range_contains_zero_and_zero_has_an_exact_code(values: np.ndarray) -> None:
    if not values.any():
        return
    for method, symmetric in itertools.product(METHODS, (False, True)):
        found = chosen(values, n_bins=512, method=method, symmetric=symmetric)
        assert found.low <= 0 <= found.high
        assert found.low < found.high
        zero_point = found.params(symmetric=symmetric).zero_point
        assert zero_point == 0 if symmetric else -128 <= zero_point <= 127
        assert not symmetric or found.low == -found.high


def test_parameters_of_a_range_by_hand() -> None:
    params = Range(minimum=-1.0, maximum=1.55, low=-1.0, high=1.55).params()
    assert params.scale == (float(np.float32(0.01)),)
    assert params.zero_point == -28


def test_symmetric_and_wider_parameters_of_a_range_by_hand() -> None:
    found = Range(minimum=-1.0, maximum=2.54, low=-1.0, high=2.54)
    symmetric = found.params(symmetric=True)
    assert (symmetric.scale, symmetric.zero_point) == ((float(np.float32(0.02)),), 0)
    wide = found.params("int16", symmetric=True)
    assert (wide.scale, wide.zero_point, wide.dtype) == ((float(np.float32(2.54 / 32767)),), 0, "int16")
    affine = found.params("int16")
    assert affine.scale == (float(np.float32(3.54 / 65535)),)
    assert affine.zero_point == round(-32768 + 65535 / 3.54)


def test_a_percentile_cuts_off_half_of_the_rest_at_each_end() -> None:
    # -5000 to 4999, once each, in bins 4 wide: 99 % leaves out 50 values below and 50 above.
    found = chosen(np.arange(-5000, 5000), method="percentile", percentile=99.0)
    assert abs(found.low - -4950) <= 4
    assert abs(found.high - 4950) <= 4
    assert (found.minimum, found.maximum) == (-5000, 4999)


def test_a_percentile_of_skewed_values_is_that_of_the_sorted_values() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 100_000).astype(np.float32) - 1
    found = chosen(values, method="percentile", percentile=99.8)
    width = 2 * (values.max() - values.min()) / 4096
    np.testing.assert_allclose((found.low, found.high), np.quantile(values, [0.001, 0.999]), atol=width)


def test_a_symmetric_percentile_is_that_of_the_magnitudes() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 100_000).astype(np.float32) - 1
    found = chosen(values, method="percentile", percentile=99.8, symmetric=True)
    assert abs(found.high - np.quantile(np.abs(values), 0.998)) <= 2 * (values.max() - values.min()) / 4096
    assert found.low == -found.high


def test_a_percentile_of_100_covers_everything_and_one_that_leaves_only_zeros_does_too() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    found = chosen(values, method="percentile", percentile=100.0)
    np.testing.assert_allclose((found.low, found.high), (values.min(), values.max()), rtol=1e-6)
    rare = np.append(np.zeros(1_000_000), [3.0, -1.0])
    found = chosen(rare, method="percentile")
    assert (found.low, found.high) == (-1.0, 3.0)


def test_a_moving_average_of_extremes_by_hand() -> None:
    # Highs 1, 2, 4 with momentum 0.5: 1, then 1.5, then 2.75; lows -2, 0, 0: -2, -1, -0.5.
    streams = [[-2.0, 0.0, 1.0], [0.0, 2.0], [4.0, 0.0]]
    found = chosen(*map(np.array, streams), method="moving_average", momentum=0.5)
    assert (found.low, found.high, found.minimum, found.maximum) == (-0.5, 2.75, -2.0, 4.0)
    assert chosen(*map(np.array, streams), method="moving_average", momentum=0.5, symmetric=True).low == -2.75


def test_a_moving_average_that_has_forgotten_everything_but_zeros_covers_what_was_seen() -> None:
    found = chosen(np.array([1.0]), np.array([0.0]), method="moving_average", momentum=0.0)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_divergence_of_merged_bins_is_that_of_scipy() -> None:
    # Inside are 4, 2, 0, 6, 3, 1 and codes take two bins each; 5 below and 2 above go to the ends of the reference.
    counts = np.array([5, 4, 2, 0, 6, 3, 1, 2])
    reference = [4 + 5, 2, 0, 6, 3, 1 + 2]
    candidate = [3, 3, 0, 6, 2, 2]
    assert merged_divergence(counts, 1, 7, 3) == pytest.approx(stats.entropy(reference, candidate))


def test_codes_that_keep_every_bin_lose_nothing() -> None:
    assert merged_divergence(np.array([3, 0, 7, 1]), 0, 4, 4) == 0.0
    assert merged_divergence(np.array([3, 0, 0, 0]), 1, 4, 3) == np.inf


def test_entropy_clips_a_far_tail_and_keeps_a_flat_distribution() -> None:
    rng = np.random.default_rng(0)
    tail = np.append(rng.normal(0, 1, 500_000), [40.0, -40.0])
    for symmetric in (False, True):
        found = chosen(tail, method="entropy", symmetric=symmetric)
        assert 2.5 < found.high < 12
        assert -12 < found.low < -2.5
    flat = chosen(rng.uniform(-1, 1, 2_000_000), method="entropy")
    assert flat.low < -0.95
    assert flat.high > 0.95


def test_entropy_gives_one_sided_values_all_codes_and_is_not_drowned_by_zeros() -> None:
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 500_000), 0)
    found = chosen(values, method="entropy")
    assert found.low == 0.0
    assert found.high > 2.5


def plain_divergence(counts: list[int], start: int, stop: int, n_levels: int) -> float:
    """The published algorithm, bin by bin."""
    inside, n_bins = counts[start:stop], stop - start
    reference = list(inside)
    reference[0] += sum(counts[:start])
    reference[-1] += sum(counts[stop:])
    candidate = [0.0] * n_bins
    for code in range(n_levels):
        bins = [i for i in range(n_bins) if i * n_levels // n_bins == code and reference[i]]
        for i in bins:
            candidate[i] = sum(inside[j] for j in bins) / len(bins) or 1e-4
    return float(stats.entropy(reference, candidate))


def test_entropy_finds_the_least_divergence_of_a_search_over_all_thresholds() -> None:
    histogram = observed(np.random.default_rng(0).laplace(0, 1, 300_000), n_bins=256)
    found = entropy_ends(histogram, n_levels=32, symmetric=True)
    counts, origin = histogram.counts.tolist(), int(np.searchsorted(histogram.edges, 0.0))
    counts[origin] = min(counts[origin], counts[origin + 1])
    reach = max(origin, 256 - origin)
    counts = [0] * (reach - origin) + counts + [0] * (origin + reach - 256)
    divergence = {t: plain_divergence(counts, reach - t, reach + t, 32) for t in range(16, reach + 1)}
    threshold = round(found[1] / histogram.width)
    assert divergence[threshold] == min(divergence.values())


def test_values_that_are_all_positive_start_at_zero() -> None:
    found = chosen(np.linspace(2, 3, 100), method="minmax")
    assert (found.minimum, found.low, found.high) == (2.0, 0.0, 3.0)
    assert found.params().zero_point == -128


def test_a_dead_activation_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"activation 'x' was 0 throughout calibration.*remove the dead layer"):
        chosen(np.zeros(10))


def test_an_activation_nobody_computed_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"activation 'x' was never computed.*at least one stream"):
        chosen(np.zeros(0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(ExportError, match=r"activation 'x' is NaN or infinite"):
        observed(np.array([1.0, bad]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"method": "max"},
            r"method='max' must be one of \['mse', 'minmax', 'moving_average', 'percentile', 'entropy'\]",
        ),
        ({"percentile": 50.0}, r"percentile=50\.0 must be above 50 and at most 100; 99\.99 is the default"),
        ({"percentile": 100.5}, r"percentile=100\.5 must be above 50 and at most 100"),
        ({"percentile": float("nan")}, r"percentile=nan must be above 50"),
        ({"momentum": 1.0}, r"momentum=1\.0 must be in \[0, 1\); 0\.99 is the default"),
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
