"""What ``vpmaddubsw`` does to pairs of weights: by hand, and by trying every pair."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.diagnosis.saturation import (
    SAFE_WEIGHT,
    leaves_16_bits,
    report_saturation,
    saturating_product,
    windows,
)
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.kernels import kernel
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes

Q = QuantParams(scale=(0.05,), zero_point=-3)


def dense(weight: npt.NDArray[np.int8], frames: int, **attrs: Any) -> IntegerGraph:
    """One convolution with these weights ``[O, KT, 1, C]``."""
    g = GraphBuilder()
    x = g.activation("features", (1, frames, 1, weight.shape[3] * attrs.get("groups", 1)), Q)
    y = g.conv(x, len(weight), (weight.shape[1], 1), Q, weight=weight, weight_scale=(0.01,), **attrs)
    return g.build(y)


def test_a_pair_saturates_as_the_hand_computes_it() -> None:
    # 255 * 100 + 255 * 100 = 51000 is cut to 32767; 255 * -120 twice is cut to -32768; 255 * 127 - 255 * 127 = 0.
    unsigned = np.array([[255, 255]])
    matrix = np.array([[100, 100], [-120, -120], [127, -127], [64, 64]], np.int8)
    assert saturating_product(unsigned, matrix).tolist() == [[32767, -32768, 0, 32640]]


def test_pairs_saturate_by_themselves_and_their_sum_does_not() -> None:
    unsigned = np.full((1, 4), 255)
    matrix = np.array([[127, 127, 127, 127]], np.int8)
    assert saturating_product(unsigned, matrix).tolist() == [[2 * 32767]]


def test_exactly_the_pairs_of_one_sign_beyond_128_are_exposed() -> None:
    weights = np.arange(-127, 128)
    first, second = (part.ravel() for part in np.meshgrid(weights, weights))
    # Every extreme of the two activations, tried out.
    corners = [(a, b) for a in (0, 255) for b in (0, 255)]
    tried = np.zeros(first.shape, dtype=bool)
    for a, b in corners:
        tried |= (a * first + b * second > 32767) | (a * first + b * second < -32768)
    np.testing.assert_array_equal(tried, (first * second > 0) & leaves_16_bits(255 * (first + second)))
    np.testing.assert_array_equal(tried, (first * second > 0) & (np.abs(first) + np.abs(second) > 128))
    assert not tried[(np.abs(first) <= SAFE_WEIGHT) & (np.abs(second) <= SAFE_WEIGHT)].any()


def test_a_report_counts_pairs_and_changed_sums() -> None:
    weight = np.array([[[[100, 100, 10]]], [[[127, -127, 5]]]], np.int8)  # [2, 1, 1, 3]: two pairs a row, one padded
    graph = dense(weight, 2)
    codes = np.array([[[[127, 127, 0]], [[0, 0, 0]]]], np.int8)  # 255, 255, 128 and 128, 128, 128 unsigned
    (report,) = report_saturation(graph, [{"features": codes}])
    assert (report.pairs, report.exposed_pairs, report.reachable_pairs) == (4, 1, 1)
    # At the first position the first output loses 51000 - 32767; at the second 128 * 200 = 25600 fits.
    assert (report.accumulators, report.changed_accumulators, report.largest_change) == (4, 1, 18233)
    assert report.exposed_share == 0.25


def test_a_pair_that_codes_never_reach_is_exposed_but_not_reachable() -> None:
    graph = dense(np.array([[[[70, 70]]]], np.int8), 1)
    codes = np.full((1, 1, 1, 2), 50, np.int8)  # 178 unsigned: 178 * 140 = 24920
    (report,) = report_saturation(graph, [{"features": codes}])
    assert (report.exposed_pairs, report.reachable_pairs, report.changed_accumulators) == (1, 0, 0)


def test_depthwise_layers_and_other_types_are_left_out() -> None:
    depthwise = dense(np.full((4, 3, 1, 1), 127, np.int8), 5, groups=4)
    assert report_saturation(depthwise, [{"features": random_codes((1, 5, 1, 4))}]) == ()


def test_windows_times_weights_is_what_the_engine_computes() -> None:
    weight = np.random.default_rng(1).integers(-127, 128, (6, 3, 1, 5)).astype(np.int8)
    graph = dense(weight, 12, stride=(2, 1), dilation=(2, 1))
    codes = random_codes((2, 12, 1, 5), seed=3)
    op = graph.ops[0]
    rows = windows(graph, op, codes).astype(np.int64) - Q.zero_point
    assert graph.tensors[op.inputs[1]].quant is not None
    made = kernel(graph, op)([codes], 1)
    scale = np.float32(np.float32(0.05) * np.float32(0.01)) / np.float32(0.05)
    expected = np.clip(np.rint((rows @ weight.reshape(6, -1).T).astype(np.float32) * scale) - 3, -128, 127)
    np.testing.assert_array_equal(expected.reshape(made.shape), made)


def test_reports_are_frozen_values() -> None:
    (report,) = report_saturation(dense(np.ones((1, 1, 1, 2), np.int8), 1), [{"features": random_codes((1, 1, 1, 2))}])
    assert dataclasses.asdict(report)["pairs"] == 1
