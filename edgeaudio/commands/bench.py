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
@json_option
def bench(bundle: Path, rounds: int, as_json: bool) -> None:
    """Time BUNDLE on this machine: front end, engines, whole pipeline, cold start, memory, sizes."""
    from edgeaudio.bench.benchmark import benchmark
    from edgeaudio.bench.report import render

    result = benchmark(bundle, rounds=rounds)
    if as_json:
        echo_json(result)
    else:
        click.echo(render(result))
