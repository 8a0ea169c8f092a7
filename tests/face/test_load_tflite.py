"""``edgeaudio export MODEL.tflite``: files of other hands run as they are, in windows or with their states."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="a .tflite file needs LiteRT: pip install 'edgeaudio[torch]'")

from edgeaudio.tflite_exporting import TfliteSource, export_tflite, with_ranges
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.tflite import TfliteModel, read_tflite
from edgeaudio_export.windows import plan_windows
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import LOG_MEL, preset, windowed_preset
from edgeaudio_runtime.quantization import dequantize, quantize
from edgeaudio_runtime.selftest import self_test
from edgeaudio_runtime.stream import AudioStream, LogitStream
from tests.tflite_models import dense, remembering

FEATURES = replace(LOG_MEL, n_mels=4)
LABELS = ("_silence_", "low", "high")
FRAMES = 20
PROBABILITY_ATOL = 1e-3
"""Features travel as int16 codes of up to 1e-4, and weights of up to 1 add four of twenty frames of them up."""
NET = np.random.default_rng(3).uniform(-1, 1, (3, FRAMES * 4)).astype(np.float32) / 8
MLPERF_LABELS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_"]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(path: Path, *, labels: tuple[str, ...] = LABELS) -> TfliteModel:
    return read_tflite(path, features=FEATURES, labels=labels)


def export_here(tmp_path: Path, data: bytes, **facts: Any) -> Path:
    source = TfliteSource(path=write(tmp_path / "net.tflite", data), features=FEATURES, **facts)
    document = export_tflite(source, tmp_path / "bundle")
    assert document["passed"], [stage for stage in document["stages"] if not stage["passed"]]
    return tmp_path / "bundle"


def words(seconds: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    level = np.clip(np.sin(2 * np.pi * np.arange(int(16_000 * seconds)) / 9000), 0, 1) ** 2
    return np.rint(rng.standard_normal(len(level)) * 4000 * level).astype(np.int16)


@pytest.mark.parametrize("shape", [(1, FRAMES, 4), (1, FRAMES, 4, 1), (1, FRAMES * 4), (1, FRAMES, 1, 4)])
def test_inputs_of_any_layout_are_read_frame_after_frame(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = with_ranges(read(write(tmp_path / "net.tflite", dense(NET, shape))), FEATURES, [])
    window = np.random.default_rng(0).uniform(-1, 1, (FRAMES, 4)).astype(np.float32)
    answer = model.program().session().run(quantize(window, model.signature.input_quant))
    powers = np.exp(NET.astype(np.float64) @ window.ravel())
    probabilities = dequantize(answer, model.signature.output_quant)
    np.testing.assert_allclose(probabilities[0], powers / powers.sum(), atol=PROBABILITY_ATOL)


def test_a_bundle_of_windows_gives_the_probabilities_of_the_formula(tmp_path: Path) -> None:
    bundle = open_bundle(export_here(tmp_path, dense(NET, (1, FRAMES, 4)), labels=LABELS))
    network = bundle.manifest.network
    assert (bundle.manifest.mode, network.input_frames, network.output) == ("windowed", FRAMES, "probabilities")
    features = compute_features(FEATURES, words(), multiple_of=network.step_frames)
    answers = dequantize(
        bundle.program("litert").session().run(quantize(features, network.input_quant)), network.output_quant
    )
    ends = np.arange(network.step_frames, len(features) + 1, network.step_frames) - network.latency_frames
    full = ends >= FRAMES
    windows = np.stack([features[end - FRAMES : end].ravel() for end in ends[full]])
    powers = np.exp(windows.astype(np.float64) @ NET.T.astype(np.float64))
    np.testing.assert_allclose(answers[full], powers / powers.sum(axis=1, keepdims=True), atol=PROBABILITY_ATOL)


def test_a_logit_output_is_known_for_one_and_has_room(tmp_path: Path) -> None:
    model = read(write(tmp_path / "net.tflite", dense(NET, (1, FRAMES, 4), softmax=False)))
    assert not model.has_probabilities
    assert model.float_tensors == ("features", "logits")
    ranged = with_ranges(model, FEATURES, [words()]).signature
    features = compute_features(FEATURES, words())
    windows = np.lib.stride_tricks.sliding_window_view(features, FRAMES, axis=0).transpose(0, 2, 1)
    largest = np.abs(windows.reshape(-1, FRAMES * 4) @ NET.T).max()
    assert ranged.output_quant.scale[0] * 32767 > 2 * largest
    loudest = np.where(np.arange(16_000) // 32 % 2, -32768, 32767).astype(np.int16)
    assert compute_features(FEATURES, loudest).max() < dequantize(np.array([32767]), ranged.input_quant)[0]


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_explicit_states_are_found_and_carried_on(tmp_path: Path, kind: str) -> None:
    labels = ("a", "b", "c", "d")
    data = remembering(4, hidden=False, kind=kind)
    model = read(write(tmp_path / "sum.tflite", data), labels=labels)
    assert model.tensors == {"features": "x", "logits": "y", "state_0_in": "h", "state_0_out": "h_new"}
    assert (model.states[0].shape, model.states[0].dtype, model.hidden_state) == ((1, 1, 4), kind, False)
    if kind == "float32":
        model = with_ranges(model, FEATURES, [])
    session = model.program().session()
    real = np.array([[1, 2, 3, 0.5], [0.5, 0, 0, -1], [1, 1, 1, 1]], dtype=np.float32)
    for _ in range(2):
        answers = session.run(quantize(real, model.signature.input_quant))
        sums = dequantize(answers, model.signature.output_quant)
        half_a_code = model.signature.output_quant.scale[0] / 2
        np.testing.assert_allclose(sums, real.cumsum(axis=0), atol=half_a_code + 2e-3 if kind == "float32" else 0)
        session.reset()


def test_states_without_telling_names_pair_by_shape(tmp_path: Path) -> None:
    labels = ("a", "b", "c", "d")
    path = write(tmp_path / "sum.tflite", remembering(4, hidden=False, names=("args_1", "Identity_1")))
    # Features and state have one shape, and guessing would be right half of the time.
    with pytest.raises(ExportError, match=r"inputs \{'args_1': .*\}: their states cannot be told by shape; name them"):
        read(path, labels=labels)
    path = write(tmp_path / "sum.tflite", remembering(4, hidden=False, names=("args_1", "Identity_1"), deep=True))
    assert read(path, labels=labels).tensors["state_0_out"] == "Identity_1"


def test_a_model_that_keeps_its_state_to_itself_is_loaded_anew_at_every_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_here(tmp_path, remembering(4, hidden=True), labels=("a", "b", "c", "d"))
    assert "streams in steps of 10 ms with state it keeps inside" in capsys.readouterr().err
    bundle = open_bundle(path)
    assert (bundle.manifest.mode, bundle.manifest.network.hidden_state) == ("streaming", True)
    network, program = bundle.manifest.network, bundle.program("litert")
    frames = quantize(np.ones((3, 4), np.float32), network.input_quant)
    first, second = program.session(), program.session()
    once = first.run(frames)
    np.testing.assert_array_equal(second.run(frames), once)
    assert (first.run(frames)[0] > once[0]).all()
    first.reset()
    np.testing.assert_array_equal(first.run(frames), once)
    assert self_test(bundle).passed


def test_the_fixed_point_front_end_feeds_a_model_with_state_of_its_own(run: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"channel {i}" for i in range(40)))
    path = write(tmp_path / "sum.tflite", remembering(40, hidden=True))
    given = ("--front-end", "microfrontend", "--labels", labels, "--output", tmp_path / "b", "--json")
    result = run("export", path, *given)
    assert result.exit_code == 0, result.output
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    if find_spec("pymicro_features"):
        assert (stages["front end"]["reference"], stages["front end"]["tolerance"]) == ("pymicro-features", "exact")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.features == preset("microfrontend")
    assert "- 40 channels, 125 to 7500 Hz, TensorFlow Lite Micro's fixed point" in (tmp_path / "b/card.md").read_text()
    network, stream = bundle.manifest.network, LogitStream(bundle.features, bundle.program())
    pcm = words(0.5)
    for _ in range(2):
        heard = [stream.process(pcm)[0], stream.flush()[0]]
        sums = dequantize(np.concatenate(heard), network.output_quant)
        # Half a code of each of 50 frames, and of a sum; 50 frames of up to 26 fill the range of int16 codes.
        bound = 50 * network.input_quant.scale[0] / 2 + network.output_quant.scale[0]
        np.testing.assert_allclose(sums, compute_features(bundle.features, pcm).cumsum(axis=0), atol=bound)


def test_uint8_counts_as_int8_with_another_zero_point(tmp_path: Path) -> None:
    labels = ("a", "b")
    data = requantized_softmax()
    model = read(write(tmp_path / "net.tflite", data), labels=labels)
    quant = model.signature.output_quant
    assert (quant.dtype, quant.zero_point, quant.scale[0]) == ("int8", -128, 1 / 256)
    model = with_ranges(model, FEATURES, [])
    zeros = quantize(np.zeros((5, 4), np.float32), model.signature.input_quant)
    # Softmax of two equal logits: 0.5, which is code 128 of 256, and 0 after the shift.
    np.testing.assert_array_equal(model.program().session().run(zeros), [[0, 0]])


def requantized_softmax() -> bytes:
    """Five frames of four, two labels, and a QUANTIZE to uint8 behind the softmax."""
    from ai_edge_litert import schema_py_generated as schema

    from tests.tflite_models import TYPES, packed

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(dense(np.zeros((2, 20), np.float32), (1, 5, 4)), 0))
    graph = model.subgraphs[0]
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = "scores", [1, 2], TYPES["uint8"], 0
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.array([1 / 256], np.float32)
    tensor.quantization.zeroPoint = np.array([0], np.int64)
    graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs = len(model.operatorCodes) - 1, graph.outputs
    operator.outputs = graph.outputs = [len(graph.tensors) - 1]
    graph.operators.append(operator)
    return packed(model)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04 no model at all", "not a TensorFlow Lite model; convert one"),
        (b"\x1c\x00\x00\x00TFL3\xff\xff", "a damaged TensorFlow Lite model"),
        (dense(NET, (1, FRAMES, 2, 2)), "input 'serving_default_x:0' has shape (1, 20, 2, 2), the front end yields "),
        (dense(NET, (1, 16, 5)), "has shape (1, 16, 5), the front end yields frames of 4 values; it must be [1, T, 4]"),
        (dense(NET[:, :78], (1, 78)), "has shape (1, 78), the front end yields frames of 4 values"),
        (dense(NET[:2], (1, FRAMES, 4)), "output 'StatefulPartitionedCall:0' has shape (1, 2), 3 labels are given; "),
        (
            dense(NET, (1, FRAMES, 4), signature=(-1, -1, 4)),
            "has shape [-1, -1, 4], all but the batch must be fixed; convert with a fixed number of frames",
        ),
        (dense(NET, (1, FRAMES, 4), kind="float16"), "'serving_default_x:0' is float16, must be one of ['int8', "),
        (dense(NET, (1, FRAMES, 4), kind="int32"), "'serving_default_x:0' is int32, must be one of ['int8', "),
        (dense(NET, (1, FRAMES, 4), operation="FlexErf"), "operations ['FlexErf'] are not built into LiteRT; convert"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = write(tmp_path / "net.tflite", data)
    with pytest.raises(ExportError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--front-end", "log_mel"), "a .tflite model needs --front-end and --labels"),
        (("--method", "static_w8a8"), "['--method'] do not go with a .tflite model, which is taken as it is; leave "),
        (("--hop-frames", 30), "hop_frames=30 must be 1 to 20, the frames of a window"),
        (("--task", "ctc"), "task='ctc' needs a model with states; windows overlap, and repeat labels"),
        (("--front-end", "windowed:kaldi80"), "preset='kaldi80' has no windowed original"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_exit_2(
    run: Any, tmp_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    model = write(tmp_path / "net.tflite", dense(NET, (1, FRAMES, 4)))
    labels, spec = tmp_path / "labels.txt", tmp_path / "spec.json"
    labels.write_text("\n".join(LABELS))
    spec.write_text(json.dumps(FEATURES.to_dict()))
    given = {"--front-end": spec, "--labels": labels} if arguments != ("--front-end", "log_mel") else {}
    given |= dict([arguments])
    result = run("export", model, "--output", tmp_path / "b", *(part for pair in given.items() for part in pair))
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_tells_its_licence_itself(run: Any, tmp_path: Path) -> None:
    result = run("export", tmp_path / "checkpoint", "--output", tmp_path / "b", "--licence", "MIT")
    assert result.exit_code == 2
    assert "['--licence'] are for" in result.stderr


@pytest.mark.parametrize(
    ("frames", "hop", "expected"),
    [
        # A second has 50 frames of hop 320 by the tail rule and 49 whole ones: 10 divides 50, nearest to a quarter.
        (49, None, (10, 1)),
        (49, 25, (25, 1)),
        (49, 12, (12, 11)),
        (49, 49, (49, 49)),
    ],
)
def test_windows_lie_so_that_a_clip_ends_with_one_on_all_of_it(
    frames: int, hop: int | None, expected: tuple[int, int]
) -> None:
    windows = plan_windows(preset("mlperf_tiny_kws"), frames, hop_frames=hop)
    assert (windows.hop_frames, windows.latency_frames) == expected
    assert (frames + windows.latency_frames) % windows.hop_frames == 0


@pytest.fixture(scope="module")
def mlperf(real_data: Path) -> Path:
    path = real_data / "third_party_models" / "mlperf_tiny" / "kws_ref_model.tflite"
    if not path.is_file():
        pytest.skip("the data folder has no third_party_models/mlperf_tiny")
    return path


def test_the_mlperf_keyword_reference_becomes_a_proven_bundle(run: Any, mlperf: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(MLPERF_LABELS))
    result = run(
        "export", mlperf, "--front-end", "mlperf_tiny_kws", "--labels", labels, "--licence", "Apache-2.0",
        "--output", tmp_path / "b", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert stages["engine by hand"]["mismatches"] == 0
    assert "windows of 980 ms every 200 ms; its output are probabilities" in result.stderr
    bundle = open_bundle(tmp_path / "b")
    assert bundle.read("model.tflite") == mlperf.read_bytes()
    provenance = bundle.manifest.provenance
    # Published: 22,604 parameters with biases.
    assert (provenance["parameters"], provenance["licence"]) == (22_604, "Apache-2.0")
    assert bundle.background_labels == ("_silence_", "_unknown_")
    assert "neither quantized nor changed here; licence Apache-2.0" in (tmp_path / "b" / "card.md").read_text()
    assert self_test(bundle).passed
    said = [event.label for event in replay(bundle, bundle.golden.pcm)]
    assert said
    assert set(said) <= set(MLPERF_LABELS[:10])


def replay(bundle: Any, pcm: np.ndarray) -> list[Any]:
    stream = AudioStream(bundle)
    return [*stream.process(pcm), *stream.flush()]


@pytest.mark.parametrize(
    ("front_end", "at_least"),
    [
        # On all 1,023 clips 87.1 % and 90.7 %; the 95 % interval of every eighth, taken as independent, is 6 points.
        (preset("mlperf_tiny_kws"), 0.80),
        (windowed_preset("mlperf_tiny_kws"), 0.84),
    ],
)
def test_the_mlperf_reference_hears_the_words_of_the_test_split(
    mlperf: Path, real_data: Path, tmp_path: Path, front_end: Any, at_least: float
) -> None:
    from edgeaudio.parity.as_is import score_alone
    from edgeaudio.parity.task import LabelledClips
    from edgeaudio_models.corpora import load_waveforms, open_corpus

    source = TfliteSource(path=mlperf, features=front_end, labels=tuple(MLPERF_LABELS))
    export_tflite(source, tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    corpus = open_corpus(real_data / "speech_commands").with_labels(MLPERF_LABELS).select("test")
    clips = corpus.clips[::8]
    waveforms = load_waveforms(clips, sample_rate=16_000, n_samples=16_000, cache_folder=None)
    heard = LabelledClips(
        waveforms=waveforms, labels=tuple(c.label for c in clips), speakers=tuple(c.speaker for c in clips)
    )
    result, _ = score_alone(bundle, bundle.program("litert"), heard)
    assert result.accuracy >= at_least
