"""Progress on stderr: a bar where someone watches, a line now and then where nobody does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]

_LINE_EVERY_S = 10.0
"""Pause between lines where stderr is a file."""


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yield a callable for (done, total); total None where it is unknown."""
    if sys.stderr.isatty():
        with _rich_bar(title) as progress:
            yield progress
        return
    yield _lines(title)


@contextmanager
def _rich_bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> Progress:
    last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            say(f"{title}: {done}{f' of {total}' if total is not None else ''}")

    return report


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
