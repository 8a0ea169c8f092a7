"""Every Python, numpy and engine together: what has wheels proves itself, the rest is listed with the reason."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.prove.environments import PYTHONS, build_wheel, find_python, install, run_selftest
from tests.runtime.conftest import write_test_bundle

NUMPYS = {"numpy 1.26": "numpy==1.26.*", "numpy 2": "numpy>=2"}
ENGINES = {
    "numpy": ("numpy", ()),
    "onnxruntime": ("onnxruntime", ("onnxruntime",)),
    "ai-edge-litert": ("litert", ("ai-edge-litert",)),
    "tflite-runtime": ("litert", ("tflite-runtime==2.14.0",)),
}
"""Column to the engine's name in a bundle, and what to install for it."""

PASSED, NO_WHEEL, FAILED = "passed", "no wheel", "FAILED"
KNOWN_FAILURES = {
    ("numpy 2", "tflite-runtime"): "tflite-runtime 2.14 was compiled for numpy 1 and cannot be imported beside numpy 2"
}
"""Cells that install and cannot work, whoever calls the library."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One environment and how the self-test ended in it."""

    python: str
    numpy: str
    engine: str
    status: str
    """One of PASSED, NO_WHEEL, FAILED, or "impossible" for a known failure."""
    detail: str
    """Versions that computed, or the reason."""


def run_matrix(place: Path, *, progress: Callable[[str], None]) -> list[Cell]:
    """Run all cells, each in a fresh environment; write ``matrix.json`` and ``matrix.md`` into ``place``."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        bundle = write_test_bundle(Path(folder) / "bundle", engines=("numpy", "onnxruntime", "litert"))
        cells = []
        for cell in _cells(wheel, bundle, Path(folder)):
            cells.append(cell)
            progress(f"Python {cell.python}, {cell.numpy}, {cell.engine}: {cell.status} ({cell.detail})")
    place.mkdir(parents=True, exist_ok=True)
    (place / "matrix.json").write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    (place / "matrix.md").write_text(table(cells))
    return cells


def _cells(wheel: Path, bundle: Path, folder: Path) -> Iterator[Cell]:
    for version in PYTHONS:
        python = find_python(version)
        for numpy in NUMPYS:
            for engine in ENGINES:
                if python is None:
                    status, detail = NO_WHEEL, f"no Python {version} on PATH or under pyenv"
                else:
                    status, detail = _proved(python, numpy, engine, wheel, bundle, folder)
                yield Cell(python=version, numpy=numpy, engine=engine, status=status, detail=detail)


def _proved(python: Path, numpy: str, engine: str, wheel: Path, bundle: Path, folder: Path) -> tuple[str, str]:
    name, packages = ENGINES[engine]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        try:
            scripts = install(python, Path(place) / "venv", wheel, NUMPYS[numpy], *packages)
        except AssertionError as error:
            return NO_WHEEL, reason_of(str(error))
        done = run_selftest(scripts, bundle, name)
    if done.returncode == 0 and json.loads(done.stdout)["passed"]:
        return PASSED, _versions(json.loads(done.stdout))
    if (numpy, engine) in KNOWN_FAILURES:
        return "impossible", KNOWN_FAILURES[numpy, engine]
    return FAILED, (done.stderr.strip() or done.stdout).splitlines()[-1]


def _versions(report: dict[str, object]) -> str:
    return str(report["version"])


def reason_of(output: str) -> str:
    """Why pip could not install, in one line."""
    lines = [line for line in output.splitlines() if line.startswith(("ERROR:", "The conflict is caused"))]
    wanted = [line for line in lines if "No matching distribution" in line or "Cannot install" in line] or lines
    if not wanted:
        raise AssertionError(output)
    return re.sub(r"^ERROR: |\S*/(?=edgeaudio_runtime)", "", wanted[-1]).strip()


def table(cells: list[Cell]) -> str:
    """Markdown: a row for Python and numpy, a column for each engine, then the reasons."""
    lines = ["| Python | numpy | " + " | ".join(ENGINES) + " |", "|---" * (2 + len(ENGINES)) + "|"]
    by_key = {(cell.python, cell.numpy, cell.engine): cell for cell in cells}
    for python in PYTHONS:
        for numpy in NUMPYS:
            row = [by_key[python, numpy, engine] for engine in ENGINES]
            lines.append(f"| {python} | {numpy} | " + " | ".join(map(_text, row)) + " |")
    reasons = [
        f"- Python {cell.python}, {cell.numpy}, {cell.engine}: {cell.detail}" for cell in cells if cell.status != PASSED
    ]
    return "\n".join([*lines, "", *reasons]) + "\n"


def _text(cell: Cell) -> str:
    return f"passed: {cell.detail}" if cell.status == PASSED else cell.status
