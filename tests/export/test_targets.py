"""Targets re-express the same integers: numpy, ONNX Runtime and LiteRT agree code for code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram, OnnxRuntimeSession
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes, residual_graph

STEPS = 1400
"""Times 12 labels and 3 graphs: more than 50,000 logit codes."""

BUILTIN_MAX_LSB = 3
"""Largest difference measured for LiteRT's kernels without the default delegate, which follow other roundings."""

Initial = tuple[int | float, ...]


def initial(graph: IntegerGraph) -> Initial:
    return tuple(state.initial for state in graph.states)


def litert(graph: IntegerGraph, **options: Any) -> LiteRtProgram:
    return LiteRtProgram(to_tflite(graph), NumpyProgram(graph).signature, initial(graph), **options)


def ort(graph: IntegerGraph) -> OnnxRuntimeProgram:
    return OnnxRuntimeProgram(to_onnx(graph), NumpyProgram(graph).signature, initial(graph))


ENGINES: dict[str, Callable[[IntegerGraph], Any]] = {"litert": litert, "onnxruntime": ort}


def in_chunks(program: Any, codes: npt.NDArray[np.int8], seed: int) -> npt.NDArray[np.int8]:
    """Run a stream in calls of random numbers of steps, none included."""
    session, step = program.session(), program.signature.step_frames
    edges = np.cumsum(np.random.default_rng(seed).integers(0, 12, len(codes) // step))
    edges = [0, *edges[edges < len(codes) // step].tolist(), len(codes) // step]
    return np.concatenate([session.run(codes[step * a : step * b]) for a, b in pairwise(edges)])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_streaming_residual_net_gives_the_same_codes_everywhere(engine: str, seed: int) -> None:
    graph = residual_graph(seed=seed, channels=(32, 48, 20)[seed], blocks=3, window=(50, 26, 12)[seed])
    codes = random_codes((4 * STEPS, 40), seed=seed)
    offline = NumpyProgram(graph).session().run(codes)
    assert len(np.unique(offline)) > 100
    program = ENGINES[engine](graph)
    assert program.numerics == "fp32"
    assert np.count_nonzero(in_chunks(program, codes, seed) != offline) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_several_outputs_a_step_agree(engine: str) -> None:
    g = GraphBuilder(seed=7)
    quant = QuantParams(scale=(0.05,), zero_point=-3)
    x = g.conv(g.fifo(g.activation("features", (1, 4, 1, 10), quant), 2), 8, (3, 1), quant, relu=True)
    average = np.full((8, 30, 1, 1), 127, np.int8)
    x = g.conv(
        g.fifo(x, 28), 8, (30, 1), quant, stride=(2, 1), groups=8, weight=average, weight_scale=(1 / (127 * 30),)
    )
    graph = g.build(g.conv(x, 3, (1, 1), quant))
    codes = random_codes((4 * 100, 10))
    assert graph.outputs_per_step == 2
    assert np.array_equal(ENGINES[engine](graph).session().run(codes), NumpyProgram(graph).session().run(codes))


@pytest.mark.parametrize("engine", ENGINES)
def test_reset_and_separate_sessions(engine: str) -> None:
    graph = residual_graph(channels=8, blocks=1, window=10)
    program, codes = ENGINES[engine](graph), random_codes((40, 40))
    expected = NumpyProgram(graph).session().run(codes)
    session, other = program.session(), program.session()
    other.run(codes[:4])
    assert np.array_equal(session.run(codes), expected)
    assert not np.array_equal(session.run(codes), expected)
    session.reset()
    assert np.array_equal(session.run(codes), expected)
    assert session.run(codes[:0]).shape == (0, 12)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_onnx_does_not_depend_on_the_optimization_level(level: str) -> None:
    graph = residual_graph(channels=32, blocks=3)
    codes = random_codes((4 * 200, 40))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    loaded = onnxruntime.InferenceSession(to_onnx(graph), options)
    program = NumpyProgram(graph)
    result = OnnxRuntimeSession(loaded, program.signature, initial(graph)).run(codes)
    assert np.array_equal(result, program.session().run(codes))


def test_onnx_states_stay_right_through_an_odd_number_of_steps() -> None:
    graph = residual_graph(channels=8, blocks=1, window=10)
    session, codes = ort(graph).session(), random_codes((4 * 9, 40))
    session.run(codes[:12])
    session.reset()
    assert np.array_equal(session.run(codes), NumpyProgram(graph).session().run(codes))


def test_copying_and_in_place_memory_agree() -> None:
    graph = residual_graph(channels=16, blocks=2)
    codes = random_codes((4 * 60, 40))
    in_place, copying = litert(graph).session(), litert(graph, in_place=False).session()
    assert np.array_equal(in_place.run(codes), copying.run(codes))
    in_place.reset()
    copying.reset()
    assert np.array_equal(in_place.run(codes), copying.run(codes))


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_other_litert_kernels_say_that_they_promise_nothing(kernels: Any) -> None:
    graph = residual_graph(channels=32, blocks=3)
    codes = random_codes((4 * 100, 40))
    program = litert(graph, kernels=kernels)
    assert program.numerics == "unspecified"
    assert f"({kernels} kernels)" in program.version
    difference = program.session().run(codes).astype(int) - NumpyProgram(graph).session().run(codes)
    assert np.abs(difference).max() <= BUILTIN_MAX_LSB


def test_files_name_their_boundary_and_their_rule() -> None:
    graph = residual_graph(channels=8, blocks=1, window=10)
    model = onnx.load_from_string(to_onnx(graph))
    names = ["features", "state_0_in", "state_1_in", "state_2_in"]
    assert [value.name for value in model.graph.input] == names
    assert [value.name for value in model.graph.output] == ["logits", "state_0_out", "state_1_out", "state_2_out"]
    assert {prop.key: prop.value for prop in model.metadata_props} == {
        "edgeaudio.graph": "residual",
        "edgeaudio.requantization": "fp32",
    }
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        onnx.TensorProto.INT8
    }
    details = litert(graph).interpreter().get_input_details()
    assert [detail["name"] for detail in details] == names
    assert details[0]["shape"].tolist() == [1, 4, 1, 40]


def test_litert_delegates_the_whole_graph() -> None:
    interpreter = litert(residual_graph(channels=16, blocks=2)).interpreter()
    delegates = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    boundary = {detail["index"] for detail in interpreter.get_output_details()}
    assert len(delegates) == 1
    assert boundary <= set(delegates[0]["outputs"].tolist())


def test_litert_refuses_operations_that_mix_int8_and_int16() -> None:
    g = GraphBuilder()
    g.activation("features", (1, 4, 1, 3), QuantParams(scale=(0.1,)))
    graph = g.build(g.conv("features", 2, (1, 1), QuantParams(scale=(0.001,), dtype="int16")))
    with pytest.raises(ExportError, match=r"'conv' .conv_0. has tensors of types .'int8', 'int16'., for which LiteRT"):
        to_tflite(graph)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (OnnxRuntimeProgram, "onnxruntime cannot load the model: "),
        (LiteRtProgram, "litert cannot load the model: "),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(program: Any, message: str) -> None:
    signature = NumpyProgram(residual_graph(channels=8, blocks=1)).signature
    with pytest.raises(EngineError, match=message) as caught:
        program(b"not a model at all", signature)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("program", "target"), [(OnnxRuntimeProgram, to_onnx), (LiteRtProgram, to_tflite)])
def test_initial_values_must_fit_the_states(program: Any, target: Any) -> None:
    graph = residual_graph(channels=8, blocks=1)
    with pytest.raises(SpecError, match="initial_states has 0 values, the model has 3 states"):
        program(target(graph), NumpyProgram(graph).signature)


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(SpecError, match=r"kernels='fast' must be one of \['default', 'builtin', 'reference'\]"):
        litert(residual_graph(channels=8, blocks=1), kernels="fast")
