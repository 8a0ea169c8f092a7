"""``edgeaudio sweep``."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, cache_option, command_line, echo_json, force_option, json_option
from edgeaudio.sweep.variants import VARIANTS, first_variants

if TYPE_CHECKING:
    from edgeaudio.sweep.results import SweepResult


@click.command()
@click.argument("checkpoint", type=PathType)
@click.option("--data", "folder", type=PathType, required=True, help="Corpus to calibrate and to judge on.")
@click.option("--split", default="validation", show_default=True, help="Split to judge on.")
@click.option("--methods", default="", help="Names joined by commas (default: all).")
@click.option("--calibrations", default="", help="Names joined by commas (default: all).")
@click.option("--backends", default="", help="Names joined by commas (default: both).")
@click.option("--recovery", default="none", show_default=True, help='Joined by commas: "none", or steps joined by "+".')
@click.option("--variants", type=int, default=len(VARIANTS), show_default=True, help="Ways to hear each clip.")
@click.option("--clips", type=click.IntRange(min=1), help="Number of calibration clips; default: the recipe's.")
@click.option("--output", type=PathType, help="Where cells and reports are kept (default: sweep, by the checkpoint).")
@cache_option
@force_option
@json_option
def sweep(checkpoint: Path, folder: Path, as_json: bool, **options: Any) -> None:
    """Quantize CHECKPOINT in every way and tell what each costs and saves.

    Finished cells are kept in the output; the same command goes on where it was stopped. Cells are chosen on the
    validation split and reported on the test split: sweep both into the same output, validation first.
    """
    from edgeaudio.sweep.report import render_text

    result = run_and_write(checkpoint, folder, command=command_line(), **options)
    if as_json:
        echo_json(result.to_dict())
    else:
        click.echo(render_text(result))


def run_and_write(
    checkpoint: Path,
    folder: Path,
    *,
    command: str,
    split: str = "validation",
    methods: str = "",
    calibrations: str = "",
    backends: str = "",
    recovery: str = "none",
    variants: int = len(VARIANTS),
    clips: int | None = None,
    output: Path | None = None,
    cache: Path | None = None,
    force: bool = False,
) -> SweepResult:
    """Run a sweep, write ``sweep.json`` and ``sweep.html`` to the folder of its split, and return it."""
    from edgeaudio.sweep.grid import make_grid
    from edgeaudio.sweep.results import with_choice
    from edgeaudio.sweep.run import load_input, run_sweep
    from edgeaudio.sweep.store import SweepStore

    importlib.import_module("matplotlib")  # Missed before the work begins, not after it.
    cells = make_grid(
        methods=_names(methods), calibrations=_names(calibrations), backends=_names(backends),
        recoveries=_names(recovery),
    )  # fmt: skip
    heard = first_variants(variants)
    given = load_input(checkpoint, folder, split=split, cache=cache)
    store = SweepStore(output or checkpoint.parent / "sweep", checkpoint=given.digest, force=force)
    result = run_sweep(given, cells, heard, store, n_calibration=clips)
    result = with_choice(dataclasses.replace(result, command=command), store.folder("validation") / "sweep.json")
    _write(store.folder(split), result)
    return result


def _write(folder: Path, result: SweepResult) -> None:
    from edgeaudio.sweep.report import render_html
    from edgeaudio.sweep.store import write_json
    from edgeaudio_runtime.staging import staged_file

    write_json(folder / "sweep.json", result.to_dict())
    with staged_file(folder / "sweep.html") as path:
        path.write_text(render_html(result), encoding="utf-8")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
