"""Properties of a stream, by the ten thousand: chunks change nothing, a reset begins anew, streams do not mix."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import PREFERENCE, Bundle, open_bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.stream import AudioStream, LogitStream
from tests.runtime.conftest import scene, write_test_bundle

Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]
Heard = tuple[tuple[str, ...], bytes]
"""Events as text, and the logit codes behind them."""

ARTIFACTS = ("numpy", "onnxruntime", "litert")
"""Engines with an artifact of their own."""
ENGINES = tuple(sorted(PREFERENCE))
DTYPES = ("int16", "float32")
FRONT_ENDS = ("native", "numpy")
N_THREADS = 4
SECONDS = 1.3
"""Long enough for a word and its end; a prime number of samples beyond, so that the tail is no whole step."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One engine, one type of samples, one front end, on the bundle of one task."""

    task: str
    engine: str
    dtype: str
    front_end: str

    def __str__(self) -> str:
        return f"{self.task}, {self.engine}, {self.dtype}, {self.front_end} front end"


SETTINGS = tuple(
    Setting(task=task, engine=engine, dtype=dtype, front_end=front_end)
    for engine, dtype, front_end, task in itertools.product(ENGINES, DTYPES, FRONT_ENDS, ("keyword", "ctc"))
)


class Subject:
    """A program, a few recordings, and what a fresh stream hears in each of them when it gets it whole."""

    def __init__(self, bundle: Bundle, program: Program, setting: Setting) -> None:
        self.bundle, self.program, self.setting = bundle, program, setting
        self.recordings = [self._as_dtype(pcm) for pcm in recordings()]
        self.expected = [self.hear(self.open(), pcm, [len(pcm)]) for pcm in self.recordings]

    def _as_dtype(self, pcm: npt.NDArray[np.int16]) -> Samples:
        return pcm if self.setting.dtype == "int16" else (pcm / np.float32(32768)).astype(np.float32)

    def open(self) -> tuple[AudioStream, LogitStream]:
        """A fresh stream, and its logits alone."""
        front_end: Any = self.setting.front_end
        events = AudioStream(self.bundle, program=self.program, front_end=front_end)
        return events, LogitStream(self.bundle.features, self.program, front_end=front_end)

    def hear(self, streams: tuple[AudioStream, LogitStream], pcm: Samples, sizes: list[int]) -> Heard:
        """Feed ``pcm`` in chunks of ``sizes`` and flush."""
        listening = Listening(streams)
        for chunk in chunks(pcm, sizes):
            listening.take(chunk)
        return listening.end()


class Listening:
    """What a pair of streams has heard so far."""

    def __init__(self, streams: tuple[AudioStream, LogitStream]) -> None:
        self._events, self._logits = streams
        self._lines: list[str] = []
        self._codes: list[bytes] = []

    def take(self, chunk: Samples) -> None:
        """Feed both the same samples."""
        self._lines += [repr(event) for event in self._events.process(chunk)]
        self._codes.append(self._logits.process(chunk)[0].tobytes())

    def end(self) -> Heard:
        """Flush both."""
        self._lines += [repr(event) for event in self._events.flush()]
        self._codes.append(self._logits.flush()[0].tobytes())
        return tuple(self._lines), b"".join(self._codes)


@lru_cache(maxsize=1)
def recordings() -> tuple[npt.NDArray[np.int16], ...]:
    """Four scenes: a word each, two words, none."""
    words = ([("low", 0.3, 0.4)], [("high", 0.5, 0.35)], [("low", 0.2, 0.3), ("high", 0.8, 0.3)], [])
    n_samples = int(SECONDS * 16_000) + 37
    return tuple(scene(words[i], SECONDS + 0.1, seed=i)[:n_samples] for i in range(4))


def chunks(pcm: Samples, sizes: list[int]) -> Iterator[Samples]:
    """Pieces of these sizes, in turns until the end; a copy each, as a caller's buffer would be."""
    position = 0
    for size in itertools.cycle(sizes):
        if position >= len(pcm):
            return
        yield pcm[position : position + size].copy()
        position += size


def random_sizes(rng: random.Random) -> list[int]:
    """Sizes that do not add up to 0: tiny, odd, whole hops, whole steps, longer than the recording."""
    kinds: tuple[Callable[[], int], ...] = (
        lambda: rng.randrange(4),
        lambda: rng.randrange(1, 500),
        lambda: 160 * rng.randrange(1, 9),
        lambda: 640,
        lambda: rng.randrange(5000, 30_000),
    )
    return [rng.choice(kinds)() for _ in range(rng.randrange(1, 12))] + [rng.randrange(100, 4000)]


def chunking(subject: Subject, rng: random.Random) -> None:
    """Any chunking gives the same events and the same logits."""
    index = rng.randrange(4)
    _same(subject, index, subject.hear(subject.open(), subject.recordings[index], random_sizes(rng)))


def resetting(subject: Subject, rng: random.Random) -> None:
    """After a reset or a flush at any moment, a stream hears what a fresh one hears."""
    streams = subject.open()
    for _ in range(rng.choice((1, 1, 2))):
        before = rng.choice(subject.recordings)
        stop = rng.randrange(len(before))
        for stream in streams:
            for chunk in chunks(before[:stop], random_sizes(rng)):
                stream.process(chunk)
            stream.reset() if rng.random() < 0.6 else stream.flush()
    index = rng.randrange(4)
    _same(subject, index, subject.hear(streams, subject.recordings[index], random_sizes(rng)))


def neighbours(subject: Subject, rng: random.Random) -> None:
    """Two streams of one program, fed in turns, hear what each would hear alone."""
    indices = [rng.randrange(4) for _ in range(2)]
    listening = [Listening(subject.open()) for _ in indices]
    waiting = [chunks(subject.recordings[index], random_sizes(rng)) for index in indices]
    live = [0, 1]
    while live:
        which = rng.choice(live)
        chunk = next(waiting[which], None)
        if chunk is None:
            live.remove(which)
            _same(subject, indices[which], listening[which].end())
        else:
            listening[which].take(chunk)


def threads(subject: Subject, rng: random.Random) -> None:
    """Threads with a stream each hear what one thread hears."""
    plans = [(rng.randrange(4), random_sizes(rng)) for _ in range(N_THREADS)]
    heard: list[Heard | None] = [None] * N_THREADS
    gate = threading.Barrier(N_THREADS)

    def listen(which: int) -> None:
        index, sizes = plans[which]
        streams = subject.open()
        gate.wait()
        heard[which] = subject.hear(streams, subject.recordings[index], sizes)

    workers = [threading.Thread(target=listen, args=(which,)) for which in range(N_THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for (index, _), result in zip(plans, heard, strict=True):
        _same(subject, index, result)


PROPERTIES: dict[str, Callable[[Subject, random.Random], None]] = {
    "chunking": chunking, "resetting": resetting, "neighbours": neighbours, "threads": threads,
}  # fmt: skip


def _same(subject: Subject, index: int, heard: Heard | None) -> None:
    if heard != subject.expected[index]:
        lines = None if heard is None else heard[0]
        raise AssertionError(f"{subject.setting}: heard {lines}, expected {subject.expected[index][0]}")


class Subjects:
    """Opens each bundle and program once."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bundles: dict[str, Bundle] = {}
        self._programs: dict[tuple[str, str], Program] = {}
        self._subjects: dict[Setting, Subject] = {}

    def subject(self, setting: Setting) -> Subject:
        """The subject of a setting, made once."""
        if setting not in self._subjects:
            self._subjects[setting] = self._made(setting)
        return self._subjects[setting]

    def _made(self, setting: Setting) -> Subject:
        if setting.task not in self._bundles:
            path = self._place / setting.task
            if not (path / "manifest.json").is_file():
                write_test_bundle(path, task=setting.task, engines=ARTIFACTS)
            self._bundles[setting.task] = open_bundle(path)
        bundle, key = self._bundles[setting.task], (setting.task, setting.engine)
        if key not in self._programs:
            self._programs[key] = bundle.program(setting.engine)
        return Subject(bundle, self._programs[key], setting)


def run_property(name: str, subjects: Subjects, n_cases: int, *, progress: Callable[[str], None]) -> int:
    """Run ``n_cases`` of a property, shared among all settings; return how many ran, all of them good.

    Raises:
        AssertionError: The first that did not hold; its words name setting and seed.
    """
    done = 0
    for rank, setting in enumerate(SETTINGS):
        subject = subjects.subject(setting)
        for seed in range(rank, n_cases, len(SETTINGS)):
            run_case(name, subject, seed)
            done += 1
        progress(f"{name}: {done} of {n_cases} cases ({setting})")
    return done


def run_case(name: str, subject: Subject, seed: int) -> None:
    """One case, named by its seed."""
    try:
        PROPERTIES[name](subject, random.Random(f"{name} {seed}"))
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}, {subject.setting}: {error}") from error
