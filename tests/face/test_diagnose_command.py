"""``edgeaudio diagnose`` and ``export --max-drop`` over the small real model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

CLIPS = 4


@pytest.fixture(scope="module")
def found(face: Any) -> Any:
    """A diagnosis of the small model by the faster path, made once."""
    from edgeaudio.commands.diagnose import run_diagnosis

    words = ["edgeaudio", "diagnose", face.checkpoint, "--data", face.corpus, "--backend", "onnxruntime"]
    return run_diagnosis(
        face.checkpoint,
        face.corpus,
        cache=face.cache,
        n_clips=CLIPS,
        backend="onnxruntime",
        command=shlex.join([*map(str, words), "--clips", str(CLIPS)]),
    )


def test_the_printed_command_gives_the_same_numbers_again(run: Any, found: Any, face: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = shlex.split(found.command)[1:]
    result = run(*words, "--cache", face.cache, "--json", "--output", page)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(json.dumps(found.to_dict()))
    from edgeaudio.diagnosis_page import render_diagnosis

    assert page.read_text("utf-8") == render_diagnosis(found)


def test_the_text_fits_the_terminal_and_names_every_layer(found: Any) -> None:
    from edgeaudio.diagnosis_report import WIDTH, render_text

    text = render_text(found)
    long = [line for line in text.splitlines() if len(line) > WIDTH and not line.startswith("reproduce: ")]
    assert long == []
    for layer in found.diagnosis.layers:
        assert layer.name in text
    for heading in ("Layers, worst first", "What to do", "x86 without VNNI", "Effective precision", "Coverage"):
        assert heading in text
    assert text.count(f"reproduce: {found.command}") == 6


def test_the_document_has_the_keys_that_are_documented(found: Any) -> None:
    documented = Path(__file__).parents[2].joinpath("docs/diagnosis.md").read_text("utf-8")
    document = json.loads(json.dumps(found.to_dict()))
    layer = document["layers"][0]
    keys = {*document, *layer, *layer["tensor"], *layer["sensitivity"], *document["logits"], *document["saturation"][0]}
    keys |= {*document["precision"]["numpy"], *document["quantization"]}
    keys |= {*next(layer["weight"] for layer in document["layers"] if layer["weight"])}
    assert [key for key in sorted(keys) if f"`{key}`" not in documented] == []
    assert set(document["precision"]) == {"numpy", "onnxruntime", "litert"}
    assert document["clips"] == CLIPS


def test_the_page_needs_nothing_from_outside(found: Any) -> None:
    from edgeaudio.diagnosis_page import render_diagnosis

    page = render_diagnosis(found)
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]+"', page) == []
    assert page.count("<svg") >= 4
    assert page.count('class="command"') == 7


def test_an_existing_page_is_not_overwritten(run: Any, face: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    result = run("diagnose", face.checkpoint, "--data", face.corpus, "--output", page)
    assert (result.exit_code, page.read_text()) == (2, "mine")


def test_wrong_input_is_one_line(start: Any, face: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(face.checkpoint, tmp_path / "broken"))
    weights = load_file(broken / "weights.safetensors")
    name = next(name for name in weights if name.endswith("conv.weight"))
    weights[name][0] = float("nan")
    save_file(weights, broken / "weights.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ((broken, "--data", face.corpus, "--cache", face.cache), f"weight '{name}' holds NaN or infinite values"),
        ((face.checkpoint, "--data", empty), str(empty)),
        ((face.checkpoint, "--data", face.corpus, "--method", "int3"), "'int3' is not one of"),
        ((face.checkpoint,), "give their folder with --data"),
    ]
    running = [(start("diagnose", *map(str, arguments)), words) for arguments, words in cases]
    for process, words in running:
        stdout, stderr = process.communicate()
        errors = [line for line in stderr.splitlines() if line.startswith("edgeaudio: ")]
        assert (process.returncode, stdout, len(errors)) == (2, "", 1), stderr
        assert words in errors[0]


def test_export_with_a_goal_says_how_it_was_kept(run: Any, face: Any, tmp_path: Path) -> None:
    shared = ("--data", face.corpus, "--cache", face.cache, "--backend", "onnxruntime")
    result = run("export", face.checkpoint, "--output", tmp_path / "bundle", *shared, "--max-drop", "100")
    assert result.exit_code == 0, result.output
    assert "the goal of 100 points is kept" in result.stderr
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["quantization"]["method"] == "static_w8a8"
    refused = run("export", face.checkpoint, "--output", tmp_path / "other", *shared, "--max-drop", "-1")
    assert refused.exit_code == 2
    assert not (tmp_path / "other").exists()
