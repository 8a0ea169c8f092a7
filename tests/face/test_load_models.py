"""``edgeaudio export`` of torch programs, modules and Hugging Face directories, and what is no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="export needs torch and torchao: pip install 'edgeaudio[torch]'")

from edgeaudio.loading.kinds import kind_of
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.cli import main as run_on_device
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.selftest import self_test
from tests.huggingface_models import KEYWORDS, write_ast, write_ctc

LABELS = ("_silence_", "_unknown_", "chirp", "low", "high")

SOURCE = """
import torch
from tests.foreign_models import WindowedNet

def make():
    torch.manual_seed(0)
    facts = {"front_end": "log_mel", "labels": %r, "step_frames": 20}
    return WindowedNet(40, 5), facts
"""


def recording(path: Path, seconds: int = 2) -> Path:
    import soundfile

    time = np.arange(16_000 * seconds) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)) * np.sin(6 * time), 16_000)
    return path


@pytest.mark.slow
@pytest.mark.exact_int8
def test_a_module_says_what_it_is_and_runs_in_windows(
    run: Any, face: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "windowed_net_of_mine.py").write_text(SOURCE % (LABELS,))
    monkeypatch.chdir(tmp_path)
    options = ("--data", face.corpus, "--cache", face.cache, "--clips", 8, "--hop-frames", 5, "--licence", "MIT")
    result = run("export", "windowed_net_of_mine:make", "--output", "b", *options)
    assert result.exit_code == 0, result.output
    assert "windowed_net_of_mine:make: windows of 0.2 s, one every 0.05 s" in result.stderr
    bundle = open_bundle(tmp_path / "b")
    network = bundle.manifest.network
    assert (bundle.name, bundle.manifest.mode, bundle.labels) == ("make", "windowed", LABELS)
    assert (network.input_frames, network.step_frames) == (20, 5)
    assert bundle.background_labels == ("_silence_", "_unknown_")
    assert "- windows of 0.2 s, one every 0.05 s; licence MIT" in (tmp_path / "b" / "card.md").read_text("utf-8")
    assert self_test(bundle).passed


@pytest.mark.slow
def test_a_ctc_directory_transcribes_whole_recordings_on_the_device(
    run: Any, face: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs pip install 'edgeaudio[huggingface]'")
    model = write_ctc(tmp_path / "tiny-ctc")
    options = ("--data", face.corpus, "--cache", face.cache, "--clips", 4)
    result = run("export", model, "--output", tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    assert "tiny-ctc: whole recordings of up to 180 s" in result.stderr
    bundle = open_bundle(tmp_path / "b")
    assert (bundle.name, bundle.task, bundle.manifest.mode) == ("tiny-ctc", "ctc", "whole")
    assert bundle.manifest.engines == ("onnxruntime",)
    assert bundle.manifest.quantization.method == "dynamic_w8"
    assert self_test(bundle).passed
    capsys.readouterr()
    assert run_on_device([str(tmp_path / "b"), str(recording(tmp_path / "a.wav")), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert {line["event"] for line in lines} == {"transcript"}


@pytest.mark.slow
def test_a_spectrogram_transformer_detects_in_windows_on_the_device(
    run: Any, face: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs pip install 'edgeaudio[huggingface]'")
    options = ("--data", face.corpus, "--cache", face.cache, "--clips", 4)
    result = run("export", write_ast(tmp_path / "tiny-ast"), "--output", tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    assert "tiny-ast: windows of 0.64 s, one every " in result.stderr
    bundle = open_bundle(tmp_path / "b")
    assert (bundle.labels, bundle.background_labels) == (KEYWORDS, ("_unknown_",))
    assert "transformers puts zeros behind it" in (tmp_path / "b" / "card.md").read_text("utf-8")
    detector = json.loads((tmp_path / "b" / "detector.json").read_text())
    (tmp_path / "b" / "detector.json").write_text(json.dumps({**detector, "threshold": 0.01, "release": 0.005}))
    capsys.readouterr()
    assert run_on_device([str(tmp_path / "b"), str(recording(tmp_path / "a.wav")), "--json"]) == 0
    labels = {json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()}
    assert labels <= set(KEYWORDS) - {"_unknown_"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.onnx", "onnx"),
        ("net.pt2", "pt2"),
        ("net.tflite", "tflite"),
        ("package.module:make", "module"),
        ("package:Nets.make", "module"),
        ("package:", "checkpoint"),
        ("runs/kws", "checkpoint"),
    ],
)
def test_what_a_model_is_follows_from_its_name(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


def test_what_a_directory_is_follows_from_its_files(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == "checkpoint"
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) == "checkpoint"
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    assert kind_of(tmp_path) == "huggingface"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SpecError, match=r"config.json: not JSON: "):
        kind_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (
            {"architectures": ["BertModel"]},
            ("--data", "x"),
            "'BertModel' is none that is read; these are: ",
        ),
        ({"model_type": "hubert"}, (), "a Hugging Face directory needs --data, recordings that calibrate its boundary"),
        ({"model_type": "hubert"}, ("--front-end", "log_mel"), "a Hugging Face directory says ['--front-end'] itself"),
    ],
)
def test_a_directory_that_cannot_be_exported_is_refused_in_one_line(
    run: Any, tmp_path: Path, config: dict[str, Any], options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("export", tmp_path, "--output", tmp_path / "b", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("no_such_package:make", (), "model='no_such_package:make' cannot be imported: ModuleNotFoundError"),
        ("json:dumps", (), "model='json:dumps' cannot be called: TypeError"),
        ("torch.nn:Identity", (), "torch.nn:Identity: a module needs --front-end, --labels, and one of --data and"),
        ("net.pt2", (), "net.pt2: a torch program needs --front-end, --labels, and one of --data and"),
        ("net.pt2", ("--seconds", "2"), "net.pt2: --seconds is for a Hugging Face directory; say --step-frames"),
        (
            "runs/kws",
            ("--hop-frames", "2"),
            "['--hop-frames'] are for a foreign model (a file that ends in .onnx, .pt2",
        ),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_in_one_line(
    run: Any, tmp_path: Path, model: str, options: tuple[str, ...], words: str
) -> None:
    result = run("export", model, "--output", tmp_path / "b", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
