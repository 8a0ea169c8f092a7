"""Theory of quantization: held against the tables of Max (1960), hand numbers, quadrature and simulation."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from edgeaudio_export.calibration import Range, weight_scales
from edgeaudio_export.theory.codebooks import (
    best_midrise_clip,
    best_symmetric_clip,
    codebook_mse,
    lloyd_max,
    midrise_levels,
    sqnr_of,
    symmetric_levels,
)
from edgeaudio_export.theory.densities import Gaussian, Histogram
from edgeaudio_export.theory.limits import (
    gaussian_clip_sqnr_db,
    gaussian_leading_clip,
    gaussian_model_clip,
    gaussian_overload_mse,
    granular_mse,
    shannon_bound_db,
    sqnr_formula_db,
)
from edgeaudio_export.theory.lines import gaussian_lines, uniform_lines
from edgeaudio_export.theory.quantizers import affine_quantizer, clipped_quantizer, sqnr_db, symmetric_quantizer
from edgeaudio_export.theory.weights import is_constant, measure_weights
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize

# Max, "Quantizing for minimum distortion", IRE Transactions on Information Theory 6 (1960), table II: levels, step and
# error of the best uniform quantizer of a unit Gaussian; beyond 32 levels as textbooks print them.
MAX_UNIFORM = [
    (2, 1.596, 0.3634),
    (4, 0.9957, 0.1188),
    (8, 0.5860, 0.03744),
    (16, 0.3352, 0.01154),
    (32, 0.1881, 0.003495),
    (64, 0.1041, 0.001041),
    (128, 0.0569, 0.000304),
    (256, 0.0308, 0.0000877),
]
# Table I of the same paper: positive levels of the best quantizer, and its error.
MAX_LEVELS = [
    (2, [0.7980], 0.3634),
    (4, [0.4528, 1.510], 0.1175),
    (8, [0.2451, 0.7560, 1.344, 2.152], 0.03454),
    (16, [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
]
PRINTED = 5e-4
"""Relative: four printed digits."""
PRINTED_STEP = 2e-3
"""Relative: the steps beyond N = 32 have three printed digits."""
MAX_ERROR = 1e-3
"""Relative: the errors Max prints for N = 8 and 16 are 2e-4 and 4e-4 below what his own levels give; later tables,
0.009501 for N = 16, agree with ours."""
# Banner and others, "Post training 4-bit quantization of convolutional networks for rapid-deployment" (ACIQ): the clips
# of their published code, two decimals.
ACIQ_CLIPS = {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}
ACIQ_DECIMALS = 0.011
"""Two decimals, cut rather than rounded."""
EXACT = 1e-9
"""Relative: closed forms in float64 against another closed form or quadrature."""


@pytest.fixture(scope="module")
def gaussian_weights() -> Any:
    """A million values that lie as a Gaussian has them on average, float32: chance would move the tails by percents."""
    return norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000).astype(np.float32)


@pytest.mark.parametrize(("n_levels", "step", "error"), MAX_UNIFORM)
def test_the_best_uniform_quantizer_of_a_gaussian_is_that_of_max(n_levels: int, step: float, error: float) -> None:
    best = best_midrise_clip(Gaussian(), n_levels)
    assert best.step == pytest.approx(step, rel=PRINTED_STEP)
    # The last printed digit of the small errors is worth more than PRINTED.
    assert best.mse == pytest.approx(error, rel=2e-3 if n_levels > 32 else PRINTED)
    assert best.clip == pytest.approx(n_levels * step / 2, rel=PRINTED_STEP)


@pytest.mark.parametrize(("n_levels", "levels", "error"), MAX_LEVELS)
def test_lloyd_max_levels_of_a_gaussian_are_those_of_max(n_levels: int, levels: list[float], error: float) -> None:
    found = lloyd_max(Gaussian(), n_levels)
    np.testing.assert_allclose(found[n_levels // 2 :], levels, rtol=PRINTED)
    np.testing.assert_allclose(found, -found[::-1], atol=1e-6)
    assert codebook_mse(Gaussian(), found) == pytest.approx(error, rel=MAX_ERROR)


@pytest.mark.parametrize("n_levels", [5, 32, 100])
def test_lloyd_max_levels_are_centroids_and_their_cells_end_midway(n_levels: int) -> None:
    levels = lloyd_max(Gaussian(), n_levels)
    ends = np.concatenate(([-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]))
    centroids = [norm.expect(lambda x: x, lb=a, ub=b, conditional=True) for a, b in pairwise(ends)]
    np.testing.assert_allclose(levels, centroids, atol=1e-6)


def test_lloyd_max_of_a_uniform_source_is_the_uniform_quantizer() -> None:
    source = Histogram(edges=np.array([-1.0, 0.0, 1.0]), masses=np.array([0.5, 0.5]))
    np.testing.assert_allclose(lloyd_max(source, 8), np.arange(-7, 8, 2) / 8, atol=1e-6)


def test_lloyd_max_comes_near_the_law_of_panter_and_dite() -> None:
    # pi sqrt(3) / 2 * 4**-b, 4.35 dB from the bound: the limit of many levels.
    assert codebook_mse(Gaussian(), lloyd_max(Gaussian(), 256)) == pytest.approx(
        math.pi * math.sqrt(3) / 2 / 256**2, rel=0.01
    )


@settings(max_examples=30, deadline=None)
@given(
    bits=st.integers(2, 8), masses=st.lists(st.integers(0, 50), min_size=8, max_size=30).filter(lambda m: sum(m) > 0)
)
def test_no_uniform_quantizer_beats_lloyd_max_and_nothing_beats_the_bound(bits: int, masses: list[int]) -> None:
    source = Histogram(edges=np.linspace(-1, 1.5, len(masses) + 1), masses=np.array(masses) / sum(masses))
    best = best_symmetric_clip(source, bits)
    levels = lloyd_max(source, 2**bits)
    # Lloyd and Max find a local optimum; started at the companded levels it is never far above the best uniform one.
    assert sqnr_of(source, codebook_mse(source, levels)) >= best.sqnr_db - 0.5
    assert sqnr_of(source, codebook_mse(source, levels)) <= shannon_bound_db(source, bits) + EXACT


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_of_a_codebook_is_the_integral_over_its_cells(bits: int) -> None:
    levels = symmetric_levels(bits, 3.0 / (2 ** (bits - 1) - 1))
    ends = np.concatenate(([-12.0], (levels[1:] + levels[:-1]) / 2, [12.0]))
    parts = (
        quad(lambda x, y=y: (x - y) ** 2 * norm.pdf(x), a, b, epsabs=1e-14)[0]
        for y, a, b in zip(levels, ends, ends[1:], strict=False)
    )
    assert codebook_mse(Gaussian(), levels) == pytest.approx(sum(parts), rel=1e-7)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_the_best_clip_is_the_best_in_simulation(bits: int, gaussian_weights: Any) -> None:
    best = best_symmetric_clip(Gaussian(), bits)

    def simulated(clip: float) -> float:
        return float(np.mean((gaussian_weights - clipped_quantizer(clip, bits)(gaussian_weights)) ** 2))

    # A million values: at 8 bits fewer than a hundred lie beyond the clip and carry a tenth of the error.
    assert simulated(best.clip) == pytest.approx(best.mse, rel=0.005)
    assert simulated(best.clip) < min(simulated(0.9 * best.clip), simulated(1.1 * best.clip))


def test_the_best_clip_at_8_bits_is_about_3_9_sigma() -> None:
    assert best_symmetric_clip(Gaussian(), 8).clip == pytest.approx(3.92, abs=0.01)


def test_the_affine_quantizer_of_8_bits_is_that_of_activations() -> None:
    params = Range(minimum=-1.3, maximum=2.9, low=-1.3, high=2.9).params()
    quantizer = affine_quantizer(-1.3, 2.9, 8)
    assert (float(quantizer.scale), quantizer.zero_point) == (params.scale[0], params.zero_point)
    assert (quantizer.low, quantizer.high) == (params.low, params.high)
    values = np.linspace(-2, 4, 1001, dtype=np.float32)
    np.testing.assert_array_equal(quantizer.codes(values), quantize(values, params))


def test_the_symmetric_quantizer_of_8_bits_is_that_of_weights() -> None:
    weights = np.random.default_rng(1).standard_normal((6, 4, 3)).astype(np.float32)
    weights[2] *= 1e-6
    quantizer = symmetric_quantizer(weights, 8, per_channel=True)
    scales = weight_scales(weights)
    np.testing.assert_array_equal(quantizer.scale.ravel(), scales)
    params = QuantParams(scale=tuple(scales.tolist()), axis=0, qmin=-127)
    np.testing.assert_array_equal(quantizer.codes(weights), quantize(weights, params))
    np.testing.assert_allclose(quantizer(weights), dequantize(quantize(weights, params), params), rtol=1e-6)


def test_scales_by_hand() -> None:
    four = symmetric_quantizer(np.array([-3.5, 1.0, 0.2]), 4)
    assert (float(four.scale), four.low, four.high) == (0.5, -7, 7)
    assert four.codes(np.array([-3.5, 1.0, 0.2, 0.75, 9.0])).tolist() == [-7, 2, 0, 2, 7]
    affine = affine_quantizer(-1.0, 2.0, 2)
    assert (float(affine.scale), affine.zero_point, affine.low, affine.high) == (1.0, -1, -2, 1)
    assert affine(np.array([-1.0, 0.0, 1.4, 2.0, 5.0])).tolist() == [-1.0, 0.0, 1.0, 2.0, 2.0]


def test_step_squared_over_12_is_exact_for_a_uniform_source_and_measured_so() -> None:
    values = (np.arange(-50_000, 50_000) + 0.5) / 50_000
    quantizer = symmetric_quantizer(values, 6)
    measured = float(np.mean((values - quantizer(values)) ** 2))
    assert measured == pytest.approx(granular_mse(2 / 62), rel=1e-3)


def test_step_squared_over_12_ends_with_overload_and_with_steps_wider_than_the_source() -> None:
    narrow, wide = 1.0 / 127, 6.0
    assert codebook_mse(Gaussian(), symmetric_levels(8, narrow)) > 1000 * granular_mse(narrow)
    # Every value becomes 0: the error is the source, a third of what the formula says.
    assert codebook_mse(Gaussian(), symmetric_levels(2, wide)) == pytest.approx(1.0, abs=0.05)
    assert granular_mse(wide) == 3.0


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_full_range_uniform_source_gets_6_02_db_a_bit_and_not_4_77_more(bits: int) -> None:
    levels = 2**bits
    values = (np.arange(levels * 1000) + 0.5) / (levels * 500) - 1
    step = 2 / levels
    simulated = sqnr_db(values, (np.floor(values / step) + 0.5) * step)
    assert simulated == pytest.approx(20 * math.log10(2) * bits, abs=1e-4)
    assert sqnr_formula_db(bits, math.sqrt(3)) == pytest.approx(20 * math.log10(2) * bits, rel=EXACT)
    line = uniform_lines([bits])[0]
    assert line.exact == pytest.approx(line.formula, rel=EXACT)
    assert line.misread - line.exact == pytest.approx(4.771, abs=1e-3)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_clip_of_the_usual_model_is_that_of_published_code(bits: int) -> None:
    assert gaussian_model_clip(bits) == pytest.approx(ACIQ_CLIPS[bits], abs=ACIQ_DECIMALS)


@pytest.mark.parametrize("bits", [2, 5, 8, 12, 16])
def test_the_clip_of_the_usual_model_has_the_least_of_granular_and_overload_error(bits: int) -> None:
    def model(clip: float) -> float:
        overload = 2 * quad(lambda x: (x - clip) ** 2 * norm.pdf(x), clip, clip + 12, epsabs=0)[0]
        return (2 * clip / 2**bits) ** 2 / 12 + overload

    clip = gaussian_model_clip(bits)
    assert model(clip) < min(model(clip - 0.01), model(clip + 0.01))
    overload = quad(lambda x: 2 * (x - clip) ** 2 * norm.pdf(x), clip, clip + 12, epsabs=0)[0]
    assert gaussian_overload_mse(clip) == pytest.approx(overload, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("bits", range(3, 9))
def test_the_closed_form_of_the_gaussian_clip_is_not_the_optimum(bits: int) -> None:
    levels = 2**bits
    assert gaussian_leading_clip(bits) == pytest.approx(math.sqrt(4 * bits * math.log(2)), rel=EXACT)
    best = best_midrise_clip(Gaussian(), levels)
    loss = best.sqnr_db - gaussian_clip_sqnr_db(bits, gaussian_leading_clip(bits))
    assert 0.8 < loss < 1.2


def test_the_closed_form_of_the_gaussian_clip_loses_in_simulation_too(gaussian_weights: Any) -> None:
    def simulated(clip: float) -> float:
        result = sqnr_db(gaussian_weights, clipped_quantizer(clip, 8)(gaussian_weights))
        assert result is not None
        return result

    loss = simulated(best_symmetric_clip(Gaussian(), 8).clip) - simulated(gaussian_leading_clip(8))
    # 20 log10(4.71 / 3.92) is 1.59 dB of wider steps; the overload they spare gives 0.45 dB back.
    assert loss == pytest.approx(1.14, abs=0.03)


def test_the_bound_of_a_gaussian_is_6_02_db_a_bit() -> None:
    assert shannon_bound_db(Gaussian(), 5) == pytest.approx(30.103, abs=1e-3)


def test_the_bound_of_a_uniform_source_lies_1_53_db_above_its_quantizer() -> None:
    source = Histogram(edges=np.array([-1.0, 1.0]), masses=np.array([1.0]))
    quantizer = sqnr_of(source, codebook_mse(source, midrise_levels(16, 2 / 16)))
    # 10 log10(pi e / 6), the space-filling loss of a cubic cell.
    assert shannon_bound_db(source, 4) - quantizer == pytest.approx(10 * math.log10(math.pi * math.e / 6), rel=EXACT)


def test_a_measured_density_has_the_moments_and_the_entropy_of_its_source(gaussian_weights: Any) -> None:
    density = Histogram.of(gaussian_weights)
    assert density.mean_square == pytest.approx(1.0, rel=0.01)
    assert density.entropy_bits == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=0.01)
    mass, first, second = density.moments(np.array([-np.inf, 0.5, np.inf]))
    np.testing.assert_allclose(mass, [0, norm.cdf(0.5), 1], atol=2e-3)
    np.testing.assert_allclose(first, [0, -norm.pdf(0.5), 0], atol=3e-3)
    np.testing.assert_allclose(second, [0, norm.cdf(0.5) - 0.5 * norm.pdf(0.5), 1], atol=5e-3)


def test_lines_rise_with_every_bit_and_keep_their_order() -> None:
    lines = gaussian_lines()
    for line in lines:
        assert line.sqnr < line.lloyd_max < line.bound
        assert line.midrise_sqnr >= max(line.model_sqnr, line.leading_sqnr)
        assert 0.6 < line.granular_share < 1
    assert np.all(np.diff([line.sqnr for line in lines]) > 5)


def test_gaussian_weights_lie_on_the_lines() -> None:
    weights = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    loss = measure_weights("layer", weights, (4,))
    line = gaussian_lines((4,))[0]
    width = loss.widths[0]
    # 16,384 values: sampling noise, and the bins of the density.
    assert width.best_clip == pytest.approx(line.sqnr, abs=0.3)
    assert width.lloyd_max == pytest.approx(line.lloyd_max, abs=0.4)
    assert width.bound == pytest.approx(line.bound, abs=0.2)
    # Without a clip: 6.02 b + 4.77 - 20 log10(alpha / sigma), here with 15 codes between -max and max.
    assert width.per_tensor == pytest.approx(20 * math.log10(14) + 4.77 - 20 * math.log10(loss.loading), abs=0.3)


def test_a_scale_for_each_channel_wins_what_one_large_channel_costs() -> None:
    weights = np.random.default_rng(4).standard_normal((32, 128)).astype(np.float32)
    even = measure_weights("even", weights, (8,)).widths[0]
    largest = np.abs(weights).max()
    weights[0] *= 50
    odd = measure_weights("odd", weights, (8,)).widths[0]
    assert even.per_channel is not None
    assert odd.per_channel is not None
    assert even.per_tensor is not None
    small = sqnr_db(weights[1:], symmetric_quantizer(weights, 8)(weights)[1:])
    assert small is not None
    # With one scale for all the other channels lose what the step grows by; they are the signal of 31 in 32 channels.
    assert even.per_tensor - small == pytest.approx(20 * math.log10(np.abs(weights).max() / largest), abs=1)
    assert odd.per_channel == pytest.approx(even.per_channel, abs=2.5)


def test_clipping_is_left_where_it_loses() -> None:
    weights = np.array([[-7.0, -4.0, 1.0, 2.0, 5.0, 7.0, 3.0, -6.0]], dtype=np.float32)
    width = measure_weights("grid", weights, (4,)).widths[0]
    assert (width.per_tensor, width.best_clip, width.clip) == (None, None, 7.0)


def test_a_constant_tensor_is_known_as_one_and_held_exactly() -> None:
    average = np.full((6, 1, 25), 1 / 25, np.float32)
    assert is_constant(average)
    assert sqnr_db(average, symmetric_quantizer(average, 4)(average)) is None
    assert symmetric_quantizer(np.zeros(3), 8).codes(np.zeros(3)).tolist() == [0, 0, 0]


def test_refusals_name_the_value_the_rule_and_the_remedy() -> None:
    weights = np.ones((2, 2), np.float32)
    with pytest.raises(
        SpecError, match=r"bits=1 must be in \[2, 16\]; the symmetric quantizer of 1 bit has one code, 0"
    ):
        symmetric_quantizer(weights, 1)
    with pytest.raises(SpecError, match="values must be finite and not empty; train again or load another checkpoint"):
        symmetric_quantizer(weights * np.nan, 8)
    with pytest.raises(SpecError, match=r"clip=0\.0 must be finite and > 0"):
        clipped_quantizer(0.0, 8)
    with pytest.raises(SpecError, match=r"range \[1.0, 2.0\] must be finite, hold 0 and not be empty; widen it to 0"):
        affine_quantizer(1.0, 2.0, 8)
    with pytest.raises(SpecError, match="n_levels=3 must be even and >= 2; a mid-rise codebook has no level at 0"):
        midrise_levels(3, 1.0)
    with pytest.raises(SpecError, match="n_levels=1 must be >= 2; one level is the mean"):
        lloyd_max(Gaussian(), 1)
    with pytest.raises(SpecError, match="values must be finite and not all equal; a constant has no density"):
        Histogram.of(weights)
    with pytest.raises(SpecError, match="weight 'stem' is constant; it has no density, leave it out"):
        measure_weights("stem", weights)
    with pytest.raises(SpecError, match="weight 'stem' holds NaN or infinite values; train again"):
        measure_weights("stem", weights * np.inf)


def test_theory_needs_no_torch() -> None:
    program = (
        "import sys, edgeaudio_export.theory.weights, edgeaudio_export.theory.lines; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_weights_are_those_the_export_folds(float_network: Any, networks: Any) -> None:
    import torch

    from edgeaudio_export.folded_weights import folded_weights

    network = float_network("Keyword")
    weights = folded_weights(network)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv1d)]
    assert len(weights) >= len(convolutions)
    assert all(name.count("/") == 1 for name in weights)
    norm_module = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d))
    factor = (norm_module.weight / torch.sqrt(norm_module.running_var + norm_module.eps)).detach().numpy()
    expected = convolutions[0].weight.detach().numpy() * factor[:, None, None]
    np.testing.assert_allclose(next(iter(weights.values())), expected, rtol=1e-5)
