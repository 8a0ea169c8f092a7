"""Each operation of the integer graph, exhaustively where that is possible: numpy = ONNX Runtime = LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.graph import IntegerGraph, Op, StateSpec
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes

EVERY_CODE = np.arange(-128, 128).astype(np.int8)
SEEDS = range(4)

FLOAT_ORDER_MAX_SHARE = 1e-4
"""A rescaled add and softmax are float arithmetic, each engine in its order: 1 code in 100,000 was off by 1."""


def random_params(seed: int) -> tuple[QuantParams, QuantParams]:
    rng = np.random.default_rng(seed)
    scales, zeros = rng.uniform(0.01, 0.1, 2), rng.integers(-128, 128, 2)
    first, second = (QuantParams(scale=(float(s),), zero_point=int(z)) for s, z in zip(scales, zeros, strict=True))
    return first, second


def all_engines(graph: IntegerGraph, codes: npt.NDArray[np.int8]) -> list[npt.NDArray[np.int8]]:
    """Logit codes of numpy, LiteRT and ONNX Runtime."""
    reference = NumpyProgram(graph)
    initial = tuple(state.initial for state in graph.states)
    programs: list[Any] = [
        reference,
        LiteRtProgram(to_tflite(graph), reference.signature, initial),
        OnnxRuntimeProgram(to_onnx(graph), reference.signature, initial),
    ]
    return [program.session().run(codes) for program in programs]


def assert_all_equal(graph: IntegerGraph, codes: npt.NDArray[np.int8]) -> None:
    reference, litert, ort = all_engines(graph, codes)
    assert np.count_nonzero(litert != reference) == 0
    assert np.count_nonzero(ort != reference) == 0


def assert_nearly_equal(graph: IntegerGraph, codes: npt.NDArray[np.int8]) -> None:
    reference, *others = all_engines(graph, codes)
    for other in others:
        difference = np.abs(other.astype(int) - reference)
        assert difference.max() <= 1
        assert np.mean(difference > 0) <= FLOAT_ORDER_MAX_SHARE


def pair_graph(kind: str, source: QuantParams, target: QuantParams, *, relu: bool = False) -> IntegerGraph:
    """The operation on the two halves of the features."""
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 512), source)
    halves = [g.op("slice", (x,), (1, 1, 1, 256), source, axis=3, start=a, stop=a + 256) for a in (0, 256)]
    return g.build(g.op(kind, (halves[0], halves[1]), (1, 1, 1, 256), target, relu=relu))


def every_pair() -> npt.NDArray[np.int8]:
    """All 65,536 pairs of codes, 256 a row."""
    first, second = np.meshgrid(EVERY_CODE, EVERY_CODE, indexing="ij")
    return np.concatenate([first, second], axis=1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["add", "sub"])
def test_tied_sums_agree_on_every_pair_of_codes(kind: str, seed: int, relu: bool) -> None:
    params, _ = random_params(seed)
    assert_all_equal(pair_graph(kind, params, params, relu=relu), every_pair())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_products_agree_on_every_pair_of_codes(seed: int, relu: bool) -> None:
    source, other = random_params(seed)
    # A whole ratio of scales: one product in a hundred is an exact tie, where the order of roundings shows.
    target = QuantParams(scale=(source.scale[0] ** 2 * (20 + 30 * seed),), zero_point=other.zero_point)
    assert_all_equal(pair_graph("mul", source, target, relu=relu), every_pair())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["add", "sub"])
def test_rescaled_sums_agree_but_for_rare_codes(kind: str, seed: int) -> None:
    assert_nearly_equal(pair_graph(kind, *random_params(seed)), every_pair())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("sigmoid", QuantParams(scale=(1 / 256,), zero_point=-128)),
        ("tanh", QuantParams(scale=(1 / 128,))),
    ],
)
def test_activations_agree_on_every_code(kind: str, target: QuantParams, seed: int) -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 256), random_params(seed)[0])
    assert_all_equal(g.build(g.op(kind, (x,), (1, 1, 1, 256), target)), EVERY_CODE[None])


@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_agrees_but_for_rare_codes(seed: int) -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 12), random_params(seed)[0])
    graph = g.build(g.op("softmax", (x,), (1, 1, 1, 12), QuantParams(scale=(1 / 256,), zero_point=-128)))
    assert_nearly_equal(graph, random_codes((5000, 12), seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_requantize_agrees_on_every_code(seed: int) -> None:
    source, target = random_params(seed)
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 256), source)
    assert_all_equal(g.build(g.op("requantize", (x,), (1, 1, 1, 256), target)), EVERY_CODE[None])


@pytest.mark.parametrize("seed", SEEDS)
def test_frequency_operations_agree(seed: int) -> None:
    source, target = random_params(seed)
    g = GraphBuilder(seed=seed)
    x = g.activation("features", (1, 2, 5, 8), source)
    merged = g.op("merge_frequency", (x,), (1, 2, 1, 40), source)
    clamped = g.op("clamp", (g.op("relu", (merged,), (1, 2, 1, 40), source),), (1, 2, 1, 40), source, low=-10, high=100)
    assert_all_equal(g.build(clamped), random_codes((2000, 40), seed=seed))
    mean = g.op("mean_frequency", (x,), (1, 2, 1, 8), target)
    assert_all_equal(g.build(mean), random_codes((2000, 40), seed=seed))


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 6, "kernel": (2, 3), "pad_f": (1, 1), "stride": (1, 2), "relu": True},
        {"channels": 6, "kernel": (2, 3), "dilation": (2, 1)},
        {"channels": 8, "kernel": (4, 1), "groups": 4},
        {"channels": 4, "kernel": (3, 3), "groups": 4, "pad_f": (1, 1), "relu": True},
        {"channels": 8, "kernel": (1, 1), "groups": 2},
        {"channels": 5, "kernel": (1, 1), "stride": (2, 2)},
    ],
)
def test_two_dimensional_convolutions_agree(arguments: dict[str, Any]) -> None:
    source, target = QuantParams(scale=(0.05,), zero_point=-20), QuantParams(scale=(0.04,), zero_point=-100)
    g = GraphBuilder(seed=9)
    x = g.conv(g.activation("features", (1, 4, 7, 4), source), quant=target, **arguments)
    n, frames, bins, channels = g.tensors[x].shape
    graph = g.build(g.op("merge_frequency", (x,), (n, frames, 1, bins * channels), target))
    assert_all_equal(graph, random_codes((4 * 300, 28), seed=9))


@pytest.mark.parametrize("shape", [(1, 2, 1, 8), (1, 1, 5, 8), (1, 1, 1, 8), (1, 2, 5, 1)])
@pytest.mark.parametrize("kind", ["add", "sub", "mul"])
def test_one_bin_frame_or_channel_for_all_agrees(kind: str, shape: tuple[int, ...]) -> None:
    source, other = random_params(6)
    target = source if kind != "mul" else QuantParams(scale=(source.scale[0] ** 2 * 40,), zero_point=other.zero_point)
    for swapped in (False, True):
        g = GraphBuilder(seed=6)
        whole = part = g.activation("features", (1, 2, 5, 8), source)
        for axis in (axis for axis in (1, 2, 3) if shape[axis] == 1):
            start, stop = (-1, 0) if axis == 1 else (1, 2)
            cut = (*shape[: axis + 1], *(1, 2, 5, 8)[axis + 1 :])
            part = g.op("slice", (part,), cut, source, axis=axis, start=start, stop=stop)
        inputs = (part, whole) if swapped else (whole, part)
        made = g.op(kind, inputs, (1, 2, 5, 8), target, relu=False)
        graph = g.build(g.op("merge_frequency", (made,), (1, 2, 1, 40), target))
        assert_all_equal(graph, random_codes((2 * 800, 40), seed=6))


def test_joins_and_cuts_along_frequency_agree() -> None:
    source, _ = random_params(7)
    g = GraphBuilder(seed=7)
    x = g.activation("features", (1, 2, 6, 4), source)
    low, high = (g.op("slice", (x,), (1, 2, 3, 4), source, axis=2, start=a, stop=a + 3) for a in (0, 2))
    joined = g.op("concat", (high, low), (1, 2, 6, 4), source, axis=2)
    assert_all_equal(g.build(g.op("merge_frequency", (joined,), (1, 2, 1, 24), source)), random_codes((400, 24)))


def test_fully_connected_agrees() -> None:
    source, target = random_params(5)
    g = GraphBuilder(seed=5)
    x = g.activation("features", (1, 1, 1, 30), source)
    weight = g.constant("weight", random_codes((7, 30), seed=6).clip(-127), QuantParams(scale=(0.01,), qmin=-127))
    bias = g.constant("bias", np.arange(7, dtype=np.int32), QuantParams(scale=(source.scale[0] * 0.01,), dtype="int32"))
    graph = g.build(g.op("fully_connected", (x, weight, bias), (1, 1, 1, 7), target, relu=False))
    assert_all_equal(graph, random_codes((2000, 30), seed=7))


def test_weights_and_activations_at_their_extremes_do_not_saturate_inside() -> None:
    # 255 * 127 + 255 * 127 passes int16: kernels that add pairs in 16 bits would show here on CPUs without VNNI.
    source = QuantParams(scale=(0.05,), zero_point=-128)
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 64), source)
    weight = np.full((4, 1, 1, 64), 127, np.int8)
    weight[1] *= -1
    weight[2, ..., ::2] *= -1
    target = QuantParams(scale=(0.05 * 64 * 255,), zero_point=0)
    graph = g.build(g.conv(x, 4, (1, 1), target, weight=weight, weight_scale=(1.0,)))
    assert_all_equal(graph, np.full((1, 64), 127, np.int8))


def test_states_that_are_also_outputs_or_come_from_one_tensor_agree() -> None:
    quant = QuantParams(scale=(0.1,), zero_point=2)
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 3), quant)
    first, second = g.activation("first", (1, 1, 1, 3), quant), g.activation("second", (1, 1, 1, 3), quant)
    total = g.op(
        "add", (g.op("add", (x, first), (1, 1, 1, 3), quant, relu=False), second), (1, 1, 1, 3), quant, relu=False
    )
    g.states += [
        StateSpec(name="first", input=first, output=total, initial=2),
        StateSpec(name="second", input=second, output=total, initial=2),
    ]
    assert_all_equal(g.build(total), random_codes((30, 3)) // 40)


def test_a_float_island_agrees_with_its_codes() -> None:
    source, target = random_params(8)
    g = GraphBuilder()
    x = g.op("dequantize", (g.activation("features", (1, 1, 1, 256), source),), (1, 1, 1, 256), None)
    island = g.op("tanh", (g.op("relu", (x,), (1, 1, 1, 256), None),), (1, 1, 1, 256), None)
    assert_all_equal(g.build(g.op("quantize", (island,), (1, 1, 1, 256), target)), EVERY_CODE[None])


def test_tensors_may_have_the_names_of_the_boundary() -> None:
    quant = QuantParams(scale=(0.1,), zero_point=2)
    g = GraphBuilder()
    shape = (1, 1, 1, 3)
    names = ("state_0_in", "logits", "state_0_out", "features")
    x, before, after, total = (g.activation(name, shape, quant) for name in names)
    g.ops.append(Op(kind="relu", inputs=(x,), outputs=(after,)))
    g.ops.append(Op(kind="add", inputs=(after, before), outputs=(total,), attrs={"relu": False}))
    g.states.append(StateSpec(name="swapped", input=before, output=after, initial=2))
    assert_all_equal(g.build(total, input=x), random_codes((30, 3)))
