"""``edgeaudio bench``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeaudio.commands.options import PathType, echo_json, json_option


@click.command()
@click.argument("bundle", type=PathType)
@click.option(
    "--rounds", type=click.IntRange(min=5), default=60, show_default=True, help="Rounds of interleaved timing."
)
@click.option("--audio", type=PathType, help="Recording to hear, at the bundle's rate; default: noise like syllables.")
@json_option
def bench(bundle: Path, rounds: int, audio: Path | None, as_json: bool) -> None:
    """Time BUNDLE on this machine: front end, engines, whole pipeline, cold start, memory, sizes."""
    from edgeaudio.bench.benchmark import benchmark, recorded_audio
    from edgeaudio.bench.report import render

    result = benchmark(bundle, rounds=rounds, audio=None if audio is None else recorded_audio(bundle, audio))
    if as_json:
        echo_json(result)
    else:
        click.echo(render(result))
