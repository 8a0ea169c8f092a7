"""What a fresh process pays: import time, time to the first answer, peak memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
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
import json, sys, time
{PEAK_KB}
import numpy
numpy_kb, t0 = peak_kb(), time.perf_counter()
from edgeaudio_runtime import AudioStream, open_bundle
t1 = time.perf_counter()
stream = AudioStream(open_bundle(sys.argv[1]), engine=sys.argv[2])
stream.process(numpy.zeros(16000, dtype=numpy.int16))
t2 = time.perf_counter()
for _ in range(60):
    stream.process(numpy.zeros(16000, dtype=numpy.int16))
times = dict(import_ms=1e3 * (t1 - t0), first_second_ms=1e3 * (t2 - t0))
print(json.dumps(dict(times, numpy_peak_kb=numpy_kb, peak_kb=peak_kb())))
"""


def measure_cold_start(bundle: Path, engine: str, *, runs: int = 3) -> dict[str, float]:
    """Medians over fresh interpreters.

    Returns:
        ``import_ms`` of what opens a bundle and listens, beyond numpy; ``first_answer_ms`` (import, open, verify, one
        second of audio), ``peak_memory_mb`` of the process after a minute of audio, and
        ``peak_memory_beyond_numpy_mb``.
    """
    results = [_probe(bundle, engine) for _ in range(runs)]
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    return {
        "import_ms": round(middle["import_ms"], 1),
        "first_answer_ms": round(middle["first_second_ms"], 1),
        "peak_memory_mb": round(middle["peak_kb"] / 1024, 1),
        "peak_memory_beyond_numpy_mb": round((middle["peak_kb"] - middle["numpy_peak_kb"]) / 1024, 1),
    }


def _probe(bundle: Path, engine: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, str(bundle), engine], capture_output=True, text=True, check=True
    )
    values: dict[str, float] = json.loads(done.stdout)
    return values
