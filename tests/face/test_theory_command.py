"""``edgeaudio theory``: the lines alone, a checkpoint beside them, the page, and what it refuses."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'edgeaudio[plots]'")

pytest.importorskip("torch", reason="checkpoints need torch: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_models.architectures import architecture_config, build_module, config_values
from edgeaudio_models.checkpoint import Checkpoint, save_checkpoint
from edgeaudio_models.recipe import parse_recipe
from edgeaudio_runtime.presets import preset

RECIPE = """
name = "small"
[corpus]
kind = "recordings"
labels = ["_unknown_", "yes"]
[model]
architecture = "ds_tc_resnet"
parameters = { channels = 8, kernel_sizes = [3], window_frames = 20 }
[training]
epochs = 1
"""
LAYERS = [
    "stem.conv/conv1d",
    "blocks.0.depthwise.conv/conv1d_1",
    "blocks.0.pointwise.conv/conv1d_3",
    "classifier/conv1d_4",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was never trained, but whose batch norms have something to fold."""
    recipe = parse_recipe(RECIPE)
    values = {**recipe.model.parameters, "n_features": 40, "n_labels": 2}
    torch.manual_seed(5)
    module = build_module("ds_tc_resnet", values).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(part.weight, 0.2, 3.0)
            part.running_var.uniform_(0.1, 4.0)
    folder = tmp_path_factory.mktemp("theory") / "checkpoint"
    save_checkpoint(
        Checkpoint(
            architecture="ds_tc_resnet",
            config=config_values(architecture_config("ds_tc_resnet", values)),
            module=module,
            labels=("_unknown_", "yes"),
            features=preset("log_mel"),
            recipe=recipe,
        ),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def reported(run: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Numbers and page of the checkpoint."""
    page = tmp_path_factory.mktemp("page") / "page.html"
    result = run("theory", checkpoint, "--output", page, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), page.read_text("utf-8")


def test_the_lines_need_no_checkpoint(run: Any) -> None:
    result = run("theory")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    # Clip, uniform, Lloyd-Max and bound of a Gaussian at 8 bits; 0.0308 * 128 = 3.94 is the clip of Max's table.
    assert ["8", "3.921", "40.54", "43.85", "48.16", "0.90"] in rows
    assert ["8", "3.938", "40.57", "3.924", "40.57", "4.710", "39.47"] in rows
    assert ["8", "48.16", "48.16", "52.94"] in rows
    assert "SQNR in dB at" not in result.stdout


def test_weights_are_named_by_the_layers_of_the_graph(reported: Any) -> None:
    document, _ = reported
    assert [row["name"] for row in document["weights"]] == LAYERS
    assert document["weights"][0]["shape"] == [8, 40, 5]
    assert document["constant"]
    assert all(name.startswith(("average/", "blocks.0.skip/")) for name in document["constant"])


def test_measured_figures_are_those_of_the_folded_weights(checkpoint: Path, reported: Any) -> None:
    from safetensors.numpy import load_file

    document, _ = reported
    tensors = load_file(checkpoint / "weights.safetensors")
    norm = {key: tensors[f"stem.batch_norm.{key}"] for key in ("weight", "running_var")}
    factor = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
    weights = tensors["stem.conv.weight"].astype(np.float64) * factor[:, None, None]
    for row in document["weights"][0]["widths"]:
        half = 2 ** (row["bits"] - 1) - 1
        for name, axes in (("per_tensor", (0, 1, 2)), ("per_channel", (1, 2))):
            scale = np.abs(weights).max(axis=axes, keepdims=True) / half
            error = weights - scale * np.rint(weights / scale)
            # 0.01 dB: float32 against float64 moves a weight on an edge into the next cell.
            assert row[name] == pytest.approx(10 * np.log10(np.sum(weights**2) / np.sum(error**2)), abs=0.01)
        assert row["best_clip"] >= row["per_tensor"]
        assert row["bound"] > row["lloyd_max"]


def test_every_number_of_the_page_is_printed_by_the_command_under_it(run: Any, checkpoint: Path, reported: Any) -> None:
    _, page = reported
    commands = [unescape(text) for text in re.findall(r'<pre class="command"><code>(.*?)</code></pre>', page)]
    assert set(commands) == {"edgeaudio theory", f"edgeaudio theory {checkpoint}"}
    text = run("theory", checkpoint).stdout
    for section in page.split("<section")[1:]:
        for row in re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section):
            cells = [unescape(row[0]), *re.findall(r"<td[^>]*>(.*?)</td>", row[1])]
            pattern = r"\s+".join(re.escape(cell) for cell in cells if cell)
            assert re.search(rf"^{pattern}$", text, re.MULTILINE), cells


def test_the_page_is_the_same_bytes_every_time(run: Any, checkpoint: Path, reported: Any, tmp_path: Path) -> None:
    _, page = reported
    again = tmp_path / "again.html"
    assert run("theory", checkpoint, "--output", again).exit_code == 0
    assert again.read_text("utf-8") == page


def test_the_page_draws_every_tensor_and_fetches_nothing(reported: Any) -> None:
    _, page = reported
    # Two of theory, one for each width, one for each tensor.
    assert page.count("<svg ") == 2 + 3 + len(LAYERS)
    assert not re.search(r"<script|<link|<img|url\((?!#)|href=\"(?!#)", page)


def test_nan_in_a_weight_is_refused_by_name(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    tensors = load_file(broken / "weights.safetensors")
    tensors["classifier.weight"][0] = np.nan
    save_file(tensors, broken / "weights.safetensors")
    page = tmp_path / "page.html"
    result = run("theory", broken, "--output", page)
    assert (result.exit_code, result.stdout) == (2, "")
    rule = "weight 'classifier.weight' holds NaN or infinite values; train again or load another checkpoint"
    assert result.stderr.splitlines()[-1] == f"edgeaudio: {rule}"
    assert not page.exists()


def test_a_missing_checkpoint_is_refused(run: Any, tmp_path: Path) -> None:
    result = run("theory", tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"edgeaudio: \S*nowhere\S* is missing or unreadable; a checkpoint has .*\n", result.stderr)


def test_an_existing_page_is_kept_without_force(run: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    result = run("theory", "--output", page)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"edgeaudio: {page} exists and nothing is overwritten; remove it or pass --force\n"
    assert page.read_text() == "mine"
    assert run("theory", "--output", page, "--force").exit_code == 0
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_page_without_matplotlib_names_the_extra(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    result = run("theory", "--output", tmp_path / "page.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "edgeaudio: matplotlib is not installed; run: pip install 'edgeaudio[plots]'\n"
    assert run("theory").exit_code == 0
