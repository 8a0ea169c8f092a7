"""A small bundle that really listens: two filters over noise bands, built by hand, without torch or onnx."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.ctc_decoder import DecoderConfig
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.graph import IntegerGraph, Op, StateSpec, Tensor
from edgeaudio_runtime.graph_file import graph_to_bytes
from edgeaudio_runtime.listener import open_listener
from edgeaudio_runtime.manifest import Artifact, Manifest, Network, NetworkState, Quantization
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import QuantParams, quantize

RATE = 16_000
STEP_FRAMES = 4
WINDOW_FRAMES = 24
LABELS = {"keyword": ("_silence_", "_unknown_", "low", "high"), "ctc": ("<blank>", "l", "h")}
BACKGROUND = {"keyword": ("_silence_", "_unknown_"), "ctc": ()}

FEATURE_QUANT = QuantParams(scale=(0.04,), zero_point=5)
BAND_QUANT = QuantParams(scale=(0.02,), zero_point=-28)
LOGIT_QUANT = QuantParams(scale=(0.12,), zero_point=3)


def noise_word(band: str, seconds: float, *, seed: int = 0) -> np.ndarray:
    """A "word": forty tones of random phase in 200-900 Hz ("low") or 3-6 kHz ("high"), int16."""
    rng = np.random.default_rng(seed)
    span = (200, 900) if band == "low" else (3000, 6000)
    time = np.arange(int(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * (f * time + p)) for f, p in zip(rng.uniform(*span, 40), rng.random(40), strict=True)]
    return np.round(np.sum(tones, axis=0) * 1200).astype(np.int16)


def scene(words: list[tuple[str, float, float]], seconds: float, *, seed: int = 1) -> np.ndarray:
    """Faint noise with words at given times: ``(band, start_s, duration_s)``; int16."""
    pcm = np.random.default_rng(seed).integers(-20, 21, int(seconds * RATE)).astype(np.int16)
    for index, (band, start_s, duration_s) in enumerate(words):
        start = int(start_s * RATE)
        word = noise_word(band, duration_s, seed=index)
        pcm[start : start + len(word)] += word
    return pcm


class _Builder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.ops: list[Op] = []
        self.states: list[StateSpec] = []

    def tensor(self, name: str, shape: tuple[int, ...], quant: QuantParams) -> str:
        self.tensors[name] = Tensor(name=name, shape=shape, dtype=quant.dtype, quant=quant)
        return name

    def constant(self, name: str, data: np.ndarray, quant: QuantParams) -> str:
        self.constants[name] = data
        return self.tensor(name, data.shape, quant)

    def conv(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, quant: QuantParams, **attrs: Any) -> str:
        """Quantize float weights ``[O, KT, 1, C/groups]`` per channel and add the convolution."""
        source = self.tensors[x]
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        weight_quant = QuantParams(scale=tuple(scale), axis=0, qmin=-127)
        bias_quant = QuantParams(scale=tuple(scale * source.quant.scale[0]), axis=0, dtype="int32")
        inputs = (
            x,
            self.constant(f"{name}_weight", quantize(weight, weight_quant), weight_quant),
            self.constant(f"{name}_bias", quantize(bias, bias_quant), bias_quant),
        )
        attrs = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "pad_f": (0, 0), "relu": False, **attrs}
        n_frames = (source.shape[1] - weight.shape[1]) // attrs["stride"][0] + 1
        self.tensor(name, (1, n_frames, 1, len(weight)), quant)
        self.ops.append(Op(kind="conv", inputs=inputs, outputs=(name,), attrs=attrs, name=name))
        return name

    def fifo(self, x: str, n_frames: int) -> str:
        source, name = self.tensors[x], f"{x}_fifo"
        shape = (1, n_frames, 1, source.shape[3])
        self.tensor(f"{name}_before", shape, source.quant)
        self.tensor(f"{name}_after", shape, source.quant)
        self.tensor(name, (1, n_frames + source.shape[1], 1, source.shape[3]), source.quant)
        self.ops.append(Op(kind="concat", inputs=(f"{name}_before", x), outputs=(name,), attrs={"axis": 1}))
        slice_attrs = {"axis": 1, "start": -n_frames, "stop": 0}
        self.ops.append(Op(kind="slice", inputs=(name,), outputs=(f"{name}_after",), attrs=slice_attrs))
        zero = source.quant.zero_point
        self.states.append(StateSpec(name=name, input=f"{name}_before", output=f"{name}_after", initial=zero))
        return name


def listening_graph(task: str) -> IntegerGraph:
    """Band levels (mean over 2 frames of the low and of the high mels), averaged over a window, then linear logits."""
    b, n_labels = _Builder(), len(LABELS[task])
    b.tensor("features", (1, STEP_FRAMES, 1, 40), FEATURE_QUANT)
    bands = np.zeros((2, 2, 1, 40))
    bands[0, :, 0, 4:14], bands[1, :, 0, 26:36] = 1 / 20, 1 / 20
    b.conv(b.fifo("features", 1), "bands", bands, np.full(2, 1.5), BAND_QUANT, relu=True)
    # A keyword is averaged over the window; a CTC output looks at its own step alone.
    window = WINDOW_FRAMES if task == "keyword" else STEP_FRAMES
    averaged = b.fifo("bands", window - STEP_FRAMES) if window > STEP_FRAMES else "bands"
    average = np.full((2, window, 1, 1), 1 / window)
    b.conv(averaged, "average", average, np.zeros(2), BAND_QUANT, groups=2, stride=(STEP_FRAMES, 1))
    rows = {"_silence_": (0, 0), "_unknown_": (0, 0), "<blank>": (0, 0)}
    rows |= dict.fromkeys(("low", "l"), (6, -6)) | dict.fromkeys(("high", "h"), (-6, 6))
    offsets = {"_silence_": 4.0, "<blank>": 4.0}
    weight = np.array([rows[label] for label in LABELS[task]], dtype=np.float64).reshape(n_labels, 1, 1, 2)
    weight[~weight.any(axis=(1, 2, 3))] = 1e-3
    b.conv("average", "answer", weight, np.array([offsets.get(label, 0.0) for label in LABELS[task]]), LOGIT_QUANT)
    return IntegerGraph(
        name="bands", tensors=b.tensors, constants=b.constants, ops=tuple(b.ops),
        input="features", output="answer", states=tuple(b.states),
    )  # fmt: skip


def _network(graph: IntegerGraph, task: str) -> Network:
    tensors = graph.tensors
    return Network(
        step_frames=graph.step_frames, outputs_per_step=graph.outputs_per_step, n_features=40,
        n_labels=len(LABELS[task]), latency_frames=0, receptive_field_frames=WINDOW_FRAMES + 1,
        window_frames=WINDOW_FRAMES if task == "keyword" else None,
        input_quant=FEATURE_QUANT, output_quant=LOGIT_QUANT,
        states=tuple(
            NetworkState(name=s.name, shape=tensors[s.input].shape, dtype="int8", initial=s.initial)
            for s in graph.states
        ),
    )  # fmt: skip


def write_bundle_files(path: Path, files: dict[str, bytes], *, task: str, graph: IntegerGraph) -> None:
    """Write ``files`` and a manifest that names them all."""
    kinds = {
        "model.json": ("numpy", "model"), "model.bin": ("numpy", "weights"),
        "model.onnx": ("onnxruntime", "model"), "model.tflite": ("litert", "model"),
    }  # fmt: skip
    artifacts = []
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        engine, role = kinds.get(name, (None, "golden"))
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append(Artifact(path=name, engine=engine, role=role, sha256=digest, size=len(data)))
    spec = preset("log_mel")
    manifest = Manifest(
        name="bands", task=task, mode="streaming", labels=LABELS[task], background_labels=BACKGROUND[task],
        features=spec.to_dict(), features_hash=spec.hash, network=_network(graph, task),
        quantization=Quantization(backend="pt2e", method="static_w8a8", calibration={"method": "by hand"}),
        artifacts=tuple(artifacts), provenance={"licence": "Apache-2.0"},
    )  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest.to_dict()))


def golden_scene() -> np.ndarray:
    """Two words, 2.6 s and a bit, so that the tail is no whole step."""
    return scene([("low", 0.5, 0.45), ("high", 1.6, 0.4)], 2.613)


def write_test_bundle(path: Path, *, task: str = "keyword", engines: tuple[str, ...] = ("numpy",)) -> Path:
    """Write a bundle that hears low and high noise bursts; ``engines`` beyond numpy need ``edgeaudio_export``."""
    graph = listening_graph(task)
    path.mkdir(parents=True, exist_ok=True)
    model, weights = graph_to_bytes(graph)
    files = {"model.json": model, "model.bin": weights, **_engine_files(graph, engines)}
    config = DetectorConfig(smoothing_s=0.08, refractory_s=0.4) if task == "keyword" else DecoderConfig()
    name = "detector.json" if task == "keyword" else "decoder.json"
    (path / name).write_text(json.dumps(config.to_dict()))
    write_bundle_files(path, files, task=task, graph=graph)
    bundle, pcm = open_bundle(path), golden_scene()
    features = compute_features(bundle.features, pcm, multiple_of=STEP_FRAMES)
    codes = quantize(features, FEATURE_QUANT)
    logits = NumpyProgram(graph).session().run(codes)
    listener = open_listener(bundle)
    events = [event.to_dict() for event in (*listener.hear(logits, features), *listener.finish())]
    golden = Golden(pcm=pcm, features=features, codes=codes, logits=logits, config=config.to_dict(), events=events)
    write_bundle_files(path, {**files, **golden.to_files()}, task=task, graph=graph)
    return path


def _engine_files(graph: IntegerGraph, engines: tuple[str, ...]) -> dict[str, bytes]:
    files = {}
    if "onnxruntime" in engines:
        from edgeaudio_export.targets.onnx_target import to_onnx

        files["model.onnx"] = to_onnx(graph)
    if "litert" in engines:
        from edgeaudio_export.targets.tflite_target import to_tflite

        files["model.tflite"] = to_tflite(graph)
    return files


@pytest.fixture(scope="session")
def _bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bundles")
    return {task: write_test_bundle(root / task, task=task) for task in LABELS}


@pytest.fixture(scope="session")
def keyword_bundle(_bundles: dict[str, Path]) -> Path:
    """A keyword bundle for reading only."""
    return _bundles["keyword"]


@pytest.fixture(scope="session")
def ctc_bundle(_bundles: dict[str, Path]) -> Path:
    """A ctc bundle for reading only."""
    return _bundles["ctc"]


@pytest.fixture(scope="session")
def every_engine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyword bundle with an artifact for every engine, for reading only; needs ``onnx`` and ``flatbuffers``."""
    pytest.importorskip("onnx", reason="writing the .onnx artifact needs onnx")
    pytest.importorskip("flatbuffers", reason="writing the .tflite artifact needs flatbuffers")
    path = tmp_path_factory.mktemp("engines") / "bundle"
    return write_test_bundle(path, engines=("numpy", "onnxruntime", "litert"))


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    """A keyword bundle the test may damage."""
    return write_test_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., np.ndarray]:
    """The function :func:`scene`."""
    return scene
