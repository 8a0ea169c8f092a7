"""``edgeaudio export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.parity.report import render_stages
from edgeaudio.progress import progress_bar
from edgeaudio_export.calibration import METHODS
from edgeaudio_export.quantization_recipe import METHODS as QUANTIZATION_METHODS


@click.command()
@click.argument("model", type=PathType)
@click.option("--output", type=PathType, required=True, help="Bundle directory to write.")
@click.option("--data", "folder", type=PathType, help="Corpus to calibrate on, for a recipe that trains on recordings.")
@click.option("--backend", type=click.Choice(["pt2e", "onnxruntime"]), default="pt2e", show_default=True)
@click.option("--recipe", type=PathType, help="TOML file that says how to quantize: method, calibration, layers.")
@click.option(
    "--method", type=click.Choice(QUANTIZATION_METHODS), help="Method; default: the recipe's, or static_w8a8."
)
@click.option("--calibration", type=click.Choice(METHODS), help="How ranges are chosen; default: the recipe's.")
@click.option(
    "--percentile", type=float, help="Share that --calibration percentile covers, in percent; default: 99.99."
)
@click.option("--clips", type=click.IntRange(min=1), help="Number of calibration clips; default: the recipe's.")
@click.option(
    "--max-drop", type=float, help="Raise the fewest layers until at most this many points of accuracy are lost."
)
@cache_option
@force_option
@json_option
def export(
    model: Path, output: Path, folder: Path | None, cache: Path | None, force: bool, as_json: bool, **choices: Any
) -> None:
    """Quantize MODEL, a checkpoint, and write a bundle with its certificate; exit 1 if it did not pass."""
    document = run_export(model, output, folder, cache=cache, force=force, **choices)
    if as_json:
        echo_json(document)
    else:
        click.echo(render_stages(document))
        click.echo(output)
    raise SystemExit(0 if document["passed"] else 1)


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
    chosen = ExportChoices(quantization=quantization, **choices)
    if max_drop is not None:
        from edgeaudio.precision import choose_precision

        chosen, _ = choose_precision(checkpoint, data, chosen, max_drop=max_drop)
    return export_bundle(checkpoint, data.train, list(data.validation.waveforms), output, choices=chosen, force=force)
