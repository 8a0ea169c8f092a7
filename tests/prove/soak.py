"""A day of audio, fed faster than real time: memory, time for a chunk and results stay what they were."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.stream import AudioStream
from tests.runtime.conftest import scene

SAMPLE_RATE = 16_000
WORD_EVERY_S = 7
GROWTH_BYTES = 2 * 2**20
"""Peak memory of a round may move by this from the second to the last: pages that the allocator keeps or returns,
not 88 bytes an event or a sample (16,000 a second would be 2.7 GB a day)."""
SLOWDOWN = 1.5
"""The median time of a step in the last round may be this many times that of the second."""
TIME_ATOL_S = 1e-9
"""Times of a day in float64 are exact to 1.5e-11 s; a float32 would be off by milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One pass over the recording. Its events are compared at once and not kept, or they would be what grows."""

    n_events: int
    """Events heard."""
    difference: str
    """What was heard otherwise than in the first round; "" if nothing."""
    median_us: float
    """Processor time of this thread for a chunk."""
    p99_us: float
    peak_bytes: int
    """Most memory of the process that was in RAM during the round."""


def recording(seconds: int) -> npt.NDArray[np.int16]:
    """Words of two kinds every few seconds; it begins and ends with quiet, as it will be heard in a circle."""
    starts = range(6, seconds - 6, WORD_EVERY_S)
    words = [("low" if i % 3 else "high", at + 0.37 * (i % 5), 0.3 + 0.05 * (i % 4)) for i, at in enumerate(starts)]
    return scene(words, seconds)


def soak(
    bundle: Bundle, *, engine: str, seconds: int, n_rounds: int, progress: Callable[[str], None], chunk_steps: int = 1
) -> list[Round]:
    """Feed the same recording ``n_rounds`` times to one stream, ``chunk_steps`` network steps at a time."""
    stream, pcm = AudioStream(bundle, engine=engine), recording(seconds)
    step = bundle.manifest.network.step_frames * bundle.features.hop_length
    if len(pcm) % (step * chunk_steps):
        raise ValueError(f"seconds={seconds} must be whole chunks of {step * chunk_steps} samples")
    rounds: list[Round] = []
    first: list[Event] = []
    for i in range(n_rounds):
        forget_peak()
        heard, times = _listen(stream, pcm, step * chunk_steps)
        first = first or heard
        middle, late = np.percentile(times, (50, 99)) / 1e3
        rounds.append(
            Round(
                n_events=len(heard),
                difference=difference(first, heard, i * seconds),
                median_us=float(middle),
                p99_us=float(late),
                peak_bytes=peak_bytes(),
            )
        )
        progress(f"{describe(engine, rounds, seconds)}")
    return rounds


def _listen(stream: AudioStream, pcm: npt.NDArray[np.int16], size: int) -> tuple[list[Event], npt.NDArray[np.int64]]:
    times = np.empty(len(pcm) // size, dtype=np.int64)
    events: list[Event] = []
    for i in range(len(times)):
        before = time.thread_time_ns()
        heard = stream.process(pcm[i * size : (i + 1) * size])
        times[i] = time.thread_time_ns() - before
        events += heard
    return events, times


def difference(first: list[Event], later: list[Event], shift_s: int) -> str:
    """What ``later`` has otherwise than ``first``, ``shift_s`` seconds on; "" if nothing."""
    if [_decided(event) for event in first] != [_decided(event) for event in later]:
        return "heard something else"
    drift = max(_drifts(first, later, shift_s), default=0.0)
    return f"times drifted by {drift:g} s" if drift > TIME_ATOL_S else ""


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system allows it; elsewhere it covers all rounds so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Most memory of this process that was in RAM since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def faults(rounds: list[Round]) -> list[str]:
    """What changed that should not have."""
    first, last = rounds[1], rounds[-1]
    found = [f"round {i}: {each.difference}" for i, each in enumerate(rounds) if each.difference]
    if not first.n_events:
        found.append("nothing was heard")
    growth = last.peak_bytes - first.peak_bytes
    if growth > GROWTH_BYTES:
        found.append(f"memory grew by {growth} bytes")
    if last.median_us > SLOWDOWN * first.median_us:
        found.append(f"a chunk took {first.median_us:.1f} us and takes {last.median_us:.1f} us")
    return found


def _decided(event: Event) -> dict[str, object]:
    return {name: value for name, value in _fields(event).items() if not name.endswith("_s") and name != "tokens"}


def _drifts(first: list[Event], later: list[Event], shift_s: int) -> list[float]:
    pairs = [(_fields(a), _fields(b)) for a, b in zip(first, later, strict=True)]
    return [abs(b[name] - shift_s - a[name]) for a, b in pairs for name in a if name.endswith("_s")]


def _fields(event: Event) -> dict[str, Any]:
    """As they are; the JSON form is rounded."""
    return {entry.name: getattr(event, entry.name) for entry in dataclasses.fields(event)}


def describe(engine: str, rounds: list[Round], seconds: int) -> str:
    """Figures of the second round (of the first, if it is alone) and of the last, one line."""
    first, last = rounds[min(1, len(rounds) - 1)], rounds[-1]
    total = len(rounds) * seconds / 3600
    return (
        f"soak, {engine}: {total:g} h of audio, {sum(each.n_events for each in rounds)} events; second round and last: "
        f"median {first.median_us:.1f} and {last.median_us:.1f} us a chunk, p99 {first.p99_us:.1f} and "
        f"{last.p99_us:.1f} us, peak {first.peak_bytes / 2**20:.1f} and {last.peak_bytes / 2**20:.1f} MB"
    )
