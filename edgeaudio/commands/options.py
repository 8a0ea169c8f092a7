"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

PathType = click.Path(path_type=Path)


def json_option(command: Command) -> Command:
    """``--json``: the result as one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def force_option(command: Command) -> Command:
    """``--force``: replace an existing output."""
    return click.option("--force", is_flag=True, help="Replace the output if it exists.")(command)


def cache_option(command: Command) -> Command:
    """``--cache DIR``: where decoded and synthesized clips are kept."""
    text = "Where decoded and synthesized clips are kept (default: $EDGEAUDIO_CACHE or the user's cache folder)."
    return click.option("--cache", type=PathType, help=text)(command)


def echo_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
