"""``edgeaudio diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.foreign import foreign_options, read_foreign, refuse_for_checkpoint, with_backend
from edgeaudio.commands.options import PathType, cache_option, command_line, echo_json, force_option, json_option
from edgeaudio.progress import progress_bar, say
from edgeaudio_export.calibration import METHODS
from edgeaudio_export.quantization_recipe import METHODS as QUANTIZATION_METHODS

if TYPE_CHECKING:
    from edgeaudio.diagnosing import DiagnosedNetwork

DEFAULT_CLIPS = 64
"""Validation clips that are looked at: some seconds a layer; figures in dB then repeat to about 0.3 dB."""


@click.command()
@click.argument("model", type=PathType)
@click.option("--data", "folder", type=PathType, help="Corpus, for ONNX models and recipes that train on recordings.")
@click.option(
    "--backend",
    type=click.Choice(["pt2e", "onnxruntime"]),
    help="Who quantizes; default: pt2e, onnxruntime for an ONNX model with static methods.",
)
@click.option("--recipe", type=PathType, help="TOML file that says how to quantize: method, calibration, layers.")
@click.option(
    "--method", type=click.Choice(QUANTIZATION_METHODS), help="Method; default: the recipe's, or static_w8a8."
)
@click.option("--calibration", type=click.Choice(METHODS), help="How ranges are chosen; default: the recipe's.")
@click.option("--clips", type=click.IntRange(min=1), default=DEFAULT_CLIPS, show_default=True, help="Clips to look at.")
@foreign_options
@click.option("--output", type=PathType, help="HTML page to write, with plots.")
@cache_option
@force_option
@json_option
def diagnose(
    model: Path,
    folder: Path | None,
    clips: int,
    output: Path | None,
    cache: Path | None,
    force: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Say where quantizing MODEL, a checkpoint or a float ONNX file, loses accuracy, why, and what to try; worst first.

    The float network and the integer graph run side by side on clips that never calibrate: validation clips of the
    checkpoint's recipe, or some of --data for an ONNX model.
    """
    from edgeaudio.diagnosis_report import render_text
    from edgeaudio_runtime.staging import refuse_overwrite

    if output is not None:
        refuse_overwrite(output, force=force)
        # Missing plots are better known before the layers are measured than after.
        import matplotlib  # noqa: F401
    foreign = {name: choices.pop(name) for name in _FOREIGN}
    shared = {"cache": cache, "n_clips": clips, "command": command_line(), **choices}
    if model.suffix == ".onnx":
        found = run_onnx_diagnosis(model, folder, **foreign, **shared)
    else:
        refuse_for_checkpoint(model, foreign)
        found = run_diagnosis(model, folder, **shared)
    if output is not None:
        _write_page(output, found, force=force)
    if as_json:
        echo_json(found.to_dict())
    else:
        click.echo(render_text(found))
        if output is not None:
            click.echo(output)


_FOREIGN = ("front_end", "labels", "task", "step_frames")


def run_diagnosis(
    model: Path,
    folder: Path | None,
    *,
    recipe: Path | None = None,
    cache: Path | None = None,
    n_clips: int = DEFAULT_CLIPS,
    command: str,
    **choices: Any,
) -> DiagnosedNetwork:
    """Load the checkpoint and the clips of its recipe, then diagnose; ``recipe`` is one for quantization."""
    from edgeaudio.diagnosing import diagnose_checkpoint
    from edgeaudio.exporting import ExportChoices
    from edgeaudio_export.quantization_recipe import load_quantization_recipe
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import load_training_data

    quantization = None if recipe is None else load_quantization_recipe(recipe)
    checkpoint = load_checkpoint(model)
    with progress_bar("loading clips") as progress:
        data = load_training_data(
            checkpoint.recipe, data_folder=folder, cache_folder=cache or default_cache_folder(), progress=progress
        )
    choice = ExportChoices(quantization=quantization, **with_backend(choices, quantization, default="pt2e"))
    return diagnose_checkpoint(checkpoint, data, choice, n_clips=n_clips, command=command)


def run_onnx_diagnosis(
    model: Path,
    folder: Path | None,
    *,
    front_end: str | None,
    labels: Path | None,
    task: str | None,
    step_frames: int | None,
    recipe: Path | None = None,
    cache: Path | None = None,
    n_clips: int = DEFAULT_CLIPS,
    command: str,
    **choices: Any,
) -> DiagnosedNetwork:
    """Diagnose a float ONNX model with what its file does not say, on clips of ``folder`` that do not calibrate."""
    from edgeaudio.diagnosing import diagnose_onnx, read_lowerable
    from edgeaudio.exporting import ExportChoices
    from edgeaudio.onnx_exporting import load_calibration_clips
    from edgeaudio_export.quantization_recipe import load_quantization_recipe
    from edgeaudio_models.corpora import default_cache_folder

    foreign = read_foreign(
        model, front_end=front_end, labels=labels, task=task, step_frames=step_frames, sources={"--data": folder}
    )
    assert folder is not None
    quantization = None if recipe is None else load_quantization_recipe(recipe)
    choice = ExportChoices(quantization=quantization, **with_backend(choices, quantization, default="onnxruntime"))
    step = read_lowerable(foreign)
    data = load_calibration_clips(folder, foreign.features, None, cache or default_cache_folder(), held_out=n_clips)
    return diagnose_onnx(foreign, step, data, choice, command=command)


def _write_page(output: Path, found: DiagnosedNetwork, *, force: bool) -> None:
    from edgeaudio.diagnosis_page import render_diagnosis
    from edgeaudio_runtime.staging import staged_file

    say("drawing the page")
    page = render_diagnosis(found)
    with staged_file(output, force=force) as staged:
        staged.write_text(page, "utf-8")
