"""``edgeaudio diagnose MODEL.onnx``: where models from elsewhere lose accuracy, and which cannot be looked into."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="diagnosis needs torch and torchao: pip install 'edgeaudio[torch]'")

from edgeaudio_runtime.presets import preset
from tests.foreign_models import STEP_FRAMES, PlainNet, RecurrentNet, write_onnx

pytestmark = pytest.mark.slow

N_FEATURES = 40
LABELS = ("_silence_", "_unknown_", "chirp", "low", "high")
CLIPS = 4
SQNR_TOLERANCE_DB = 0.01
"""ONNX Runtime and torch sum in other orders: 1e-6 of a logit, beside an error of a few percent of it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that lowers, one that does not, and their labels."""
    made = tmp_path_factory.mktemp("foreign")
    write_onnx(made / "plain.onnx", PlainNet(N_FEATURES, len(LABELS)), n_features=N_FEATURES)
    write_onnx(made / "recurrent.onnx", RecurrentNet(N_FEATURES, len(LABELS)), n_features=N_FEATURES)
    (made / "labels.txt").write_text("\n".join(LABELS), "utf-8")
    return made


@pytest.fixture(scope="module")
def options(folder: Path) -> dict[str, Any]:
    """What the commands take beside a model and its corpus, by parameter name."""
    return {"front_end": "log_mel", "labels": folder / "labels.txt", "task": None, "step_frames": None}


@pytest.fixture(scope="module")
def found(face: Any, folder: Path, options: dict[str, Any]) -> Any:
    """The diagnosis of the model that lowers, made once."""
    from edgeaudio.commands.diagnose import run_onnx_diagnosis

    words = ["edgeaudio", "diagnose", folder / "plain.onnx", "--data", face.corpus, "--clips", CLIPS]
    words += ["--front-end", "log_mel", "--labels", folder / "labels.txt"]
    return run_onnx_diagnosis(
        folder / "plain.onnx", face.corpus, cache=face.cache, n_clips=CLIPS,
        command=shlex.join(map(str, words)), **options,
    )  # fmt: skip


def test_every_layer_of_the_file_is_named_and_the_printed_command_gives_the_same_again(
    run: Any, face: Any, found: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = run(*shlex.split(found.command)[1:], "--cache", face.cache, "--json", "--output", page)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads(json.dumps(found.to_dict()))
    # By hand: the input, the convolution with its relu, the classifier, the mean as a convolution.
    assert sorted(layer["name"].split("/")[-1] for layer in document["layers"]) == [
        "conv1d", "conv1d_1", "features", "linear",
    ]  # fmt: skip
    assert (document["clips"], document["last_only"]) == (CLIPS, True)
    assert set(document["precision"]) == {"numpy", "onnxruntime", "litert"}
    assert page.read_text("utf-8").count("<svg") >= 4


def last_logits(path: Path, features: Any) -> Any:
    """What ONNX Runtime makes of the file as it is, step by step over features ``[T, F]``: the last logits, float64."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    logits, cache = None, np.zeros((1, N_FEATURES, 2), np.float32)
    for begin in range(0, len(features), STEP_FRAMES):
        step = features[None, begin : begin + STEP_FRAMES]
        logits, cache = session.run(None, dict(zip(names, (step, cache), strict=True)))
    return np.asarray(logits, np.float64).reshape(-1)


def test_onnx_runtime_on_the_file_itself_finds_the_same_error_at_the_logits(
    face: Any, folder: Path, options: dict[str, Any], found: Any
) -> None:
    from edgeaudio.commands.foreign import read_foreign
    from edgeaudio.exporting import ExportChoices
    from edgeaudio.onnx_exporting import load_calibration_clips, quantize_onnx, read_step
    from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
    from edgeaudio_runtime.front_end import compute_features

    model = read_foreign(folder / "plain.onnx", sources={"--data": face.corpus}, **options)
    data = load_calibration_clips(face.corpus, model.features, None, face.cache, held_out=CLIPS)
    graph: Any = quantize_onnx(model, read_step(model), data, ExportChoices(backend="onnxruntime")).graph
    out, fed = graph.output_tensor.quant, graph.input_tensor.quant
    signal = noise = 0.0
    for clip in data.held_out:
        features = compute_features(model.features, clip, multiple_of=STEP_FRAMES)
        logits = last_logits(folder / "plain.onnx", features)
        codes = np.clip(np.rint(features / np.float32(fed.scale[0])) + fed.zero_point, -128, 127)
        last = NumpyProgram(graph).session().run(codes.astype(np.int8))[-1].astype(np.float64)
        signal += float((logits**2).sum())
        noise += float((((last - out.zero_point) * out.scale[0] - logits) ** 2).sum())
    expected = 10 * np.log10(signal / noise)
    assert found.diagnosis.logits.sqnr_db == pytest.approx(expected, abs=SQNR_TOLERANCE_DB)


def test_the_text_claims_no_training_or_validation_clips(found: Any) -> None:
    from edgeaudio.diagnosis_report import render_text

    text = render_text(found)
    # 14 clips of each of 5 labels, less those that are looked at.
    assert "ranges by mse over 66 clips" in text
    assert f"against float on {CLIPS} other clips (last outputs)" in text
    assert "training" not in text
    assert "validation" not in text


@pytest.mark.parametrize(("asked", "held_out", "calibrating"), [(None, 4, 66), (10, 4, 10), (None, 64, 35)])
def test_no_clip_that_is_looked_at_calibrates(face: Any, asked: int | None, held_out: int, calibrating: int) -> None:
    from edgeaudio.onnx_exporting import load_calibration_clips

    data = load_calibration_clips(face.corpus, preset("log_mel"), asked, face.cache, held_out=held_out)
    used, others = ({clip.tobytes() for clip in clips} for clips in (data.clips, data.held_out))
    assert (len(data.clips), len(data.held_out)) == (calibrating, min(held_out, 35))
    assert not used & others


def test_a_suggestion_taken_up_reaches_the_layer_it_names(run: Any, face: Any, found: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[layers]]\nname = "features"\nactivations = "int16"\n', "utf-8")
    assert recipe.read_text("utf-8").strip() in {
        layer.suggestion.toml.strip() for layer in found.diagnosis.layers if layer.suggestion is not None
    }
    result = run(*shlex.split(found.command)[1:], "--cache", face.cache, "--recipe", recipe, "--json")
    assert result.exit_code == 0, result.output
    before = next(layer.tensor for layer in found.diagnosis.layers if layer.name == "features")
    after = next(layer["tensor"] for layer in json.loads(result.stdout)["layers"] if layer["name"] == "features")
    assert (before.dtype, after["dtype"]) == ("int8", "int16")
    # 8 bits more are 48 dB of rounding; ranges of int16 are not clipped, which gives some of that back.
    assert after["local_sqnr_db"] - before.local_sqnr_db > 40


def test_a_model_that_stays_with_onnx_runtime_is_named_by_what_keeps_it(run: Any, face: Any, folder: Path) -> None:
    said = ("--front-end", "log_mel", "--labels", folder / "labels.txt", "--data", face.corpus, "--cache", face.cache)
    result = run("diagnose", folder / "recurrent.onnx", *said)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    for words in ("kept with ONNX Runtime by ", "1 GRU (a fused cell", "1 LayerNormalization (", "1 AveragePool ("):
        assert words in result.stderr
    assert result.stderr.endswith("or ship the model for ONNX Runtime as it is, by edgeaudio export\n")


def test_what_does_not_fit_is_refused_in_one_line(run: Any, face: Any, folder: Path, tmp_path: Path) -> None:
    labels, data = ("--labels", folder / "labels.txt"), ("--data", face.corpus, "--cache", face.cache)
    said = ("--front-end", "log_mel", *labels, *data)
    dynamic = tmp_path / "dynamic.toml"
    dynamic.write_text('method = "dynamic_w8"\n', "utf-8")
    single = tmp_path / "single"
    (single / "low").mkdir(parents=True)
    shutil.copy(face.corpus / "low" / "train_0.wav", single / "low")
    shutil.copy(face.corpus / "manifest.csv", single)
    lines = (face.corpus / "manifest.csv").read_text().splitlines()
    (single / "manifest.csv").write_text("\n".join(line for line in lines if line.startswith(("path", "low/train_0."))))
    needed = "plain.onnx: an ONNX model needs --front-end, --labels, and --data\n"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((folder / "plain.onnx",), needed),
        ((folder / "plain.onnx", *labels, *data), needed),
        ((folder / "plain.onnx", "--front-end", "log_mel", *data), needed),
        ((folder / "plain.onnx", "--front-end", "log_mel", *labels), needed),
        ((folder / "none.onnx", *said), "none.onnx: no such file"),
        ((folder / "plain.onnx", "--front-end", "kaldi80", *labels, *data), "has 40 values in a frame, the front end"),
        ((folder / "plain.onnx", *said, "--recipe", dynamic), "method='dynamic_w8' yields no integer graph"),
        ((folder / "plain.onnx", *said, "--data", single), "clips=1 in --data, must be at least 2: one calibrates"),
        ((face.checkpoint, *data, "--task", "ctc"), "['--task'] are for a foreign model (a file that ends in .onnx"),
    ]
    for arguments, words in cases:
        result = run("diagnose", *arguments)
        errors = [line for line in result.stderr.splitlines(keepends=True) if line.startswith("edgeaudio: ")]
        assert (result.exit_code, result.stdout, len(errors)) == (2, "", 1), result.output
        assert words in errors[0]
