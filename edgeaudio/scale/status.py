"""How far a count is: shards, hours, events and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeaudio.parity.streams import INT8, StreamCounts
from edgeaudio.progress import say
from edgeaudio.scale.shards import Shard

LINE_EVERY_S = 2.0
"""Pause between lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What is known after a shard."""

    done: int
    """Shards that are counted, those of earlier runs included."""
    total: int
    """Shards in all."""
    hours: float
    """Of audio in them."""
    events: int
    """Of the bundle's engine, with the first of the settings."""
    left_s: float | None
    """Seconds left, as fast as it went; None before the first shard of this run."""

    def line(self) -> str:
        """For people."""
        left = "" if self.left_s is None else f", {_time(self.left_s)} left"
        return f"shards {self.done} of {self.total}: {self.hours:.2f} h, {self.events} events{left}"


class Watch:
    """Adds up what is done.

    Args:
        shards: All of them.
        sample_rate: Of what is counted, in Hz.
        tell: Called after each shard; None for nobody.
    """

    def __init__(self, shards: list[Shard], sample_rate: int, tell: Callable[[Status], None] | None) -> None:
        self._rate, self._tell = sample_rate, tell
        self._total, self._work = len(shards), sum(map(_work, shards))
        self._done, self._worked, self._found = 0, 0, 0
        self._samples, self._events = 0, 0
        self._begun = time.monotonic()

    def add(self, shard: Shard, counts: StreamCounts, *, from_disk: bool) -> None:
        """A shard is done: counted now, or found among the records."""
        self._done += 1
        self._samples += counts.n_samples
        self._events += counts.events[INT8][0] if counts.events[INT8] else 0
        if from_disk:
            self._found += _work(shard)
        else:
            self._worked += _work(shard)
        if self._tell is not None:
            self._tell(self.status())

    def status(self) -> Status:
        """What is known now."""
        left = None
        if self._worked:
            to_do = self._work - self._found - self._worked
            left = (time.monotonic() - self._begun) * to_do / self._worked
        hours = self._samples / self._rate / 3600
        return Status(done=self._done, total=self._total, hours=hours, events=self._events, left_s=left)


def telling() -> Callable[[Status], None]:
    """Lines on stderr, the first and the last and one now and then."""
    last = float("-inf")

    def tell(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or status.done == status.total:
            last = now
            say(status.line())

    return tell


def _work(shard: Shard) -> int:
    """Bytes; a shard of unknown size counts as one byte, so that shards are counted where none is known."""
    return shard.n_bytes or 1


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
