"""A day of audio, fed faster than real time: memory, time for a chunk and results stay what they were."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """One pass over the recording."""

    events: tuple[Event, ...]
    median_us: float
    """Processor time of this thread for a network step's worth of samples."""
    p99_us: float
    peak_bytes: int
    """Most memory of the process that was in RAM during the round."""


def recording(seconds: int) -> npt.NDArray[np.int16]:
    """Words of two kinds every few seconds; it begins and ends with quiet, as it will be heard in a circle."""
    starts = range(6, seconds - 6, WORD_EVERY_S)
    words = [("low" if i % 3 else "high", at + 0.37 * (i % 5), 0.3 + 0.05 * (i % 4)) for i, at in enumerate(starts)]
    return scene(words, seconds)


def soak(bundle: Bundle, *, engine: str, seconds: int, n_rounds: int, progress: Callable[[str], None]) -> list[Round]:
    """Feed the same recording ``n_rounds`` times to one stream, a network step at a time."""
    stream, pcm = AudioStream(bundle, engine=engine), recording(seconds)
    step = bundle.manifest.network.step_frames * bundle.features.hop_length
    if len(pcm) % step:
        raise ValueError(f"seconds={seconds} must be whole steps of {step} samples, or the rounds differ")
    rounds = []
    for i in range(n_rounds):
        rounds.append(_round(stream, pcm, step))
        latest = rounds[-1]
        progress(
            f"soak, {engine}: {(i + 1) * seconds / 3600:.1f} h, {len(latest.events)} events, "
            f"{latest.median_us:.1f} us a step, {latest.peak_bytes / 2**20:.1f} MB"
        )
    return rounds


def _round(stream: AudioStream, pcm: npt.NDArray[np.int16], step: int) -> Round:
    forget_peak()
    times = np.empty(len(pcm) // step, dtype=np.int64)
    events: list[Event] = []
    for i in range(len(times)):
        before = time.thread_time_ns()
        heard = stream.process(pcm[i * step : (i + 1) * step])
        times[i] = time.thread_time_ns() - before
        events += heard
    middle, late = np.percentile(times, (50, 99)) / 1e3
    return Round(events=tuple(events), median_us=float(middle), p99_us=float(late), peak_bytes=peak_bytes())


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system allows it; elsewhere it covers all rounds so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Most memory of this process that was in RAM since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def faults(rounds: list[Round], seconds: int) -> list[str]:
    """What changed that should not have."""
    first, last = rounds[1], rounds[-1]
    found = []
    if not first.events:
        found.append("nothing was heard")
    growth = last.peak_bytes - first.peak_bytes
    if growth > GROWTH_BYTES:
        found.append(f"memory grew by {growth} bytes")
    if last.median_us > SLOWDOWN * first.median_us:
        found.append(f"a step took {first.median_us:.1f} us and takes {last.median_us:.1f} us")
    for i, later in enumerate(rounds):
        reference = [_decided(event) for event in rounds[0].events]
        if [_decided(event) for event in later.events] != reference:
            found.append(f"round {i} heard something else than round 0")
            break
        drift = max(_drifts(rounds[0].events, later.events, i * seconds), default=0.0)
        if drift > TIME_ATOL_S:
            found.append(f"times of round {i} drifted by {drift} s")
            break
    return found


def _decided(event: Event) -> dict[str, object]:
    return {name: value for name, value in event.to_dict().items() if not name.endswith("_s")}


def _drifts(first: tuple[Event, ...], later: tuple[Event, ...], shift_s: int) -> list[float]:
    pairs = [(a.to_dict(), b.to_dict()) for a, b in zip(first, later, strict=True)]
    names = ("start_s", "end_s", "detected_s")
    return [abs(b[name] - shift_s - a[name]) for a, b in pairs for name in names if name in a]


def describe(engine: str, rounds: list[Round], seconds: int) -> str:
    """Figures of the second round and of the last, one line."""
    first, last = rounds[1], rounds[-1]
    total = len(rounds) * seconds / 3600
    return (
        f"soak, {engine}: {total:g} h of audio, {sum(len(r.events) for r in rounds)} events; second round and last: "
        f"median {first.median_us:.1f} and {last.median_us:.1f} us a step, p99 {first.p99_us:.1f} and "
        f"{last.p99_us:.1f} us, peak {first.peak_bytes / 2**20:.1f} and {last.peak_bytes / 2**20:.1f} MB"
    )
