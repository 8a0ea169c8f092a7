"""What a fresh process pays is its own, whatever the process that started it holds."""

import subprocess
import sys

import numpy as np

from edgeaudio.bench.cold_start import PEAK_KB


def peak_kb_of_a_process_with(n_bytes: int) -> float:
    source = f"{PEAK_KB}\nballast = bytearray(b'1') * {n_bytes}\nprint(peak_kb())"
    return float(subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout)


def test_the_peak_of_a_process_is_not_that_of_its_parent() -> None:
    ballast = np.ones(40_000_000)  # 320 MB, in memory because written
    assert peak_kb_of_a_process_with(0) < ballast.nbytes / 1024 / 2


def test_the_peak_of_a_process_counts_what_it_holds() -> None:
    held = peak_kb_of_a_process_with(100 * 2**20) - peak_kb_of_a_process_with(0)
    # 100 MiB; other memory that comes and goes is far below a tenth of it.
    assert 90 * 1024 < held < 110 * 1024
