"""``edgeaudio theory``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeaudio.commands.options import PathType, echo_json, force_option, json_option

if TYPE_CHECKING:
    from edgeaudio.theory_report import Theory


@click.command()
@click.argument("checkpoint", type=PathType, required=False)
@click.option("--output", type=PathType, help="HTML page to write, with plots.")
@force_option
@json_option
def theory(checkpoint: Path | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Say what quantizers of b bits can do, and what they do to the weights of CHECKPOINT.

    Without CHECKPOINT: the lines of theory for 2 to 8 bits. With it: every weight tensor, batch norms folded, at 8, 6
    and 4 bits, uniform per tensor and per channel, beside the best clip, Lloyd-Max levels and the bound.
    """
    from edgeaudio.theory_report import collect, render_text, to_document
    from edgeaudio_runtime.staging import refuse_overwrite

    if output is not None:
        refuse_overwrite(output, force=force)
        # Missing plots are better known before the weights are measured than after.
        import matplotlib  # noqa: F401
    result = collect(checkpoint)
    if output is not None:
        _write_page(output, result, force=force)
    if as_json:
        echo_json(to_document(result))
    else:
        click.echo(render_text(result))
        if output is not None:
            click.echo(output)


def _write_page(output: Path, result: Theory, *, force: bool) -> None:
    from edgeaudio.progress import say
    from edgeaudio.theory_page import render_theory
    from edgeaudio_runtime.staging import staged_file

    say("drawing the page")
    page = render_theory(result)
    with staged_file(output, force=force) as staged:
        staged.write_text(page, "utf-8")
