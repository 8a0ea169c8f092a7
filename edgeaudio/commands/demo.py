"""``edgeaudio demo``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeaudio.commands.options import PathType


@click.command()
@click.option(
    "--output", type=PathType, default=Path("build/demo"), show_default=True, help="Folder for everything it makes."
)
@click.option("--recipe", default="kws-demo", show_default=True, help="A recipe that synthesizes its clips.")
def demo(output: Path, recipe: str) -> None:
    """Synthesize speech, train, quantize, export, listen to a WAV with the bundle, print the proof."""
    from edgeaudio.demo import run_demo

    raise SystemExit(0 if run_demo(output, recipe) else 1)
