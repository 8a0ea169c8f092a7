"""Options that several commands share."""

from __future__ import annotations

import json
import shlex
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


def scale_options(command: Command) -> Command:
    """``--workers``, ``--address`` and ``--work``: who counts events in recordings without a keyword."""
    for name, kind, text in (
        ("--work", PathType, "Keep what was counted here, so that a run that is ended goes on where it was."),
        ("--address", str, "Count on the Ray cluster at this address ('auto', 'ray://HOST:PORT')."),
        ("--workers", click.IntRange(min=1), "Count in so many Ray processes; 'edgeaudio[scale]' brings Ray."),
    ):
        command = click.option(name, type=kind, help=text)(command)
    return command


def echo_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def command_line() -> str:
    """The command at work as one types it, without the options that change no number."""
    context = click.get_current_context()
    words = ["edgeaudio", str(context.info_name)]
    for parameter in context.command.params:
        assert parameter.name is not None
        value = context.params[parameter.name]
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif parameter.name not in _SAME_NUMBERS and value not in (None, parameter.get_default(context)):
            words += [parameter.opts[-1], str(value)]
    return shlex.join(words)


_SAME_NUMBERS = (
    "as_json", "force", "cache", "output", "write", "junit", "html", "badge", "workers", "address", "work",
)  # fmt: skip
