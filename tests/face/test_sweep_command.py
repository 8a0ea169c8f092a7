"""What ``edgeaudio sweep`` tells, keeps and refuses, over one small real model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the page of a sweep needs matplotlib: pip install 'edgeaudio[plots]'")

from edgeaudio.plots import interval_plot
from edgeaudio.sweep import run as sweep_run
from edgeaudio.sweep.hearings import last_logits
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import EdgeAudioError, SpecError
from edgeaudio_runtime.quantization import quantize

pytestmark = pytest.mark.slow

GRID = ("--methods", "static_w8a8", "--calibrations", "mse,minmax", "--backends", "pt2e", "--variants", 3)
CELLS = ["static_w8a8-mse-pt2e", "static_w8a8-minmax-pt2e"]
ENGINES = {"litert", "onnxruntime", "numpy"}


@pytest.fixture(scope="module", autouse=True)
def quick_timing() -> Generator[None]:
    """One round: these tests ask whether there are figures, not which."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_run, "TIMING_ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def swept(run: Any, face: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a sweep of two cells on the validation split."""
    output = tmp_path_factory.mktemp("sweep") / "out"
    result = run(*command(face, output))
    assert result.exit_code == 0, result.output
    return output


def command(face: Any, output: Path, *more: object) -> tuple[object, ...]:
    """The command of :func:`swept`."""
    shared = ("--data", face.corpus, "--cache", face.cache, "--output", output)
    return ("sweep", face.checkpoint, *shared, *GRID, *more)


def refuse_to_quantize(*_: object, **__: object) -> None:
    raise AssertionError("a finished cell was quantized again")


def test_a_sweep_leaves_a_table_a_page_and_a_bundle_for_each_cell(swept: Path) -> None:
    table = json.loads((swept / "validation" / "sweep.json").read_text("utf-8"))
    assert [cell["name"] for cell in table["cells"]] == CELLS
    assert (table["split"], len(table["variants"]), table["data"]) == ("validation", 3, "corpus")
    for cell in table["cells"]:
        task = cell["task"]
        assert (task["n"], task["n_hearings"], task["n_speakers"]) == (10, 3, 1)
        assert cell["task_without_silence"]["n"] == 8
        assert set(cell["bytes"]) == set(cell["us_per_step"]) == ENGINES
        assert all(figure > 0 for figure in cell["us_per_step"].values())
        bundle = open_bundle(swept / "bundles" / cell["name"])
        files = {"litert": ["model.tflite"], "onnxruntime": ["model.onnx"], "numpy": ["model.json", "model.bin"]}
        sizes = {engine: sum((bundle.path / f).stat().st_size for f in names) for engine, names in files.items()}
        assert cell["bytes"] == sizes
        assert bundle.manifest.quantization.calibration["method"] == cell["calibration"]
    page = (swept / "validation" / "sweep.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert all(name in page for name in CELLS)
    assert f"--calibrations {'mse,minmax'}" in page


def test_figures_are_those_of_the_bundle_on_the_first_hearing(swept: Path, run: Any, face: Any) -> None:
    # `parity` runs an engine clip by clip; its accuracy comes by another way.
    kept = json.loads((swept / "validation" / "cells" / f"{CELLS[0]}.json").read_text("utf-8"))
    first = np.array(kept["decisions"])[:, 0]
    floats = np.array(json.loads((swept / "validation" / "float.json").read_text("utf-8"))["decisions"])[:, 0]
    command = ("parity", swept / "bundles" / CELLS[0], "--data", face.corpus, "--split", "validation")
    task = json.loads(run(*command, "--cache", face.cache, "--json").stdout)["task"]
    labels = json.loads((swept / "bundles" / CELLS[0] / "manifest.json").read_text("utf-8"))["labels"]
    assert np.mean(first == floats) == pytest.approx(task["agreement"])
    assert first.shape == (10,)
    assert set(first.tolist()) <= set(range(len(labels)))


def test_streams_side_by_side_give_the_codes_of_each_alone(swept: Path) -> None:
    program = open_bundle(swept / "bundles" / CELLS[0]).program("numpy")
    assert isinstance(program, NumpyProgram)
    features = np.random.default_rng(0).standard_normal((5, 100, 40)).astype(np.float32)
    together = last_logits(program, features)
    for one, expected in zip(features, together, strict=True):
        assert (program.session().run(quantize(one, program.signature.input_quant))[-1] == expected).all()


def test_the_table_on_stdout_names_every_cell_and_the_command(swept: Path, run: Any, face: Any) -> None:
    text = run(*command(face, swept)).stdout
    assert "on 10 clips of corpus (split validation), 3 fixed shifts and gains" in text
    assert "float: accuracy" in text
    assert "8 clips; sweep.json has every cell so" in text
    for heading in ("accuracy %", "- float, points", "same answer %", "kB litert", "us/step numpy"):
        assert heading in text
    rows = [line.split()[0].rstrip("*") for line in text.splitlines() if line.startswith("static_w8a8")]
    assert rows == [*CELLS, *CELLS]
    assert sum("*" in line.split()[0] for line in text.splitlines() if line.startswith("static_w8a8")) == 2
    again = next(line for line in text.splitlines() if line.startswith("again: "))
    assert again.endswith("--methods static_w8a8 --calibrations mse,minmax --backends pt2e --variants 3")


def test_a_finished_cell_is_not_computed_again(
    swept: Path, run: Any, face: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_run, "quantize_checkpoint", refuse_to_quantize)
    monkeypatch.setattr(sweep_run, "hear", refuse_to_quantize)
    before = json.loads((swept / "validation" / "sweep.json").read_text("utf-8"))
    result = run(*command(face, swept, "--json"))
    assert result.exit_code == 0, result.output
    after = json.loads(result.stdout)
    assert [cell["task"] for cell in after["cells"]] == [cell["task"] for cell in before["cells"]]


def test_a_kill_loses_one_cell(
    swept: Path, run: Any, face: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def killed_at_the_second(checkpoint: Any, training: Any, choices: Any, **_: Any) -> Any:
        asked.append(choices.calibration)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return SimpleNamespace(name=f"static_w8a8-{choices.calibration}-pt2e", calibration=None)

    def write(directory: Path, checkpoint: Any, quantized: Any) -> None:
        shutil.copytree(swept / "bundles" / quantized.name, directory, dirs_exist_ok=True)

    monkeypatch.setattr(sweep_run, "quantize_checkpoint", killed_at_the_second)
    monkeypatch.setattr(sweep_run, "write_quantized", write)
    assert run(*command(face, tmp_path / "out")).exit_code != 0
    assert sorted(path.name for path in (tmp_path / "out" / "bundles").iterdir()) == [CELLS[0], f"{CELLS[0]}.json"]
    result = run(*command(face, tmp_path / "out", "--json"))
    assert result.exit_code == 0, result.output
    assert asked == ["mse", "minmax", "minmax"]
    assert [cell["refused"] for cell in json.loads(result.stdout)["cells"]] == [None, None]


def test_a_refusal_is_a_row_with_its_reason(
    run: Any, face: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EdgeAudioError("method='x' does not go with\n backend='y'; take another")

    monkeypatch.setattr(sweep_run, "quantize_checkpoint", refuse)
    result = run(*command(face, tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert f"{CELLS[0]}: not made: method='x' does not go with backend='y'; take another\n" in result.stdout
    assert "no cell could be made" in result.stdout
    cells = json.loads((tmp_path / "out" / "validation" / "sweep.json").read_text("utf-8"))["cells"]
    assert [(cell["task"], cell["bytes"]) for cell in cells] == [(None, {}), (None, {})]


def test_the_test_split_reports_what_validation_chose(swept: Path, run: Any, face: Any) -> None:
    chosen = json.loads((swept / "validation" / "sweep.json").read_text("utf-8"))["chosen"]
    result = run(*command(face, swept, "--split", "test", "--json"))
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert (table["split"], table["chosen"], table["chosen_on"]) == ("test", chosen, "validation")
    assert table["cells"][0]["task"]["n"] == 20


def test_a_folder_of_something_else_is_left_alone(run: Any, face: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear reader", "utf-8")
    plain = run(*command(face, tmp_path / "mine"))
    forced = run(*command(face, tmp_path / "mine", "--force"))
    assert (plain.exit_code, forced.exit_code) == (2, 2)
    assert "holds something other than a sweep of this checkpoint; give another --output or --force" in plain.stderr
    assert "holds something other than a sweep, which --force does not replace; remove it first" in forced.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text("utf-8") == "dear reader"


def test_an_interval_is_drawn_as_wide_as_it_is() -> None:
    svg = interval_plot(["first", "second"], [1.0, -1.0], [(0.0, 4.0), (-2.0, 0.0)], x_label="points")
    assert "first" in svg
    paths = re.findall(r'<path d="M ([^"]+?)"[^>]*clip-path[^>]*stroke: #0072b2', svg)
    ends = [[float(number) for number in re.findall(r"-?[0-9.]+", path)] for path in paths]
    widths = [end[2] - end[0] for end in ends if len(end) == 4]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)


def test_an_interval_for_each_label_or_a_refusal() -> None:
    with pytest.raises(SpecError, match="1 values and 2 intervals for 2 labels; give one of each for each label"):
        interval_plot(["a", "b"], [1.0], [(0.0, 1.0), (0.0, 1.0)], x_label="points")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "w4"), "methods=['w4'] must be among ['static_w8a8', "),
        (("--variants", "99"), "variants=99 must be 1..16, as many as are fixed"),
        (("--split", "exam"), "split='exam' is not in the corpus; it has ['train', 'validation', 'test']"),
        (("--recovery", "hope"), "recoveries=['hope'] must be 'none' or among "),
    ],
)
def test_a_wrong_option_is_one_line(more: tuple[str, ...], message: str, run: Any, face: Any, tmp_path: Path) -> None:
    result = run(*command(face, tmp_path / "out", *more))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
