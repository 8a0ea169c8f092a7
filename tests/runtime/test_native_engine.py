"""The native engine: code for code what the integer graph says, with any vectors; what it lacks it refuses in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.engines.native_engine import NativeProgram
from edgeaudio_runtime.engines.native_plan import packed, paired
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.graph import IntegerGraph, StateSpec
from edgeaudio_runtime.native import load_library
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes, residual_graph

LEVELS = (0, 1, 2)
"""Plain C, AVX2, AVX-512 with VNNI; a machine without one of them runs the best it has in its place."""

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C core was not built: no compiler at installation")


def assert_same_codes(graph: IntegerGraph, *, n_steps: int = 40, seed: int = 0) -> None:
    _, frames, bins, channels = graph.input_tensor.shape
    codes = random_codes((frames * n_steps, bins * channels), seed=seed)
    expected = NumpyProgram(graph).session().run(codes)
    assert len(np.unique(expected)) > 1
    for level in LEVELS:
        found = NativeProgram(graph, level=level).session().run(codes)
        assert np.array_equal(found, expected), f"level {level}"


@settings(max_examples=12)
@given(
    seed=st.integers(0, 99),
    n_features=st.sampled_from([1, 5, 40]),
    channels=st.sampled_from([3, 8, 17, 64]),
    kernel=st.sampled_from([2, 9]),
    step_frames=st.sampled_from([2, 4]),
    n_labels=st.sampled_from([2, 12, 33]),
)
def test_streaming_networks_give_the_codes_of_the_graph(seed: int, **sizes: int) -> None:
    assert_same_codes(residual_graph(seed=seed, blocks=2, window=10, **sizes), seed=seed)


@pytest.mark.parametrize(
    "attrs",
    [
        {"kernel": (3, 3), "pad_f": (1, 1)},
        {"kernel": (2, 4), "stride": (2, 2), "pad_f": (2, 0)},
        {"kernel": (3, 2), "dilation": (2, 3), "relu": True},
        {"kernel": (1, 1)},
        {"kernel": (1, 1), "stride": (1, 2)},
        {"kernel": (3, 3), "pad_f": (1, 1), "groups": 6},
        {"kernel": (1, 3), "pad_f": (3, 3), "groups": 6, "dilation": (1, 2)},
        {"kernel": (2, 3), "stride": (1, 2), "pad_f": (0, 1), "groups": 6, "relu": True},
    ],
    ids=str,
)
def test_two_dimensional_convolutions_give_the_codes_of_the_graph(attrs: dict) -> None:
    g = GraphBuilder(seed=3)
    x = g.activation("features", (1, 6, 9, 6), QuantParams(scale=(0.05,), zero_point=-17))
    y = g.conv(x, 6, quant=QuantParams(scale=(0.04,), zero_point=9), **attrs)
    n, frames, bins, channels = g.tensors[y].shape
    merged = g.op("merge_frequency", (y,), (n, frames, 1, bins * channels), g.tensors[y].quant)
    assert_same_codes(g.build(merged))


@pytest.mark.parametrize("n_channels", [2, 8, 15, 16, 17, 40])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_taps", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("zero_point", [-128, 5])
def test_depthwise_convolutions_over_frames_give_the_codes_of_the_graph(
    n_channels: int, stride: int, n_taps: int, zero_point: int
) -> None:
    for n_frames in (n_taps, n_taps + 1, n_taps + 4):  # a single output, two that share their frames, more
        g = GraphBuilder(seed=n_frames)
        x = g.activation("features", (1, n_frames, 1, n_channels), QuantParams(scale=(0.05,), zero_point=zero_point))
        y = g.conv(x, n_channels, (n_taps, 1), QuantParams(scale=(0.04,)), stride=(stride, 1), groups=n_channels)
        assert_same_codes(g.build(y), n_steps=8)


def test_weights_of_two_outputs_lie_in_pairs_of_taps() -> None:
    found = paired(np.arange(1, 1 + 3 * 17, dtype=np.int8).reshape(3, 17))
    assert found.shape == (2, 2, 32, 2)
    assert found[:, :, 0].tolist() == [[[1, 18], [35, 0]], [[0, 1], [18, 35]]]
    assert found[0, 0, 16].tolist() == [17, 34]
    assert not found[:, :, 17:].any()


def test_fully_connected_layers_sums_and_clamps_give_the_codes_of_the_graph() -> None:
    g = GraphBuilder(seed=4)
    quants = [QuantParams(scale=(scale,), zero_point=zero) for scale, zero in ((0.05, 3), (0.021, -20), (0.07, 11))]
    x = g.activation("features", (1, 2, 1, 21), quants[0])
    y = g.conv(x, 21, (1, 1), quants[1])
    for kind, relu in (("add", False), ("sub", True)):
        x = g.op(kind, (x, y), (1, 2, 1, 21), quants[2], relu=relu)
    x = g.op("sub", (x, x), (1, 2, 1, 21), quants[2], relu=False)  # all one code, the tied way
    x = g.op("add", (x, y), (1, 2, 1, 21), quants[0], relu=False)
    x = g.op("clamp", (g.op("relu", (x,), (1, 2, 1, 21), quants[0]),), (1, 2, 1, 21), quants[0], low=4, high=90)
    weight = g.constant("w", random_codes((5, 21), seed=5) // 2, QuantParams(scale=(0.01,), qmin=-127))
    bias = g.constant("b", np.arange(5, dtype=np.int32) * 100, QuantParams(scale=(0.0005,), dtype="int32"))
    assert_same_codes(g.build(g.op("fully_connected", (x, weight, bias), (1, 2, 1, 5), quants[1], relu=False)))


def recurrent_graph() -> IntegerGraph:
    quant = QuantParams(scale=(0.1,), zero_point=2)
    g = GraphBuilder()
    x, h = g.activation("features", (1, 1, 1, 3), quant), g.activation("h", (1, 1, 1, 3), quant)
    total = g.op("add", (x, h), (1, 1, 1, 3), quant, relu=False)
    g.states.append(StateSpec(name="h", input=h, output=total, initial=2))
    return g.build(total)


def delayed_graph() -> IntegerGraph:
    """Logits are the features of one frame ago: they lie where the state is carried on to."""
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    joined = g.fifo(g.activation("features", (1, 2, 1, 3), quant), 1)
    return g.build(g.op("slice", (joined,), (1, 2, 1, 3), quant, axis=1, start=-3, stop=-1))


def twice_joined_graph() -> IntegerGraph:
    """One tensor in two joins, and a cut in a third: only one of them can be where it was written."""
    quant = QuantParams(scale=(0.1,), zero_point=-5)
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 3), quant)
    first, second = g.fifo(x, 1), g.fifo(x, 2)
    cut = g.op("slice", (first,), (1, 2, 1, 3), quant, axis=1, start=-3, stop=-1)
    return g.build(g.op("concat", (cut, second, second), (1, 10, 1, 3), quant, axis=1))


@pytest.mark.parametrize(
    "graph", [recurrent_graph(), delayed_graph(), twice_joined_graph()], ids=["h", "late", "twice"]
)
def test_states_and_joins_may_lie_anywhere(graph: IntegerGraph) -> None:
    assert_same_codes(graph)


def test_sessions_share_nothing_they_change_and_a_reset_is_a_fresh_start() -> None:
    program = NativeProgram(residual_graph(channels=8, blocks=1, window=10, n_features=6, n_labels=3))
    one, other = random_codes((40, 6), seed=1), random_codes((40, 6), seed=2)
    expected = [program.session().run(codes) for codes in (one, other)]
    first, second = program.session(), program.session()
    parts = [(first.run(one[i : i + 4]), second.run(other[i : i + 4])) for i in range(0, 40, 4)]
    for found, wanted in zip(zip(*parts, strict=True), expected, strict=True):
        assert np.array_equal(np.concatenate(found), wanted)
    first.reset()
    assert np.array_equal(first.run(other), expected[1])


def test_weights_lie_in_blocks_of_sixteen_outputs_and_groups_of_four_inputs() -> None:
    found = packed(np.arange(17 * 5, dtype=np.int8).reshape(17, 5))
    assert found.shape == (2, 2, 16, 4)
    assert found[0, 1, 3].tolist() == [3 * 5 + 4, 0, 0, 0]
    assert found[1, 0, 0].tolist() == [80, 81, 82, 83]
    assert not found[1, :, 1:].any()


def uncovered(kind: str) -> IntegerGraph:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 4, 3), quant)
    if kind == "mean_frequency":
        return g.build(g.op(kind, (x,), (1, 2, 1, 3), quant))
    y = g.op("slice", (x,), (1, 2, 1, 3), quant, axis=2, start=1, stop=2)
    return g.build(y)


def test_what_the_core_lacks_is_refused_in_words() -> None:
    with pytest.raises(
        SpecError, match=r"operation 'mean_frequency' \(.*\) of this shape is not native; use litert or"
    ):
        NativeProgram(uncovered("mean_frequency"))
    with pytest.raises(SpecError, match=r"operation 'slice' .* is not native"):
        NativeProgram(uncovered("slice"))
    with pytest.raises(SpecError, match="requantization='tflm' must be 'fp32' for the native engine"):
        NativeProgram(residual_graph(blocks=1, window=10, requantization="tflm"))
    with pytest.raises(SpecError, match="codes have 3 frames, must be a multiple of step_frames=4"):
        NativeProgram(residual_graph(blocks=1, window=10)).session().run(random_codes((3, 40)))


def test_sums_that_32_bits_do_not_hold_are_refused() -> None:
    g = GraphBuilder()
    quant = QuantParams(scale=(0.1,))
    x = g.activation("features", (1, 1, 1, 34000), quant)
    y = g.conv(x, 1, (1, 1), quant, weight=np.full((1, 1, 1, 34000), 127, np.int8), weight_scale=(1e-6,))
    with pytest.raises(SpecError, match="sums beyond 32 bits are not native"):
        NativeProgram(g.build(y))
