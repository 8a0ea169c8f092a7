"""The numpy engine, the boundary every engine checks, and finding engines."""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.engines import available_engines
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.engines.numpy_engine import MAX_STEPS_PER_PASS, NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.engines.time_plan import time_plan
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.graph import IntegerGraph, StateSpec
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes, residual_graph

SMALL = NumpyProgram(residual_graph(channels=8, blocks=2, window=10, n_features=6, n_labels=3))
STREAM = random_codes((4 * 40, 6), seed=1)


def recurrent_graph() -> IntegerGraph:
    """``h = requantize(x + h)``: no FIFO, so one step at a time is the only way."""
    quant = QuantParams(scale=(0.1,), zero_point=2)
    g = GraphBuilder()
    x, h = g.activation("features", (1, 1, 1, 3), quant), g.activation("h", (1, 1, 1, 3), quant)
    total = g.op("add", (x, h), (1, 1, 1, 3), quant, relu=False)
    g.states.append(StateSpec(name="h", input=h, output=total, initial=2))
    return g.build(total)


def delayed_graph() -> IntegerGraph:
    """Logits are the features of one frame ago."""
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    joined = g.fifo(g.activation("features", (1, 2, 1, 3), quant), 1)
    return g.build(g.op("slice", (joined,), (1, 2, 1, 3), quant, axis=1, start=-3, stop=-1))


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_any_number_of_steps_in_a_call_gives_the_same_logits(cuts: list[int]) -> None:
    offline = SMALL.session().run(STREAM)
    session = SMALL.session()
    edges = [0, *sorted(cuts), 40]
    parts = [session.run(STREAM[4 * a : 4 * b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), offline)


def test_streams_longer_than_a_pass_continue_in_the_next() -> None:
    stream = random_codes((4 * (MAX_STEPS_PER_PASS + 3), 6), seed=2)
    session = SMALL.session()
    first = session.run(stream[: 4 * MAX_STEPS_PER_PASS])
    assert np.array_equal(
        SMALL.session().run(stream), np.concatenate([first, session.run(stream[4 * MAX_STEPS_PER_PASS :])])
    )


def test_reset_forgets_and_sessions_do_not_share() -> None:
    session, other = SMALL.session(), SMALL.session()
    fresh = session.run(STREAM[:8])
    other.run(STREAM[8:40])
    assert not np.array_equal(session.run(STREAM[:8]), fresh)
    session.reset()
    assert np.array_equal(session.run(STREAM[:8]), fresh)


def test_no_steps_give_no_logits() -> None:
    result = SMALL.session().run(np.empty((0, 6), np.int8))
    assert result.shape == (0, 3)
    assert result.dtype == np.int8


def test_a_recurrent_state_runs_step_by_step() -> None:
    graph = recurrent_graph()
    assert time_plan(graph) is None
    codes = np.array([[2, 3, 1], [2, 4, 0], [3, 2, 2]], np.int8)
    # Centred by the zero point 2, each row is the sum of all rows so far.
    assert NumpyProgram(graph).session().run(codes).tolist() == [[2, 3, 1], [2, 5, -1], [3, 5, -1]]


def test_a_delay_keeps_its_place_in_longer_calls() -> None:
    codes = random_codes((12, 3), seed=3)
    expected = np.concatenate([np.zeros((1, 3), np.int8), codes[:-1]])
    assert time_plan(delayed_graph()) is not None
    assert np.array_equal(NumpyProgram(delayed_graph()).session().run(codes), expected)


def test_one_frame_a_step_holds_for_all_frames_of_its_step() -> None:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 2), quant)
    weight = np.zeros((2, 2, 1, 1), np.int8)
    weight[:, 0] = 1  # the first frame of each step
    first = g.conv(x, 2, (2, 1), quant, stride=(2, 1), groups=2, weight=weight, weight_scale=(1.0, 1.0))
    graph = g.build(g.op("add", (first, x), (1, 2, 1, 2), quant, relu=False))
    assert time_plan(graph) is not None
    codes = np.array([[1, 2], [3, 4], [10, 20], [30, 40], [5, 6], [7, 8]], np.int8)
    expected = [[2, 4], [4, 6], [20, 40], [40, 60], [10, 12], [12, 14]]
    assert NumpyProgram(graph).session().run(codes).tolist() == expected
    assert np.concatenate([NumpyProgram(graph).session().run(part) for part in np.split(codes, 3)]).tolist() == expected


def test_a_constant_with_a_frame_for_each_of_a_step_runs_step_by_step() -> None:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 2), quant)
    offsets = g.constant("offsets", np.array([[1, 2], [3, 4]], np.int8).reshape(1, 2, 1, 2), quant)
    graph = g.build(g.op("add", (x, offsets), (1, 2, 1, 2), quant, relu=False))
    assert time_plan(graph) is None
    answers = NumpyProgram(graph).session().run(np.zeros((4, 2), np.int8))
    assert answers.tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]


def test_a_state_filled_from_elsewhere_is_no_fifo() -> None:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    x, before = g.activation("features", (1, 2, 1, 3), quant), g.activation("before", (1, 1, 1, 3), quant)
    joined = g.op("concat", (before, x), (1, 3, 1, 3), quant, axis=1)
    total = g.op("add", (x, x), (1, 2, 1, 3), quant, relu=False)
    after = g.op("slice", (total,), (1, 1, 1, 3), quant, axis=1, start=-1, stop=0)
    g.states.append(StateSpec(name="doubled", input=before, output=after, initial=0))
    graph = g.build(g.op("slice", (joined,), (1, 2, 1, 3), quant, axis=1, start=-3, stop=-1))
    assert time_plan(graph) is None
    codes = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]], np.int8)
    # Each step yields the doubled last frame of the step before, then its own first frame.
    assert NumpyProgram(graph).session().run(codes).tolist() == [[0, 0, 0], [1, 2, 3], [8, 10, 12], [7, 8, 9]]


@pytest.mark.parametrize("rule", ["fp32", "tflm", "single"])
def test_numerics_are_the_graphs_rule(rule: str) -> None:
    program = NumpyProgram(
        residual_graph(channels=8, blocks=2, window=10, n_features=6, n_labels=3, requantization=rule)
    )
    assert program.numerics == rule
    assert program.engine == "numpy"
    assert program.version == f"numpy {np.__version__}"
    assert np.array_equal(program.session().run(STREAM), SMALL.session().run(STREAM)) == (rule == "fp32")


def test_the_signature_names_the_boundary() -> None:
    signature = SMALL.signature
    assert (signature.step_frames, signature.n_features, signature.outputs_per_step, signature.n_labels) == (4, 6, 1, 3)
    assert signature.input_quant.zero_point == 11
    assert signature.output_quant.zero_point == 5


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((4, 6), np.float32), "codes are float32, must be a int8 array; quantize the features first"),
        ([[0] * 6], "codes are list, must be a int8 array"),
        (np.zeros((4, 5), np.int8), r"codes have shape \[4, 5\], must be \[frames, 6\]"),
        (np.zeros(24, np.int8), r"codes have shape \[24\], must be \[frames, 6\]"),
        (np.zeros((5, 6), np.int8), "codes have 5 frames, must be a multiple of step_frames=4"),
    ],
)
def test_wrong_codes_are_refused_by_name(codes: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SMALL.session().run(codes)


def test_float_logits_are_refused() -> None:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    g.activation("features", (1, 1, 1, 3), quant)
    graph = g.build(g.op("dequantize", ("features",), (1, 1, 1, 3), None))
    with pytest.raises(SpecError, match="is float32; features and logits must be codes"):
        _ = NumpyProgram(graph).signature


def test_engines_are_found_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy", "tflite_runtime"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    assert available_engines() == ("numpy", "litert")


@pytest.mark.parametrize(
    ("program", "packages", "message"),
    [
        (
            OnnxRuntimeProgram,
            ("onnxruntime",),
            r"onnxruntime is not installed; run: pip install 'edgeaudio-runtime\[onnxruntime\]'",
        ),
        (
            LiteRtProgram,
            ("ai_edge_litert", "tflite_runtime"),
            r"neither ai_edge_litert nor tflite_runtime is installed; run: pip install 'edgeaudio-runtime\[litert\]'",
        ),
    ],
)
def test_a_missing_engine_names_its_remedy(
    program: Any,
    packages: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in packages:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EngineError, match=message):
        program(b"", SMALL.signature)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
@pytest.mark.parametrize("change", [{"n_features": 7}, {"n_labels": 4}, {"step_frames": 8}, {"outputs_per_step": 2}])
def test_a_model_of_other_sizes_than_its_manifest_says_is_refused(engine: str, change: dict[str, int]) -> None:
    """The C core writes to the addresses of these tensors: a smaller one would be written past its end."""
    pytest.importorskip("onnx", reason="writing the .onnx artifact needs onnx")
    from edgeaudio_export.targets.onnx_target import to_onnx
    from edgeaudio_export.targets.tflite_target import to_tflite

    graph = residual_graph(channels=8, blocks=1, window=10, n_features=6, n_labels=3)
    initial = tuple(state.initial for state in graph.states)
    promised = replace(SMALL.signature, **change)
    opened = (
        OnnxRuntimeProgram(to_onnx(graph), promised, initial)
        if engine == "onnxruntime"
        else LiteRtProgram(to_tflite(graph), promised, initial)
    )
    words = "the model takes 24 values a step and answers 3, the manifest says"
    with pytest.raises(EngineError, match=words):
        opened.session()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"logitz", "the model has no tensor 'logits'; export the bundle again"),
        (b"logit\xf4", "a tensor of the model has a name that is no UTF-8; export the bundle again"),
    ],
)
def test_a_model_with_other_names_than_agreed_is_refused(name: bytes, words: str) -> None:
    pytest.importorskip("edgeaudio_export.targets.tflite_target", reason="the build side writes .tflite artifacts")
    from edgeaudio_export.targets.tflite_target import to_tflite

    graph = residual_graph(channels=8, blocks=1, window=10, n_features=6, n_labels=3)
    model = to_tflite(graph)
    assert b"logits" in model
    initial = tuple(state.initial for state in graph.states)
    with pytest.raises(EngineError, match=words):
        LiteRtProgram(model.replace(b"logits", name), SMALL.signature, initial).session()
