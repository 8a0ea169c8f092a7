"""``edgeaudio zoo``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.progress import progress_bar
from edgeaudio.zoo.listing import listed_entries, render_listing
from edgeaudio_models.zoo_entries import BUNDLE, CARD_TEXT, RECIPE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.staging import staged_directory

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint

Command = Callable[..., Any]


@click.group()
def zoo() -> None:
    """Trained models: look at them, take one, make one."""


@zoo.command("list")
@json_option
def list_entries(as_json: bool) -> None:
    """List the models that come with the package."""
    rows = listed_entries()
    if as_json:
        echo_json(rows)
    else:
        click.echo(render_listing(rows))


@zoo.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the card of NAME, an entry or a folder with one."""
    click.echo((entry_folder(name) / CARD_TEXT).read_text("utf-8"), nl=False)


@zoo.command()
@click.argument("name")
@click.argument("output", type=PathType)
@force_option
def copy(name: str, output: Path, force: bool) -> None:
    """Copy the int8 bundle of NAME to OUTPUT, for a device, `edgeaudio-run`, `bench`, `inspect`."""
    source = entry_folder(name) / BUNDLE
    with staged_directory(output, force=force) as staged:
        shutil.copytree(source, staged, dirs_exist_ok=True)
    click.echo(output)


def measure_options(command: Command) -> Command:
    """What ``build`` and ``retrain`` measure an entry on."""
    for option in (
        click.option("--rounds", type=click.IntRange(min=0), default=60, show_default=True, help="Of timing; 0: none."),
        click.option("--background", type=PathType, help="Recordings that are not for the model: detections an hour."),
        click.option(
            "--noise", multiple=True, metavar="NAME=PATTERN", help="Noise training has not heard; may be repeated."
        ),
        click.option("--split", help="Split to measure on; default: test, which the corpus must have."),
        click.option(
            "--negatives", multiple=True, type=PathType, help="Of a wake word: speech without it; may be repeated."
        ),
        click.option(
            "--test", type=PathType, help="Corpus to measure on, of a wake word recordings of it; default: --data."
        ),
    ):
        command = option(command)
    return command


@zoo.command()
@click.argument("checkpoint", type=PathType)
@click.option("--data", "folder", type=PathType, help="Corpus to calibrate on, as for `export`.")
@click.option("--recipe", help="Name or TOML file whose calibration and detector are taken; default: the checkpoint's.")
@measure_options
@click.option("--output", type=PathType, required=True, help="Entry to write.")
@cache_option
@force_option
@json_option
def build(checkpoint: Path, folder: Path | None, output: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Make an entry of CHECKPOINT: float16 weights, int8 bundle, certificate, card; exit 1 if it did not pass."""
    from edgeaudio_models.checkpoint import load_checkpoint

    card = run_build(load_checkpoint(checkpoint), folder, output, force=force, **options)
    _echo_entry(card, output, as_json=as_json)


@zoo.command()
@click.argument("name")
@click.option("--data", "folder", type=PathType, help="Corpus to train and calibrate on, as for `train`.")
@measure_options
@click.option("--output", type=PathType, required=True, help="Folder for the training and, below it, the new entry.")
@cache_option
@force_option
@json_option
def retrain(name: str, folder: Path | None, output: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Train NAME anew by its own recipe and leave OUTPUT/entry; a killed run goes on where it stopped."""
    from edgeaudio.commands.train import run_training

    recipe = entry_folder(name) / RECIPE
    checkpoint = run_training(str(recipe), folder, output, cache=options["cache"], force=force)
    card = run_build(checkpoint, folder, output / "entry", force=force, **options)
    _echo_entry(card, output / "entry", as_json=as_json)


@zoo.command("time")
@click.argument("name")
@click.option("--rounds", type=click.IntRange(min=5), default=200, show_default=True, help="Of timing.")
def time_entry(name: str, rounds: int) -> None:
    """Time the bundle of NAME, an entry or a folder with one, on this machine, and write its card anew."""
    from edgeaudio.zoo.building import retime

    retime(entry_folder(name), rounds=rounds)
    click.echo(entry_folder(name) / CARD_TEXT)


def run_build(
    checkpoint: Checkpoint,
    folder: Path | None,
    output: Path,
    *,
    force: bool,
    recipe: str | None = None,
    cache: Path | None = None,
    test: Path | None = None,
    **measured: Any,
) -> dict[str, Any]:
    """Load the clips of the checkpoint's recipe, then build the entry and return its card."""
    from edgeaudio.zoo.building import build_entry, with_calibration
    from edgeaudio.zoo.judging import Measurements
    from edgeaudio.zoo.reproduce import retrain_command
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe import load_recipe
    from edgeaudio_models.recipe_data import load_training_data
    from edgeaudio_runtime.staging import refuse_overwrite

    refuse_overwrite(output, force=force)
    if recipe is not None:
        checkpoint = with_calibration(checkpoint, load_recipe(recipe))
    tested = test or folder
    if tested is None:
        raise SpecError("neither --data nor --test is given; an entry is measured on recordings, name them")
    measure = Measurements(folder=tested, cache=cache or default_cache_folder(), **measured)
    with progress_bar("loading clips") as progress:
        data = load_training_data(checkpoint.recipe, data_folder=folder, cache_folder=measure.cache, progress=progress)
    commands = (retrain_command(checkpoint.name, folder, measure),)
    return build_entry(checkpoint, data, output, measure=measure, commands=commands, force=force)


def _echo_entry(card: dict[str, Any], output: Path, *, as_json: bool) -> None:
    if as_json:
        echo_json(card)
    else:
        click.echo(card["headline"])
        click.echo(output)
    proof = open_bundle(output / BUNDLE).parity
    raise SystemExit(0 if proof is not None and proof["passed"] else 1)
