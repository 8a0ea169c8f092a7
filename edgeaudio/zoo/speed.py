"""How fast a bundle is here; the machine is named by its processor's model and by nothing else."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from edgeaudio.bench.benchmark import benchmark


def speed_figures(bundle: Path, *, rounds: int) -> dict[str, Any]:
    """Median microseconds per 10 ms of audio, engine by engine and from PCM to events; what a fresh process pays."""
    found = benchmark(bundle, rounds=rounds)
    return {
        "processor": processor_model(),
        "unit": found["unit"],
        "engines": {name: row["median_us"] for name, row in found["engines"].items()},
        "pipeline": {name: row["median_us"] for name, row in found["pipeline"].items()},
        "cold_start": found["cold_start"],
    }


def processor_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor, or its architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()
