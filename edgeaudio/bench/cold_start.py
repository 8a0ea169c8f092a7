"""What a fresh process pays: import time, time to the first answer, peak memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PEAK_KB = """
def peak_kb():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource, sys
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 if sys.platform == "darwin" else peak
"""
"""Source of ``peak_kb()``, the peak memory of the process that runs it, in kB.

On Linux it is VmHWM, the peak of the memory image: ru_maxrss survives exec there and begins at the size of the parent.
"""

# Runs in a fresh interpreter; peak memory is read twice, to tell the interpreter and numpy from us.
_PROBE = f"""
import json, sys
from time import process_time
{PEAK_KB}
t0 = process_time()
import numpy
numpy_kb, t1 = peak_kb(), process_time()
from edgeaudio_runtime import AudioStream, open_bundle
t2 = process_time()
stream = AudioStream(open_bundle(sys.argv[1]), engine=sys.argv[2])
stream.process(numpy.zeros(16000, dtype=numpy.int16))
t3 = process_time()
for _ in range(60):
    stream.process(numpy.zeros(16000, dtype=numpy.int16))
times = dict(numpy_import_ms=1e3 * (t1 - t0), import_ms=1e3 * (t2 - t1), first_answer_ms=1e3 * (t3 - t1))
print(json.dumps(dict(times, numpy_peak_kb=numpy_kb, peak_kb=peak_kb())))
"""


def measure_cold_start(bundle: Path, engine: str, *, runs: int = 3) -> dict[str, float]:
    """Medians over fresh interpreters, in processor time; the byte code is there, as after an installation.

    Returns:
        ``import_ms`` of what opens a bundle and listens, beyond numpy, and beside it ``numpy_import_ms``;
        ``first_answer_ms`` (import beyond numpy, open, verify, one second of audio), ``peak_memory_mb`` of the process
        after a minute of audio, and ``peak_memory_beyond_numpy_mb``.
    """
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": place}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _probe(bundle, engine, environment)  # writes the byte code
        results = [_probe(bundle, engine, environment) for _ in range(runs)]
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    return {
        **{name: round(middle[name], 1) for name in ("numpy_import_ms", "import_ms", "first_answer_ms")},
        "peak_memory_mb": round(middle["peak_kb"] / 1024, 1),
        "peak_memory_beyond_numpy_mb": round((middle["peak_kb"] - middle["numpy_peak_kb"]) / 1024, 1),
    }


def _probe(bundle: Path, engine: str, environment: Mapping[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, str(bundle), engine],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    values: dict[str, float] = json.loads(done.stdout)
    return values
