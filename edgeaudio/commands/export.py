"""``edgeaudio export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeaudio.commands.foreign import (
    foreign_options,
    read_foreign,
    refuse_for_checkpoint,
    with_backend,
)
from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.commands.tflite import run_tflite_export
from edgeaudio.loading.kinds import kind_of
from edgeaudio.parity.report import render_stages
from edgeaudio.progress import progress_bar
from edgeaudio_export.calibration import METHODS
from edgeaudio_export.quantization_recipe import METHODS as QUANTIZATION_METHODS
from edgeaudio_export.quantization_recipe import ONNX_ONLY_METHODS, RECOVERY_STEPS
from edgeaudio_runtime.errors import SpecError


@click.command()
@click.argument("model", type=PathType)
@click.option("--output", type=PathType, required=True, help="Bundle directory to write.")
@click.option("--data", "folder", type=PathType, help="Corpus to calibrate on, for a recipe that trains on recordings.")
@click.option(
    "--backend",
    type=click.Choice(["pt2e", "onnxruntime"]),
    help="Who quantizes; default: pt2e, onnxruntime for dynamic_w8 and for an ONNX model with static methods.",
)
@click.option("--recipe", type=PathType, help="TOML file that says how to quantize: method, calibration, layers.")
@click.option(
    "--method",
    type=click.Choice([*QUANTIZATION_METHODS, *ONNX_ONLY_METHODS]),
    help="Method; default: the recipe's, or static_w8a8.",
)
@click.option("--calibration", type=click.Choice(METHODS), help="How ranges are chosen; default: the recipe's.")
@click.option(
    "--percentile", type=float, help="Share that --calibration percentile covers, in percent; default: 99.99."
)
@click.option("--clips", type=click.IntRange(min=1), help="Number of calibration clips; default: the recipe's.")
@click.option(
    "--recovery",
    callback=lambda _context, _option, text: tuple(text.split("+")) if text else None,
    help=f"Steps that win accuracy back, joined by '+', of {', '.join(RECOVERY_STEPS)}; default: the recipe's.",
)
@click.option(
    "--max-drop", type=float, help="Raise the fewest layers until at most this many points of accuracy are lost."
)
@foreign_options
@click.option(
    "--calibration-features",
    type=PathType,
    help="For a foreign model: .npy of float32 [clips, T, F] instead of --data.",
)
@click.option(
    "--window-frames",
    type=click.IntRange(min=1),
    help="For a foreign model: frames a decision rests on, else measured.",
)
@click.option(
    "--hop-frames",
    type=click.IntRange(min=1),
    help="For a foreign keyword model without states: frames from one window to the next; default: about a quarter.",
)
@click.option("--licence", help="For a foreign model: SPDX identifier of its licence.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.05, max=60), help="For a Hugging Face classifier of raw samples: window."
)
@cache_option
@force_option
@json_option
def export(
    model: Path, output: Path, folder: Path | None, cache: Path | None, force: bool, as_json: bool, **choices: Any
) -> None:
    """Quantize MODEL and write a certified bundle; exit 1 if it did not pass.

    MODEL is a checkpoint, a float ONNX file, a torch.export program (.pt2), package.module:callable that returns a
    torch module, a Hugging Face directory, or a .tflite file, which is taken as it is.
    """
    foreign = {name: choices.pop(name) for name in _FOREIGN}
    as_is = {name: choices.pop(name) for name in ("hop_frames", "licence")}
    own = {"seconds": choices.pop("seconds")}
    shared = {"cache": cache, "force": force, **choices}
    kind = kind_of(model)
    if kind == "checkpoint":
        refuse_for_checkpoint(model, foreign | as_is | own)
        document = run_export(model, output, folder, **shared)
    elif kind == "tflite":
        if own["seconds"] is not None:
            raise SpecError(f"{model}: --seconds is for a Hugging Face directory; leave it out")
        document = run_tflite_export(model, output, folder, **foreign, **as_is, **shared)
    else:
        document = run_foreign_export(model, output, folder, **foreign, **as_is, **own, **shared)
    if as_json:
        echo_json(document)
    else:
        click.echo(render_stages(document))
        click.echo(output)
    raise SystemExit(0 if document["passed"] else 1)


HUGGINGFACE_CLIPS = 16
"""Calibration clips where the caller does not say: they only say how large the logits become."""
_FOREIGN = ("front_end", "labels", "task", "calibration_features", "step_frames", "window_frames")


def run_export(
    model: Path,
    output: Path,
    folder: Path | None,
    *,
    recipe: Path | None = None,
    cache: Path | None = None,
    force: bool = False,
    max_drop: float | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """Load the checkpoint and the clips of its recipe, then export; ``recipe`` is one for quantization."""
    from edgeaudio.exporting import ExportChoices, export_bundle
    from edgeaudio_export.quantization_recipe import load_quantization_recipe
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import load_training_data
    from edgeaudio_runtime.staging import refuse_overwrite

    refuse_overwrite(output, force=force)
    quantization = None if recipe is None else load_quantization_recipe(recipe)
    checkpoint = load_checkpoint(model)
    with progress_bar("loading clips") as progress:
        data = load_training_data(
            checkpoint.recipe, data_folder=folder, cache_folder=cache or default_cache_folder(), progress=progress
        )
    chosen = ExportChoices(**with_backend(choices, quantization, default="pt2e"), quantization=quantization)
    if max_drop is not None:
        from edgeaudio.precision import choose_precision

        chosen, _ = choose_precision(checkpoint, data, chosen, max_drop=max_drop)
    return export_bundle(checkpoint, data.train, list(data.validation.waveforms), output, choices=chosen, force=force)


def as_it_is(model: Path, choices: dict[str, Any]) -> dict[str, Any]:
    """The choices for an ONNX model that comes without recordings: float32 stays, and so do the codes it has inside.

    Raises:
        SpecError: A choice that needs recordings.
    """
    refused = {name: value for name, value in choices.items() if (name, value) != ("method", "float32")}
    given = [f"--{name}" for name, value in refused.items() if value is not None]
    if given:
        raise SpecError(f"{model}: {given} need --data or --calibration-features; without them a model stays as it is")
    return {**{name: None for name in choices if name != "recipe"}, "method": "float32"}


def run_foreign_export(
    model: Path,
    output: Path,
    folder: Path | None,
    *,
    front_end: str | None,
    labels: Path | None,
    task: str | None,
    calibration_features: Path | None,
    recipe: Path | None = None,
    cache: Path | None = None,
    force: bool = False,
    max_drop: float | None = None,
    step_frames: int | None = None,
    window_frames: int | None = None,
    hop_frames: int | None = None,
    licence: str | None = None,
    seconds: float | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """Export a float model of elsewhere with what it does not say of itself."""
    from edgeaudio import onnx_exporting as onnx_side
    from edgeaudio.exporting import ExportChoices
    from edgeaudio_export.quantization_recipe import load_quantization_recipe
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_runtime.staging import refuse_overwrite

    refuse_overwrite(output, force=force)
    as_is = kind_of(model) == "onnx" and None not in (front_end, labels) and folder is calibration_features is None
    foreign = read_foreign(
        model, as_is=as_is, front_end=front_end, labels=labels, task=task, step_frames=step_frames,
        window_frames=window_frames, hop_frames=hop_frames, licence=licence, seconds=seconds,
        sources={"--data": folder, "--calibration-features": calibration_features},
    )  # fmt: skip
    if max_drop is not None:
        raise SpecError(f"max_drop={max_drop:g} needs a checkpoint; choose layers of a foreign model by --recipe")
    quantization = None if recipe is None else load_quantization_recipe(recipe)
    spec = foreign.features
    if foreign.huggingface is not None:
        choices = {**choices, "clips": choices["clips"] or HUGGINGFACE_CLIPS}
        if quantization is None:
            choices["method"] = choices["method"] or "dynamic_w8"
    if as_is:
        choices = as_it_is(model, choices | {"recipe": recipe})
        data = onnx_side.probe_data(foreign)
    elif calibration_features is not None:
        data = onnx_side.read_calibration_features(calibration_features, spec.n_features)
    else:
        assert folder is not None
        data = onnx_side.load_calibration_clips(folder, spec, choices["clips"], cache or default_cache_folder())
    default = "onnxruntime" if model.suffix == ".onnx" else "pt2e"
    chosen = ExportChoices(**with_backend(choices, quantization, default=default), quantization=quantization)
    return onnx_side.export_onnx(foreign, data, output, choices=chosen, force=force)
