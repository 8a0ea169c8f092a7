"""Where a word lies: the floor is a quantile, the stretches those above the level, without what makes numpy slow."""

import subprocess
import sys

import numpy as np
import pytest

from edgeaudio_runtime.extent import StreamClock, _floor, active_region

CLOCK = StreamClock(
    sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4, outputs_per_step=1,
    window_frames=100,
)  # fmt: skip
FLOAT32_RTOL = 1e-6
"""``np.quantile`` of float32 interpolates in float32 or float64, as its version goes."""


@pytest.mark.parametrize("n_unknown", [0, 1, 60, 148])
def test_the_floor_is_the_tenth_quantile_of_what_is_known(n_unknown: int) -> None:
    past = np.random.default_rng(n_unknown).normal(5.0, 1.0, 149).astype(np.float32)
    past[:n_unknown] = np.nan
    assert _floor(past) == pytest.approx(np.quantile(past[n_unknown:], 0.1), rel=FLOAT32_RTOL)
    assert _floor(np.full(3, np.nan, dtype=np.float32)) is None


@pytest.mark.parametrize(
    ("stretches", "found"),
    [
        ([(60, 79)], (60, 79)),
        ([(60, 79), (90, 99)], (60, 99)),  # a gap of 0.1 s is bridged
        ([(60, 79), (91, 99)], (60, 79)),  # a longer one is not, and the heavier stretch wins
        ([(60, 62), (80, 83)], (80, 83)),  # a click of 30 ms loses
        ([(60, 62)], (60, 62)),  # unless nothing else is there
        ([(140, 149)], (140, 149)),  # up to the newest frame
        ([(40, 69)], (40, 69)),  # begins before the averaging window
    ],
)
def test_the_word_is_the_heaviest_stretch(stretches: list[tuple[int, int]], found: tuple[int, int]) -> None:
    past = np.zeros(150, dtype=np.float32)
    for first, last in stretches:
        past[first : last + 1] = 1.0
    assert active_region(past, clock=CLOCK, taken=-1) == found


def test_the_first_event_loads_no_module_of_numpy() -> None:
    # np.quantile loads numpy.ma, which takes longer than many seconds of listening.
    source = """
import numpy as np, sys
from edgeaudio_runtime.extent import StreamClock, active_region
before = set(sys.modules)
clock = StreamClock(sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4,
                    outputs_per_step=1, window_frames=100)
past = np.zeros(150, dtype=np.float32)
past[60:80] = 1
active_region(past, clock=clock, taken=-1)
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
