"""``edgeaudio train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.progress import progress_bar, say
from edgeaudio.wake_word_training import phrase_recipe, run_wake_word

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.recipe import Recipe
    from edgeaudio_models.training import Progress, TrainingProgress
    from edgeaudio_models.training_data import TrainingData
    from edgeaudio_models.workers import Workers


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    help="Folder of the corpus, for a recipe that trains on recordings; or a stream: 'train-{000..099}.tar', hf:NAME.",
)
@click.option("--validation", help="Stream to choose by, beside a stream to train on.")
@click.option("--output", type=PathType, required=True, help="Folder for the training state and the checkpoint.")
@click.option("--phrase", help="What to listen for, for the recipe wake-word.")
@click.option(
    "--background",
    type=PathType,
    help="Speech and noise without the phrase, for wake-word; same as --data.  [default: $EDGEAUDIO_DATA]",
)
@click.option("--epochs", type=int, help="Other number of epochs than the recipe's.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if any.")
@click.option("--log-dir", type=PathType, help="Folder for TensorBoard scalars.")
@cache_option
@force_option
@json_option
def train(
    recipe: str,
    data: str | None,
    validation: str | None,
    output: Path,
    background: Path | None,
    phrase: str | None,
    epochs: int | None,
    device: str,
    log_dir: Path | None,
    cache: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train RECIPE (a name or a TOML file) and leave OUTPUT/checkpoint; a killed run goes on where it stopped.

    Several processes share every batch: torchrun --nproc-per-node 2 -m edgeaudio train RECIPE ...
    """
    from edgeaudio_models.streams import is_stream
    from edgeaudio_models.workers import join_workers

    with join_workers(device) as workers:
        checkpoint = run_training(
            recipe,
            Path(data) if data is not None else background,
            output,
            stream=data if is_stream(data or "") else None,
            validation=validation,
            phrase=phrase,
            epochs=epochs,
            cache=cache,
            force=force,
            log_dir=log_dir,
            workers=workers,
        )
    if not workers.leads:
        return
    if as_json:
        echo_json({"checkpoint": str(output / "checkpoint"), "metrics": dict(checkpoint.metrics)})
    else:
        click.echo(output / "checkpoint")


def run_training(
    source: str,
    folder: Path | None,
    output: Path,
    *,
    stream: str | None = None,
    validation: str | None = None,
    phrase: str | None = None,
    epochs: int | None = None,
    cache: Path | None = None,
    force: bool = False,
    log_dir: Path | None = None,
    workers: Workers | None = None,
) -> Checkpoint:
    """Load the recipe and its clips, then train.

    ``stream`` takes the place of ``folder``; ``workers`` None is this process alone, on the processor.
    """
    from dataclasses import replace

    from edgeaudio_models.recipe import load_recipe
    from edgeaudio_models.streams import load_stream_data
    from edgeaudio_models.training import train as train_recipe
    from edgeaudio_models.workers import ALONE
    from edgeaudio_runtime.staging import refuse_overwrite

    workers = workers or ALONE
    recipe = phrase_recipe(load_recipe(source), phrase)
    if epochs is not None:
        recipe = replace(recipe, training=replace(recipe.training, epochs=epochs))
    refuse_overwrite(output / "checkpoint", force=force)
    if stream is None and validation is not None:
        raise click.UsageError(f"--validation={validation} goes with a stream in --data; a folder has its own split")
    if recipe.corpus.kind == "wake_word":
        if workers.size > 1:
            raise click.UsageError(f"{workers.size} processes must be 1 for a wake word; start it without torchrun")
        with _reports(recipe, log_dir) as report:
            return run_wake_word(recipe, folder, output, cache=cache, force=force, progress=report)
    with workers.leader_first():
        data = _load(recipe, folder, cache) if stream is None else load_stream_data(recipe, stream, validation)
    if not workers.leads:
        return train_recipe(recipe, data, output, force=force, workers=workers)
    heard = f"{len(data.train)} clips{' of a stream at a time' if stream is not None else ''}"
    say(f"training {recipe.name}: {heard}, {len(data.validation)} to choose by")
    with _reports(recipe, log_dir) as report:
        return train_recipe(recipe, data, output, force=force, progress=report, workers=workers)


def _load(recipe: Recipe, folder: Path | None, cache: Path | None) -> TrainingData:
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import load_training_data

    with progress_bar("loading clips") as progress:
        return load_training_data(
            recipe, data_folder=folder, cache_folder=cache or default_cache_folder(), progress=progress
        )


@contextmanager
def _reports(recipe: Recipe, log_dir: Path | None) -> Iterator[Progress]:
    """A progress callable for the bar, a line an epoch, and the scalars where they are wanted."""
    from contextlib import ExitStack

    from edgeaudio_models.scalars import tensorboard_scalars

    with ExitStack() as contexts:
        bar = contexts.enter_context(progress_bar(f"training {recipe.name}"))
        scalars = contexts.enter_context(tensorboard_scalars(log_dir)) if log_dir is not None else None

        def report(state: TrainingProgress) -> None:
            bar(state.step, state.steps)
            if scalars is not None:
                scalars(state)
            if state.score is not None:
                say(f"epoch {state.epoch} of {state.epochs}: loss {state.loss:.3f}, validation {state.score:.4f}")

        yield report
