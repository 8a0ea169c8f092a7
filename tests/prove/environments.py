"""Fresh environments with the runtime's wheel in them, and the self-test of a bundle there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def find_python(version: str) -> Path | None:
    """An interpreter of that version on PATH or under pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True), shutil.which(f"python{version}")]
    for candidate in filter(None, [sys.executable, *candidates]):
        probe = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:
            return Path(candidate)
    return None


def checked(command: list[str | Path], **kwargs: object) -> str:
    """Standard output of a command that must end well."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(python: Path, place: Path, *requirements: str | Path) -> Path:
    """A fresh environment with these packages; returns its bin directory."""
    # This environment's pip serves the new one: bootstrapping another pip would take half of the time.
    checked([python, "-m", "venv", "--without-pip", place])
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "--quiet", "--disable-pip-version-check"]
    checked([*pip, "install", "--no-input", "--no-compile", "--only-binary", ":all:", *requirements])
    return scripts


def run_selftest(scripts: Path, bundle: Path, engine: str) -> subprocess.CompletedProcess[str]:
    """``edgeaudio-run BUNDLE --selftest --json`` in that environment and in no other."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(scripts / "edgeaudio-run"), str(bundle), "--selftest", "--engine", engine, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean, cwd=bundle.parent)


def self_test(scripts: Path, bundle: Path, engine: str) -> dict[str, object]:
    """The report of a self-test that must end well."""
    done = run_selftest(scripts, bundle, engine)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report: dict[str, object] = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    return report


def build_wheel(place: Path, **environment: str) -> Path:
    """The runtime's wheel, built without isolation (hatchling is part of the dev extra)."""
    source = place / "source"
    shutil.copytree(
        ROOT / "runtime", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build")
    )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist", source]
    checked(command, env={**os.environ, **environment})
    return next((place / "dist").glob("edgeaudio_runtime-*.whl"))
