"""What a sweep keeps on disk: a bundle and decisions a cell, each under a key of everything that determines it.

A kill loses the cell at work; a cell whose key still holds is not computed again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio.sweep.grid import Cell
from edgeaudio.sweep.hearings import Decisions
from edgeaudio_runtime.errors import EdgeAudioError
from edgeaudio_runtime.staging import OutputError, recover, staged_directory, staged_file

SCHEMA_VERSION = 1
_COMPUTING = ("edgeaudio.exporting", "edgeaudio.sweep", "edgeaudio_models", "edgeaudio_export", "edgeaudio_runtime")
"""Modules whose source decides what a cell holds."""


class SweepStore:
    """The output directory of sweeps of one checkpoint: ``bundles/`` for all splits, a folder for each split."""

    def __init__(self, root: Path, *, checkpoint: str, force: bool) -> None:
        """Open or create.

        Args:
            root: The directory.
            checkpoint: Digest of the checkpoint.
            force: Drop what is there and begin anew.

        Raises:
            OutputError: The directory is something else, or a sweep of another checkpoint.
        """
        self.root = root
        about = {"schema_version": SCHEMA_VERSION, "sweep_of": checkpoint}
        if root.exists() and force:
            _check_ours(root)
            shutil.rmtree(root)
        if root.exists() and _read(root / "about.json") != about:
            raise OutputError(
                f"{root} holds something other than a sweep of this checkpoint; give another --output or --force"
            )
        write_json(root / "about.json", about)

    def bundle(self, cell: Cell, key: str, write: Callable[[Path], None]) -> Path | str:
        """The bundle of a cell, or the one line with which it is refused; ``write`` fills an empty directory."""
        path, record = self.root / "bundles" / cell.name, self.root / "bundles" / f"{cell.name}.json"
        recover(path)
        known = _read(record)
        if known is None or known["key"] != key or not (known["refused"] or path.is_dir()):
            record.unlink(missing_ok=True)
            refused = None
            try:
                with staged_directory(path, force=True) as staged:
                    write(staged)
            except EdgeAudioError as error:
                shutil.rmtree(path, ignore_errors=True)
                refused = " ".join(str(error).split())
            known = {"key": key, "refused": refused}
            write_json(record, known)
        return str(known["refused"]) if known["refused"] else path

    def decisions(self, name: str, key: str, split: str, compute: Callable[[], Decisions]) -> Decisions:
        """Decisions ``[n, variants]`` on a split, kept under a name."""
        path = self.folder(split) / f"{name}.json"
        known = _read(path)
        if known is None or known["key"] != key:
            known = {"key": key, "decisions": compute().tolist()}
            write_json(path, known)
        return np.array(known["decisions"], dtype=np.intp)

    def folder(self, split: str) -> Path:
        """Where the results on a split are."""
        return self.root / split


def write_json(path: Path, document: object) -> None:
    """Write a JSON file whole."""
    with staged_file(path) as staged:
        staged.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def key_of(*parts: object) -> str:
    """Hex digest of JSON-ready values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Hex digest of the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def digest_of_sources() -> str:
    """Hex digest of the Python sources that compute a cell: a changed line means a changed cell, for all we know."""
    digest = hashlib.sha256()
    for name in _COMPUTING:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for path in files:
            digest.update(f"{name}\0{path.name}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _check_ours(root: Path) -> None:
    if any(root.iterdir()) and "sweep_of" not in (_read(root / "about.json") or {}):
        raise OutputError(f"{root} holds something other than a sweep, which --force does not replace; remove it first")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
