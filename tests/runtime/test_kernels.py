"""Kernels of the integer graph against loops over Python integers and hand numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.kernels import kernel
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.requantization import requantizer
from tests.graph_builders import GraphBuilder, random_codes

IN, OUT = QuantParams(scale=(0.05,), zero_point=-7), QuantParams(scale=(0.04,), zero_point=9)
RULES = ("fp32", "tflm", "single")


def run(graph: IntegerGraph, *arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Output of the graph's only operation; constants follow the given arrays."""
    op = graph.ops[-1]
    constants = [graph.constants[name] for name in op.inputs[len(arrays) :]]
    return kernel(graph, op)([*arrays, *constants], 1)


def reference_conv(graph: IntegerGraph, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convolution output by output in Python integers; only the last rounding is shared with the kernel."""
    op = graph.ops[-1]
    source, weight_tensor = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    weight, bias = graph.constants[op.inputs[1]].tolist(), graph.constants[op.inputs[2]].tolist()
    (st, sf), (dt, df), (low, _) = op.attrs["stride"], op.attrs["dilation"], op.attrs["pad_f"]
    _, frames, bins, channels = graph.tensors[op.outputs[0]].shape
    per_group = channels // op.attrs["groups"]
    acc = np.zeros((1, frames, bins, channels), np.int64)
    for t, f, o in np.ndindex(frames, bins, channels):
        total = bias[o]
        for kt, kf, c in np.ndindex(*weight_tensor.shape[1:]):
            position = f * sf + kf * df - low
            if 0 <= position < x.shape[2]:
                channel = o // per_group * weight_tensor.shape[3] + c
                total += weight[o][kt][kf][c] * (
                    int(x[0, t * st + kt * dt, position, channel]) - source.quant.zero_point
                )
        acc[0, t, f, o] = total
    bound = requantizer(
        graph.requantization,
        scale_in=source.quant.scale[0],
        scale_weight=np.asarray(weight_tensor.quant.scale, np.float32),
        output=graph.tensors[op.outputs[0]].quant,
        relu=op.attrs["relu"],
        wide=source.dtype == "int16",
    )
    return bound(acc)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "dense": ((1, 6, 5, 4), {"channels": 3, "kernel": (3, 2)}),
    "pointwise": ((1, 4, 3, 5), {"channels": 6, "kernel": (1, 1)}),
    "pointwise strided": ((1, 6, 4, 5), {"channels": 6, "kernel": (1, 1), "stride": (2, 3)}),
    "depthwise": ((1, 12, 1, 8), {"channels": 8, "kernel": (9, 1), "groups": 8}),
    "depthwise multiplier": ((1, 5, 2, 3), {"channels": 6, "kernel": (2, 2), "groups": 3}),
    "grouped": ((1, 5, 2, 6), {"channels": 4, "kernel": (2, 1), "groups": 2}),
    "strided and dilated": ((1, 11, 7, 2), {"channels": 3, "kernel": (3, 3), "stride": (2, 2), "dilation": (2, 1)}),
    "padded in frequency": ((1, 4, 5, 2), {"channels": 3, "kernel": (2, 3), "pad_f": (2, 1)}),
    "padded pointwise": ((1, 2, 3, 2), {"channels": 3, "kernel": (1, 1), "pad_f": (1, 1)}),
    "relu": ((1, 4, 3, 5), {"channels": 6, "kernel": (1, 1), "relu": True}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_loops_over_python_integers(case: str, rule: str) -> None:
    shape, arguments = CONVOLUTIONS[case]
    g = GraphBuilder(seed=1)
    output = g.conv(g.activation("features", shape, IN), quant=OUT, **arguments)
    graph = g.build(output, requantization=rule)
    x = random_codes(shape, seed=2)
    assert np.array_equal(run(graph, x), reference_conv(graph, x))


@pytest.mark.parametrize("rule", RULES)
def test_int16_activations_equal_loops_over_python_integers(rule: str) -> None:
    quant = QuantParams(scale=(0.0002,), dtype="int16")
    g = GraphBuilder(seed=3)
    x = g.activation("features", (1, 5, 1, 64), quant)
    output = g.conv(x, 7, (3, 1), QuantParams(scale=(0.0003,), dtype="int16"), weight_scale=(0.01,))
    graph = g.build(output, requantization=rule)
    codes = random_codes((1, 5, 1, 64), seed=4, dtype="int16")
    assert run(graph, codes).dtype == np.int16
    assert np.array_equal(run(graph, codes), reference_conv(graph, codes))


def test_accumulators_beyond_float32_integers_stay_exact() -> None:
    # 2048 products of 255 * 127 pass 2**24, where float32 would lose the last bits that the tight scale shows.
    g = GraphBuilder(seed=5)
    x = g.activation("features", (1, 1, 1, 2048), QuantParams(scale=(1.0,), zero_point=-128))
    weight = np.full((1, 1, 1, 2048), 127, np.int8)
    weight[0, 0, 0, 0] = 1
    output = g.conv(x, 1, (1, 1), QuantParams(scale=(1.0,), dtype="int16"), weight=weight, weight_scale=(1.0,))
    g.constants["bias_0"][0] = -(255 * 127 * 2047)
    graph = g.build(output)
    assert run(graph, np.full((1, 1, 1, 2048), 127, np.int8)).item() == 255


def test_fully_connected_is_a_pointwise_convolution() -> None:
    g = GraphBuilder(seed=6)
    x = g.activation("features", (1, 3, 2, 5), IN)
    pointwise = g.conv(x, 4, (1, 1), OUT)
    weight = g.tensors["weight_0"]
    flat = g.constant("flat", g.constants["weight_0"].reshape(4, 5), weight.quant)
    connected = g.op("fully_connected", (x, flat, "bias_0"), (1, 3, 2, 4), OUT, relu=False)
    graph = g.build(connected)
    codes = random_codes((1, 3, 2, 5), seed=7)
    expected = kernel(graph, graph.ops[0])([codes], 1)
    assert graph.ops[0].outputs == (pointwise,)
    assert np.array_equal(run(graph, codes), expected)


def two_inputs(kind: str, first: QuantParams, second: QuantParams, output: QuantParams, **attrs: Any) -> IntegerGraph:
    g = GraphBuilder()
    a, b = g.activation("features", (1, 1, 1, 3), first), g.activation("other", (1, 1, 1, 3), second)
    # The other input is a constant here, so that the graph is whole; kernels are called with arrays.
    g.constants["other"] = np.zeros((1, 1, 1, 3), second.dtype)
    return g.build(g.op(kind, (a, b), (1, 1, 1, 3), output, **attrs))


def codes(*values: int) -> npt.NDArray[np.int8]:
    return np.array(values, np.int8).reshape(1, 1, 1, -1)


def test_tied_add_and_sub_are_integer_and_saturate() -> None:
    a, b = codes(10, 127, -128), codes(20, 127, -128)
    assert run(two_inputs("add", IN, IN, IN), a, b).ravel().tolist() == [37, 127, -128]
    assert run(two_inputs("sub", IN, IN, IN), a, b).ravel().tolist() == [-17, -7, -7]
    assert run(two_inputs("add", IN, IN, IN, relu=True), a, b).ravel().tolist() == [37, 127, -7]


def test_rescaled_add_works_in_real_units() -> None:
    # (10 - 0) * 0.5 + (4 - 2) * 0.25 = 5.5 of scale 1 and zero point 1; a tie to even: 6 + 1.
    half, quarter, one = (
        QuantParams(scale=(0.5,)),
        QuantParams(scale=(0.25,), zero_point=2),
        QuantParams(scale=(1.0,), zero_point=1),
    )
    assert run(two_inputs("add", half, quarter, one), codes(10, 0, 0), codes(4, 2, 127)).ravel().tolist() == [7, 1, 32]
    assert run(two_inputs("sub", half, quarter, one), codes(10, 0, 0), codes(4, 2, 127)).ravel().tolist() == [5, 1, -30]


def test_mul_multiplies_centred_codes() -> None:
    # (12 - 2) * (5 - 1) = 40 of scale 0.25; output scale 2: 5, plus zero point -3.
    first, second = QuantParams(scale=(0.5,), zero_point=2), QuantParams(scale=(0.5,), zero_point=1)
    output = QuantParams(scale=(2.0,), zero_point=-3)
    assert run(two_inputs("mul", first, second, output), codes(12, 2, -128), codes(5, 99, -128)).ravel().tolist() == [
        2,
        -3,
        127,
    ]


def one_input(
    kind: str, shape: tuple[int, ...], source: QuantParams | None, target: QuantParams | None, **attrs: Any
) -> IntegerGraph:
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 3, 2) if kind in ("mean_frequency", "merge_frequency") else shape, source)
    return g.build(g.op(kind, (x,), shape, target, **attrs))


def test_relu_and_clamp_act_on_codes() -> None:
    assert run(one_input("relu", (1, 1, 1, 3), IN, IN), codes(-100, -7, 5)).ravel().tolist() == [-7, -7, 5]
    assert run(one_input("clamp", (1, 1, 1, 3), IN, IN, low=-9, high=3), codes(-100, -7, 5)).ravel().tolist() == [
        -9,
        -7,
        3,
    ]


def test_requantize_changes_parameters() -> None:
    source, target = QuantParams(scale=(0.5,), zero_point=1), QuantParams(scale=(1.0,), zero_point=-2)
    assert run(one_input("requantize", (1, 1, 1, 3), source, target), codes(5, 4, 1)).ravel().tolist() == [0, 0, -2]


@pytest.mark.parametrize("rule", RULES)
def test_requantize_between_int8_and_int16_takes_ties_away_from_zero(rule: str) -> None:
    # 5, 3 and -3 of scale 1/2 are 2.5, 1.5 and -1.5; gemmlowp's rounding shift takes ties away from zero, where a
    # multiplier of 1/2 needs no shift: its doubled high product rounds half up.
    source, target = QuantParams(scale=(0.5,), dtype="int16"), QuantParams(scale=(1.0,), zero_point=10)
    x = np.array([5, 3, -3, 30000], np.int16).reshape(1, 1, 1, 4)
    graph = replace(one_input("requantize", (1, 1, 1, 4), source, target), requantization=rule)
    assert run(graph, x).ravel().tolist() == [13, 12, 9, 127]
    quarter = QuantParams(scale=(0.25,), zero_point=2)
    up = replace(
        one_input("requantize", (1, 1, 1, 4), quarter, QuantParams(scale=(1.0,), dtype="int16")), requantization=rule
    )
    assert run(up, codes(12, -8, 6, 2)).ravel().tolist() == [3, -3, 1, 0]


def test_mul_of_int16_codes_is_their_exact_product_scaled() -> None:
    # 20,000 * 30,000 * 2**-30 / 2**-15 = 18310.55, and (-1) * (-1) is one code more than there are.
    quant = QuantParams(scale=(2.0**-15,), dtype="int16")
    x, y = (np.array(values, np.int16).reshape(1, 1, 1, 3) for values in ((20000, -32768, 7), (30000, -32768, 0)))
    assert run(two_inputs("mul", quant, quant, quant), x, y).ravel().tolist() == [18311, 32767, 0]


def test_softmax_of_int16_codes_follows_the_real_function() -> None:
    source, target = QuantParams(scale=(0.001,), dtype="int16"), QuantParams(scale=(1 / 32768,), dtype="int16")
    x = np.array([2000, -500, 0], np.int16).reshape(1, 1, 1, 3)
    reals = [math.exp(code * source.scale[0]) for code in (2000, -500, 0)]
    expected = [round(value / sum(reals) * 32768) for value in reals]
    assert run(one_input("softmax", (1, 1, 1, 3), source, target), x).ravel().tolist() == expected


def test_mean_of_int16_codes_over_frequency() -> None:
    same = QuantParams(scale=(1.0,), dtype="int16")
    x = np.array([[30000, -9], [30001, -9], [30003, -12]], np.int16).reshape(1, 1, 3, 2)
    # Sums 90004 and -30; a third in 15 bits is 21845 / 2**16, which makes 30000.87 of what would be 30001.33.
    assert run(one_input("mean_frequency", (1, 1, 1, 2), same, same), x).ravel().tolist() == [30001, -10]


def test_quantize_and_dequantize_cross_the_border() -> None:
    real = np.array([0.1, -0.26], np.float32).reshape(1, 1, 1, 2)
    assert run(one_input("quantize", (1, 1, 1, 2), None, IN), real).ravel().tolist() == [-5, -12]
    assert run(one_input("dequantize", (1, 1, 1, 3), IN, None), codes(-7, 13, 33)).ravel().tolist() == pytest.approx(
        [0, 1, 2]
    )


def test_mean_and_merge_over_frequency() -> None:
    x = np.array([[1, 10], [2, 20], [6, 31]], np.int8).reshape(1, 1, 3, 2)
    same = QuantParams(scale=(1.0,), zero_point=5)
    # Channel means 3 and 61 / 3 = 20.33.
    assert run(one_input("mean_frequency", (1, 1, 1, 2), same, same), x).ravel().tolist() == [3, 20]
    assert run(one_input("merge_frequency", (1, 1, 1, 6), same, same), x).ravel().tolist() == [1, 10, 2, 20, 6, 31]


@pytest.mark.parametrize(
    ("kind", "function", "target"),
    [
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x)), QuantParams(scale=(1 / 256,), zero_point=-128)),
        ("tanh", math.tanh, QuantParams(scale=(1 / 128,))),
    ],
)
def test_tables_hold_the_rounded_function_of_every_code(kind: str, function: Any, target: QuantParams) -> None:
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 1, 256)
    result = run(one_input(kind, (1, 1, 1, 256), IN, target), every).ravel()
    exact = [function((code + 7) * IN.scale[0]) / target.scale[0] + target.zero_point for code in range(-128, 128)]
    assert result.tolist() == [min(max(round(value), -128), 127) for value in exact]


def test_softmax_sums_to_one_and_follows_the_real_function() -> None:
    target = QuantParams(scale=(1 / 256,), zero_point=-128)
    x = codes(40, 10, -20)
    reals = [math.exp((code + 7) * IN.scale[0]) for code in (40, 10, -20)]
    expected = [round(value / sum(reals) * 256) - 128 for value in reals]
    assert run(one_input("softmax", (1, 1, 1, 3), IN, target), x).ravel().tolist() == expected


def test_float_islands_compute_in_float32() -> None:
    x = np.array([-1.0, 0.5, 2.0], np.float32).reshape(1, 1, 1, 3)
    for kind, expected in (
        ("relu", [0, 0.5, 2]),
        ("tanh", np.tanh([-1, 0.5, 2])),
        ("sigmoid", 1 / (1 + np.exp([1, -0.5, -2]))),
    ):
        result = run(one_input(kind, (1, 1, 1, 3), None, None), x)
        assert result.dtype == np.float32
        assert result.ravel().tolist() == pytest.approx(expected, rel=1e-6)
    softmax = run(one_input("softmax", (1, 1, 1, 3), None, None), x).ravel()
    assert softmax.tolist() == pytest.approx(np.exp([-1, 0.5, 2]) / np.exp([-1, 0.5, 2]).sum(), rel=1e-6)


def test_a_float_convolution_adds_bias_and_relu() -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 2), None)
    g.constant("weight", np.array([[[[1, 2]]], [[[-1, 0]]]], np.float32))
    g.constant("bias", np.array([0.5, -3], np.float32))
    graph = g.build(g.op("conv", (x, "weight", "bias"), (1, 2, 1, 2), None, relu=True))
    real = np.array([[1, 2], [3, -4]], np.float32).reshape(1, 2, 1, 2)
    assert run(graph, real).ravel().tolist() == [5.5, 0.0, 0.0, 0.0]
