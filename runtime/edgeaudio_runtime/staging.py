"""Write whole or not at all: a temporary name beside the target, then a swap that recovers after a kill."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeaudio_runtime.errors import EdgeAudioError


class OutputError(EdgeAudioError):
    """An output cannot be written where it was asked for."""


def recover(target: Path) -> None:
    """Undo what a kill left beside ``target``: put a set-aside predecessor back if its successor never arrived."""
    aside = _aside(target)
    if aside.exists() and not target.exists():
        os.replace(aside, target)
    for leftover in (aside, _staged(target)):
        _remove(leftover)


def refuse_overwrite(target: Path, *, force: bool) -> None:
    """Raise OutputError when ``target`` exists and ``force`` is false; call it before long work starts."""
    recover(target)
    if target.exists() and not force:
        raise OutputError(f"{target} exists and nothing is overwritten; remove it or pass --force")


@contextmanager
def staged_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory that becomes ``target`` when the block ends well and vanishes when it does not.

    Raises OutputError: ``target`` exists and ``force`` is false.
    """
    refuse_overwrite(target, force=force)
    staged = _staged(target)
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in staged.rglob("*"):
            _sync(path)
        _swap(staged, target)
    finally:
        _remove(staged)


@contextmanager
def staged_file(target: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a path beside ``target`` to write; it replaces ``target`` when the block ends well, else it vanishes."""
    if target.exists() and not force:
        raise OutputError(f"{target} exists and nothing is overwritten; remove it or pass --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = _staged(target)
    try:
        yield staged
        _sync(staged)
        os.replace(staged, target)
    finally:
        _remove(staged)


def _swap(staged: Path, target: Path) -> None:
    # A directory cannot replace another in one step; between these renames recover() finds the old one set aside.
    aside = _aside(target)
    if target.exists():
        os.replace(target, aside)
    os.replace(staged, target)
    _remove(aside)


def _staged(target: Path) -> Path:
    return target.with_name(f".{target.name}.staged")


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.aside")


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
