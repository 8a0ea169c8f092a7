"""``edgeaudio export MODEL.onnx``: models from elsewhere on all engines or on one, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="export needs torch and torchao: pip install 'edgeaudio[torch]'")

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.selftest import self_test
from edgeaudio_runtime.stream import AudioStream
from tests.foreign_models import PlainNet, RecurrentNet, WindowedNet, write_onnx

pytestmark = pytest.mark.slow

N_FEATURES = 40
LABELS = ("_silence_", "_unknown_", "chirp", "low", "high")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", "utf-8")
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "plain.onnx", PlainNet(N_FEATURES, len(LABELS)), n_features=N_FEATURES)


@pytest.fixture
def recurrent(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "recurrent.onnx", RecurrentNet(N_FEATURES, len(LABELS)), n_features=N_FEATURES)


def arguments(face: Any, labels: Path) -> tuple[object, ...]:
    return ("--front-end", "log_mel", "--labels", labels, "--data", face.corpus, "--cache", face.cache, "--clips", 12)


def test_a_model_within_the_integer_graph_ships_for_every_engine(
    run: Any, face: Any, plain: Path, labels: Path, tmp_path: Path
) -> None:
    result = run("export", plain, "--output", tmp_path / "b", *arguments(face, labels), "--json")
    assert result.exit_code == 0, result.output
    bundle = open_bundle(tmp_path / "b")
    assert set(bundle.manifest.engines) == {"numpy", "onnxruntime", "litert"}
    assert bundle.manifest.quantization.backend == "onnxruntime"
    # A kernel of 3 frames after steps of 4: the field of a step reaches into the step before it.
    assert bundle.manifest.network.receptive_field_frames == 8
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert stages["engine litert"]["tolerance"] == "exact"
    assert stages["quantization"]["sqnr_db"] > 20


@pytest.mark.parametrize("method", [pytest.param("static_w8a8", marks=pytest.mark.exact_int8), "dynamic_w8", "float32"])
def test_a_model_beyond_it_ships_for_onnx_runtime_alone_and_says_why(
    run: Any, face: Any, recurrent: Path, labels: Path, tmp_path: Path, method: str
) -> None:
    options = ("--method", method, *arguments(face, labels))
    result = run("export", recurrent, "--output", tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.engines == ("onnxruntime",)
    assert "for ONNX Runtime only, no numpy and no LiteRT model; kept there by " in result.stderr
    facts = bundle.manifest.quantization.recipe
    assert facts["only_for"] == "onnxruntime"
    if method != "dynamic_w8":
        kept = {entry["operation"]: entry["count"] for entry in facts["kept_by"]}
        assert {name: kept.get(name) for name in ("GRU", "LayerNormalization", "AveragePool")} == {
            "GRU": 1, "LayerNormalization": 1, "AveragePool": 1,
        }  # fmt: skip
        assert "1 GRU (a fused cell" in result.stderr
    assert ("WARNING: 1 GRU stay float32" in result.stderr) == (method != "float32")
    assert facts["float_operations"]["GRU"] == 1
    report = self_test(bundle)
    assert report.passed, [stage.describe() for stage in report.stages]
    assert report.numerics == "unspecified"


@pytest.mark.exact_int8
def test_its_bundle_hears_a_recording_is_inspected_and_proven(
    run: Any, face: Any, recurrent: Path, tmp_path: Path
) -> None:
    bundle, words = tmp_path / "b", ("one", "two", "three", "four", "five")
    # None of them is background, so that weights at random are sure to report something.
    (tmp_path / "words.txt").write_text("\n".join(words))
    assert run("export", recurrent, "--output", bundle, *arguments(face, tmp_path / "words.txt")).exit_code == 0
    detector = json.loads((bundle / "detector.json").read_text())
    (bundle / "detector.json").write_text(json.dumps({**detector, "threshold": 0.01, "release": 0.005}))
    opened = open_bundle(bundle)
    samples = np.rint(8000 * np.sin(np.arange(48_000) * 0.3)).astype(np.int16)
    stream = AudioStream(opened, engine="onnxruntime")
    events = [*stream.process(samples), *stream.flush()]
    assert events
    assert {event.to_dict()["label"] for event in events} <= set(words)
    shown = json.loads(run("inspect", bundle, "--json").stdout)["effective_precision"]
    # By hand, in 4 frames: the convolution 4*16*3*40, the classifier 16*5, the GRU's two 48x16 matrices 4 times.
    assert list(shown) == ["onnxruntime"]
    assert shown["onnxruntime"]["macs_per_step"] == 4 * 16 * 3 * 40 + 16 * 5 + 4 * 2 * 48 * 16
    assert shown["onnxruntime"]["int8_macs_share"] == pytest.approx((7680 + 80) / (7680 + 80 + 6144))
    kept = "kept there by 1 LayerNormalization, 1 GRU, 1 AveragePool"
    line = f"for onnxruntime only, {kept}; in float32: 1 GRU, 1 LayerNormalization"
    assert line in run("inspect", bundle).stdout
    assert line in (bundle / "card.md").read_text("utf-8")
    proof = run("parity", bundle, "--json")
    names = {stage["name"]: stage["reference"] for stage in json.loads(proof.stdout)["stages"]}
    assert names["engine onnxruntime"] == "model.onnx, not optimized, one call"
    assert proof.exit_code == 0


@pytest.mark.exact_int8
def test_a_model_without_state_hears_overlapping_windows(run: Any, face: Any, labels: Path, tmp_path: Path) -> None:
    net = WindowedNet(N_FEATURES, len(LABELS))
    path = write_onnx(tmp_path / "windowed.onnx", net, n_features=N_FEATURES, frames=20)
    streams = np.random.default_rng(0).normal(-8, 3, (4, 100, N_FEATURES)).astype(np.float32)
    np.save(tmp_path / "features.npy", streams)
    options = ("--front-end", "log_mel", "--labels", labels, "--calibration-features", tmp_path / "features.npy")
    result = run("export", path, "--output", tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    manifest = open_bundle(tmp_path / "b").manifest
    # Of the hops from 2 to 6 frames, those of 2 put a window onto a clip of 20 frames (22 begin in it) at once.
    assert (manifest.mode, manifest.network.input_frames, manifest.network.step_frames) == ("windowed", 20, 2)
    assert "windowed.onnx: windows of 0.2 s, one every 0.02 s" in result.stderr


def test_without_recordings_a_model_stays_as_it_is(run: Any, recurrent: Path, labels: Path, tmp_path: Path) -> None:
    result = run("export", recurrent, "--output", tmp_path / "b", "--front-end", "microfrontend", "--labels", labels)
    assert result.exit_code == 0, result.output
    manifest = open_bundle(tmp_path / "b").manifest
    assert (manifest.quantization.method, manifest.engines) == ("float32", ("onnxruntime",))
    # Silence is 0, the loudest noise and square wave about 26.
    reach = manifest.network.input_quant.scale[0] * 32767
    assert 26 < reach < 60


def test_without_recordings_nothing_is_quantized(run: Any, plain: Path, labels: Path, tmp_path: Path) -> None:
    options = ("--front-end", "log_mel", "--labels", labels, "--method", "static_w8a8")
    result = run("export", plain, "--output", tmp_path / "b", *options)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "['--method'] need --data or --calibration-features; without them a model stays as it is" in result.stderr


def test_a_checkpoint_is_quantized_dynamically(run: Any, face: Any, tmp_path: Path) -> None:
    options = ("--data", face.corpus, "--cache", face.cache, "--method", "dynamic_w8")
    result = run("export", face.checkpoint, "--output", tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.engines == ("onnxruntime",)
    assert bundle.manifest.network.output_quant.dtype == "int16"
    assert "kept there by method dynamic_w8" in result.stderr
    shown = json.loads(run("inspect", tmp_path / "b", "--json").stdout)["effective_precision"]["onnxruntime"]
    assert shown["int8_macs_share"] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "an ONNX model needs --front-end, --labels, and one of --data and --calibration-features"),
        (("--front-end", "log_mels"), "front-end='log_mels' must be a file of JSON, or one of ["),
        (("--front-end", "log_mel", "--backend", "pt2e", "--method", "dynamic_w8"), "backend='pt2e' has no dynamic"),
        (("--front-end", "kaldi80"), "has 40 values in a frame, the front end yields 80; give the front end"),
        (("--front-end", "log_mel", "--step-frames", "8"), "step_frames=8 must be 4, which the model has fixed"),
        (("--front-end", "log_mel", "--max-drop", "1"), "max_drop=1 needs a checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    run: Any, face: Any, plain: Path, labels: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    more = ("--labels", labels, "--data", face.corpus, "--cache", face.cache) if options else ()
    result = run("export", plain, "--output", tmp_path / "b", *options, *more)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert words in result.stderr
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_takes_no_options_of_onnx_models(run: Any, face: Any, tmp_path: Path) -> None:
    result = run("export", face.checkpoint, "--output", tmp_path / "b", "--front-end", "log_mel")
    assert result.exit_code == 2
    assert "['--front-end'] are for a foreign model (a file that ends in .onnx, " in result.stderr
