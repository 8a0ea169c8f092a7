"""``edgeaudio train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.progress import progress_bar, say

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.training import TrainingProgress


@click.command()
@click.argument("recipe")
@click.option("--data", "folder", type=PathType, help="Folder of the corpus, for a recipe that trains on recordings.")
@click.option("--output", type=PathType, required=True, help="Folder for the training state and the checkpoint.")
@click.option("--epochs", type=int, help="Other number of epochs than the recipe's.")
@cache_option
@force_option
@json_option
def train(
    recipe: str, folder: Path | None, output: Path, epochs: int | None, cache: Path | None, force: bool, as_json: bool
) -> None:
    """Train RECIPE (a name or a TOML file) and leave OUTPUT/checkpoint; a killed run goes on where it stopped."""
    checkpoint = run_training(recipe, folder, output, epochs=epochs, cache=cache, force=force)
    if as_json:
        echo_json({"checkpoint": str(output / "checkpoint"), "metrics": dict(checkpoint.metrics)})
    else:
        click.echo(output / "checkpoint")


def run_training(
    source: str,
    folder: Path | None,
    output: Path,
    *,
    epochs: int | None = None,
    cache: Path | None = None,
    force: bool = False,
) -> Checkpoint:
    """Load the recipe and its clips, then train."""
    from dataclasses import replace

    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe import load_recipe
    from edgeaudio_models.recipe_data import load_training_data
    from edgeaudio_models.training import train as train_recipe
    from edgeaudio_runtime.staging import refuse_overwrite

    recipe = load_recipe(source)
    if epochs is not None:
        recipe = replace(recipe, training=replace(recipe.training, epochs=epochs))
    refuse_overwrite(output / "checkpoint", force=force)
    with progress_bar("loading clips") as progress:
        data = load_training_data(
            recipe, data_folder=folder, cache_folder=cache or default_cache_folder(), progress=progress
        )
    say(f"training {recipe.name}: {len(data.train)} clips, {len(data.validation)} to choose by")
    with progress_bar(f"training {recipe.name}") as bar:

        def report(state: TrainingProgress) -> None:
            bar(state.step, state.steps)
            if state.score is not None:
                say(f"epoch {state.epoch} of {state.epochs}: loss {state.loss:.3f}, validation {state.score:.4f}")

        return train_recipe(recipe, data, output, force=force, progress=report)
