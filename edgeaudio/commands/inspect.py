"""``edgeaudio inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeaudio.commands.options import PathType, echo_json, json_option


@click.command()
@click.argument("bundle", type=PathType)
@json_option
def inspect(bundle: Path, as_json: bool) -> None:
    """Say what BUNDLE is, and how much of it really runs in int8 on each engine."""
    from edgeaudio.card import only_for
    from edgeaudio.inspection import effective_precision
    from edgeaudio_runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    precision = effective_precision(opened)
    if as_json:
        echo_json({**opened.manifest.to_dict(), "effective_precision": precision})
        return
    network = opened.manifest.network
    click.echo(f"{opened.name}: {opened.task}, labels {', '.join(opened.labels)}")
    field = f"receptive field {network.receptive_field_frames}"
    click.echo(f"step {network.step_frames} frames, {field}, {len(network.states)} states")
    recipe = opened.manifest.quantization.recipe
    if recipe.get("only_for"):
        click.echo(only_for(recipe))
    for engine, row in precision.items():
        click.echo(
            f"{engine:14s}{row['int8_macs_share']:7.1%} of {row['macs_per_step']:,} multiply-accumulates a step and "
            f"{row['int8_bytes_share']:.1%} of {row['weight_bytes']:,} weight bytes in int8"
        )
    for artifact in opened.manifest.artifacts:
        click.echo(f"{artifact.path:22s}{artifact.size:10,d} bytes  sha256 {artifact.sha256[:16]}")
