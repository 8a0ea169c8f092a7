"""Networks that look at windows or at whole recordings: what they see of a stream, what a detector makes of it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.base import NetworkSignature
from edgeaudio_runtime.engines.boundary import check_codes
from edgeaudio_runtime.engines.windowed import WindowedProgram
from edgeaudio_runtime.errors import BundleError, EngineError, SpecError
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.manifest import Manifest
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import QuantParams, quantize
from edgeaudio_runtime.stream import LogitStream, clip_logits

FEATURES = preset("log_mel")
QUANT = QuantParams(scale=(0.05,), zero_point=0)
SILENCE = round((np.log(1e-6) + 6.5) * 0.2 / 0.05)
"""Code of a silent mel: the logarithm of the floor alone, after the affine of ``log_mel``."""
WINDOW, HOP, LATENCY = 5, 2, 1


def signature(step_frames: int) -> NetworkSignature:
    return NetworkSignature(
        step_frames=step_frames, n_features=FEATURES.n_features, outputs_per_step=1, n_labels=2, input_quant=QUANT,
        output_quant=QUANT,
    )  # fmt: skip


@dataclass(frozen=True)
class FirstAndLast:
    """A network that answers with the first value of the first and of the last frame of its window."""

    signature: NetworkSignature
    engine: str = "numpy"
    numerics: Any = "fp32"
    version: str = "by hand"

    def session(self) -> "FirstAndLast":
        return self

    def run(self, codes: np.ndarray) -> np.ndarray:
        windows = codes.reshape(check_codes(codes, self.signature), self.signature.step_frames, FEATURES.n_features)
        return np.stack((windows[:, 0, 0], windows[:, -1, 0]), axis=1)

    def reset(self) -> None:
        pass


def windowed() -> WindowedProgram:
    return WindowedProgram(
        FirstAndLast(signature(WINDOW)), signature(HOP), latency_frames=LATENCY, features=FEATURES
    )  # fmt: skip


def numbered(n_frames: int) -> np.ndarray:
    return np.tile(np.arange(1, n_frames + 1, dtype=np.int8)[:, None], FEATURES.n_features)


def test_windows_overlap_and_the_stream_begins_after_silence() -> None:
    answers = windowed().session().run(numbered(8))
    # Steps end at frames 2, 4, 6 and 8, windows one frame earlier: -3..1, -1..3, 1..5 and 3..7, counted from 1.
    np.testing.assert_array_equal(answers, [[SILENCE, 1], [SILENCE, 3], [1, 5], [3, 7]])


def test_windows_do_not_depend_on_how_many_steps_come_at_once() -> None:
    whole, cut = windowed().session(), windowed().session()
    frames = numbered(40)
    parts = [cut.run(frames[a:b]) for a, b in ((0, 2), (2, 2), (2, 8), (8, 10), (10, 40))]
    np.testing.assert_array_equal(np.concatenate(parts), whole.run(frames))


def test_a_reset_forgets_the_frames_before_and_sessions_share_none() -> None:
    program = windowed()
    first, second = program.session(), program.session()
    first.run(numbered(20))
    np.testing.assert_array_equal(second.run(numbered(2)), [[SILENCE, 1]])
    first.reset()
    np.testing.assert_array_equal(first.run(numbered(2)), [[SILENCE, 1]])


def test_windows_with_frames_between_them_are_refused() -> None:
    with pytest.raises(SpecError, match=r"step_frames=7 must be <= the window and the latency together"):
        WindowedProgram(FirstAndLast(signature(WINDOW)), signature(7), latency_frames=1, features=FEATURES)


def edit_network(bundle: Path, **changes: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    for name in [name for name in changes if name in manifest]:
        manifest[name] = changes.pop(name)
    manifest["network"].update(changes)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return manifest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_frames": 49}, "mode='streaming' must be 'windowed' for a network with input_frames"),
        ({"input_frames": 3, "mode": "windowed"}, "step_frames=4 must be <= input_frames + latency_frames"),
        ({"input_frames": 0, "mode": "windowed"}, "input_frames=0 must be an integer >= 1"),
        ({"output": "odds"}, "output='odds' must be one of ['logits', 'probabilities']"),
        ({"tensors": {"features": 3}}, "tensors={'features': 3} must map names to names"),
        ({"tensors": []}, "tensors=[] must map names to names"),
        ({"hidden_state": 1}, "hidden_state=1 must be true or false"),
        ({"mode": "whole"}, "mode='whole' must go without states"),
    ],
)
def test_a_manifest_says_how_its_network_looks_at_audio(own_bundle: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(edit_network(own_bundle, **changes))
    assert words in str(caught.value)


def window_model(name: str, *, frames: int | str) -> bytes:
    """ONNX: two labels, the mean of the codes of all frames and that of the last one, as codes of the same scale."""
    onnx = pytest.importorskip("onnx", reason="writing the model needs onnx")
    from onnx import TensorProto, helper, numpy_helper

    n_features = FEATURES.n_features
    constants = {
        "scale": np.float32(QUANT.scale[0]), "zero": np.int8(0), "last": np.array([-1], np.int64),
        "end": np.array([2**31], np.int64), "axis": np.array([1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["features", "scale", "zero"], ["real"]),
        helper.make_node("Slice", ["real", "last", "end", "axis"], ["newest"]),
        helper.make_node("ReduceMean", ["real"], ["mean_all"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("ReduceMean", ["newest"], ["mean_last"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Concat", ["mean_all", "mean_last"], ["both"], axis=3),
        helper.make_node("QuantizeLinear", ["both", "scale", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.INT8, [1, frames, 1, n_features])],
        [helper.make_tensor_value_info("logits", TensorProto.INT8, [1, 1, 1, 2])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_onnxruntime_runs_windows() -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

    inner = OnnxRuntimeProgram(window_model("mean", frames=WINDOW), signature(WINDOW))
    program = WindowedProgram(inner, signature(HOP), latency_frames=LATENCY, features=FEATURES)
    frames = numbered(60)
    seen = np.concatenate((np.full(WINDOW + LATENCY - HOP, SILENCE), np.arange(1, 61)))
    windows = sliding_window_view(seen[: len(seen) - LATENCY], WINDOW)[::HOP]
    np.testing.assert_array_equal(program.session().run(frames)[:, 1], windows[:, -1])
    np.testing.assert_array_equal(program.session().run(frames)[:, 0], np.rint(windows.mean(axis=1)))


def test_onnxruntime_hears_whole_recordings_in_one_call() -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

    whole = replace(signature(1), whole=True)
    session = OnnxRuntimeProgram(window_model("mean", frames="T"), whole).session()
    with pytest.raises(EngineError, match=r"logits of 3 frames have shape \[1, 1, 1, 2\], must be \[1, 3, 1, 2\]"):
        session.run(numbered(3))
    program = OnnxRuntimeProgram(window_model("mean", frames="T"), replace(whole, step_frames=100))
    stream, samples = LogitStream(FEATURES, program), np.zeros(16_000, dtype=np.int16)
    assert [len(stream.process(chunk)[0]) for chunk in np.array_split(samples, 7)] == [0] * 7
    np.testing.assert_array_equal(stream.flush()[0], [[SILENCE, SILENCE]])
    assert program.session().run(numbered(0)).shape == (0, 2)


def test_a_clip_is_scored_by_the_window_it_fills() -> None:
    """98 whole frames fit into a second, the tail rule counts 100; hop 25 and latency 2 put a window on 0..97."""
    samples = np.random.default_rng(0).integers(-9000, 9000, 16_000).astype(np.int16)

    heard = []

    class Recorder(FirstAndLast):
        def run(self, codes: np.ndarray) -> np.ndarray:
            heard.append(codes)
            return super().run(codes)

    program = WindowedProgram(Recorder(signature(98)), signature(25), latency_frames=2, features=FEATURES)
    stream = LogitStream(FEATURES, program)
    stream.process(samples)
    stream.flush()
    windows = [codes for codes in heard if len(codes)]
    assert len(windows) == 4
    np.testing.assert_array_equal(windows[-1], quantize(compute_features(FEATURES, samples)[:98], QUANT))


CLOCK = StreamClock(
    sample_rate=16_000, hop_length=160, win_length=400, first_offset=0, step_frames=10, outputs_per_step=1,
    window_frames=100,
)  # fmt: skip
PROBABILITIES = QuantParams(scale=(1 / 256,), zero_point=-128)


def detector(labels: tuple[str, ...], output: str) -> KeywordDetector:
    config = DetectorConfig(smoothing_s=0.2, threshold=0.5, release=0.3, refractory_s=0.3)
    return KeywordDetector(
        config, labels=labels, background_labels=("_silence_",) if "_silence_" in labels else (),
        output_quant=PROBABILITIES, clock=CLOCK, output=output,
    )  # fmt: skip


def test_probabilities_are_smoothed_as_they_are() -> None:
    # 0.25, 0.75, 0.875: the means of two are 0.125, 0.5 (fires) and 0.8125.
    codes = np.array([[-64], [64], [96]], dtype=np.int8)
    (event,) = detector(("marvin",), "probabilities").process(codes)
    assert (event.label, event.score) == ("marvin", 0.5)


def test_independent_probabilities_may_all_be_high() -> None:
    # After two outputs both stand at (228 + 248) / 2 / 256, and the first label wins the tie.
    codes = np.array([[120, 100], [100, 120], [60, 120]], dtype=np.int8)
    (event,) = detector(("_silence_", "marvin"), "probabilities").process(codes)
    assert event.score == (248 + 248) / 2 / 256


def test_one_label_that_is_a_logit_is_always_certain() -> None:
    """Which is why it must be said when a network ends in a sigmoid."""
    (event,) = detector(("marvin",), "logits").process(np.array([[-100], [-100]], dtype=np.int8))
    assert event.score == (0.0 + 1.0) / 2


def test_a_windowed_bundle_listens_to_a_stream(own_bundle: Path) -> None:
    """The hand-made filters, told that their step is a window of four frames that moves by two."""
    edit_network(own_bundle, mode="windowed", input_frames=4, step_frames=2, states=[], latency_frames=0)
    program = open_bundle(own_bundle).program("numpy")
    assert (program.signature.step_frames, program.engine, program.numerics) == (2, "numpy", "fp32")
    samples = np.zeros(3200, dtype=np.int16)
    assert len(clip_logits(open_bundle(own_bundle), samples, program=program)) == 10


def test_a_window_the_artifact_does_not_have_is_refused(own_bundle: Path) -> None:
    edit_network(own_bundle, mode="windowed", input_frames=49)
    bundle = open_bundle(own_bundle)
    with pytest.raises(
        BundleError, match="the artifact of engine='numpy' has step_frames=4, the manifest says 49; export"
    ):
        bundle.program("numpy")
