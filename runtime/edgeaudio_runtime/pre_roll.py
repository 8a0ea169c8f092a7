"""The audio before, in and after an event, from a memory of fixed size: for verification, recording or a recognizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event, TranscriptEvent
from edgeaudio_runtime.recent import RecentRows
from edgeaudio_runtime.record import Record
from edgeaudio_runtime.samples import Samples, checked_scale

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

Int16 = npt.NDArray[np.int16]

_BLOCK_S = 0.1
"""Audio is taken in blocks of this length, so that memory does not follow the caller's chunks."""
_LONGEST_KEPT_S = 600.0


class AudioClip(Record):
    """Audio of an event, or a piece of it where it is handed over live."""

    event: Event
    first_sample: int
    """Index of ``samples[0]`` in the stream."""
    samples: Int16
    """1-D, at the stream's rate."""
    is_last: bool = True
    """Whether no more of this event comes."""


class PreRoll:
    """Keeps the newest audio and hands over that of each event, exact by sample.

    The audio of an event runs from ``start_s - before_s`` to ``end_s + after_s``, as far as the stream does; it comes
    whole as soon as that has been heard. With ``live`` it comes in pieces as it is heard, the first one with the past,
    and ``after_s`` may be None: then it goes on until :meth:`stop`, the next event or the end of the stream. Partial
    transcripts are no events here. Memory is constant; the chunks' lengths change nothing but the cuts between pieces.

        pre_roll = PreRoll.of(bundle, before_s=0.5, after_s=0.3)
        for chunk in chunks:
            for clip in pre_roll.process(chunk, stream.process(chunk)):
                ...
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        before_s: float = 0.5,
        after_s: float | None = 0.5,
        longest_s: float = 3.0,
        live: bool = False,
    ) -> None:
        """Begin with an empty memory.

        Args:
            sample_rate: Hz.
            before_s: Seconds before the start of an event.
            after_s: Seconds after its end; None for no end, with ``live``.
            longest_s: Most seconds between the start of an event and its report; what lies before is left out.
            live: Hand over pieces as they come.

        Raises:
            SpecError: A time is negative or they add up to more than ten minutes, or None without ``live``.
        """
        times = {"before_s": before_s, "after_s": after_s or 0.0, "longest_s": longest_s}
        wrong = {name: value for name, value in times.items() if not 0 <= value <= _LONGEST_KEPT_S}
        if wrong or sum(times.values()) > _LONGEST_KEPT_S:
            raise SpecError(f"{wrong or times} must be >= 0 and add up to at most {_LONGEST_KEPT_S:g} s")
        if after_s is None and not live:
            raise SpecError("after_s=None has no end; pass a number, or live=True")
        self._rate, self._live = sample_rate, live
        self._n_before, self._n_longest = round(before_s * sample_rate), round(longest_s * sample_rate)
        self._n_after = None if after_s is None else round(after_s * sample_rate)
        self._block = max(1, round(_BLOCK_S * sample_rate))
        self.reset()

    @classmethod
    def of(cls, bundle: Bundle, *, before_s: float = 0.5, after_s: float | None = 0.5, live: bool = False) -> PreRoll:
        """A pre-roll that holds the longest event ``bundle`` can report."""
        return cls(
            sample_rate=bundle.features.sample_rate,
            before_s=before_s,
            after_s=after_s,
            longest_s=longest_event_s(bundle),
            live=live,
        )

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0 of a new stream."""
        n_kept = self._n_before + self._n_longest + (self._n_after or 0)
        self._tail = RecentRows(n_kept, (), fill=0, dtype=np.int16, block=self._block)
        self._n_samples = 0
        self._open: list[_Open] = []

    def process(self, samples: Samples, events: Sequence[Event] = ()) -> list[AudioClip]:
        """Take the next samples and the events they completed; return the audio that is due.

        Args:
            samples: What the stream that reported ``events`` was given, int16 or float32, any length.
            events: What its ``process`` returned for them.

        Raises:
            SpecError: Another dtype or shape, as ``AudioStream.process``.
        """
        audio = _as_int16(samples)
        whole = [event for event in events if not isinstance(event, TranscriptEvent) or event.final]
        coming = [self._opened(event) for event in whole]
        clips: list[AudioClip] = []
        position = 0
        while position < len(audio):
            # A block ends where an event is reported, so that what follows it is the same however chunks are cut.
            reported = [item.reported - self._n_samples for item in coming if item.reported > self._n_samples]
            block = audio[position : position + min([self._block, *reported])]
            self._tail.extend(len(block))[:] = block
            self._n_samples += len(block)
            position += len(block)
            due = [item for item in coming if item.reported <= self._n_samples]
            coming = [item for item in coming if item.reported > self._n_samples]
            clips += self._hand_over(due)
        return clips + (self._hand_over(coming) if coming else [])

    def flush(self, events: Sequence[Event] = ()) -> list[AudioClip]:
        """End the stream with the events its ``flush`` returned: hand over what is open, and begin anew."""
        clips = self.process(np.empty(0, dtype=np.int16), events) + self.stop()
        self.reset()
        return clips

    def stop(self) -> list[AudioClip]:
        """Hand over what is open, as far as it was heard, and end it."""
        clips = [self._cut(item, min(item.stop, self._n_samples), is_last=True) for item in self._in_order()]
        self._open = []
        return clips

    def _opened(self, event: Event) -> _Open:
        reported = round(event.detected_s * self._rate)
        first = max(0, round(event.start_s * self._rate), reported - self._n_longest) - self._n_before
        stop = round(event.end_s * self._rate) + self._n_after if self._n_after is not None else _NEVER
        return _Open(event=event, next=max(0, first), stop=stop, reported=reported)

    def _hand_over(self, due: list[_Open]) -> list[AudioClip]:
        clips: list[AudioClip] = []
        if due and self._n_after is None:
            clips, due = self.stop(), due[-1:]
        self._open += due
        for item in self._in_order():
            is_last = item.stop <= self._n_samples
            if is_last or (self._live and item.next < self._n_samples):
                clips.append(self._cut(item, min(item.stop, self._n_samples), is_last=is_last))
        self._open = [item for item in self._open if item.stop > self._n_samples]
        return clips

    def _in_order(self) -> list[_Open]:
        return sorted(self._open, key=lambda item: max(item.stop, item.reported))

    def _cut(self, item: _Open, stop: int, *, is_last: bool) -> AudioClip:
        first, stop = item.next, max(item.next, stop)
        newest = self._tail.last(self._n_samples - first) if first < self._n_samples else self._tail.last(0)
        item.next = stop
        return AudioClip(event=item.event, first_sample=first, samples=newest[: stop - first].copy(), is_last=is_last)


_NEVER = 2**62


@dataclass(kw_only=True, slots=True)
class _Open:
    """An event whose audio has not been handed over to its end."""

    event: Event
    next: int
    """First sample that is still to be handed over."""
    stop: int
    reported: int


def longest_event_s(bundle: Bundle) -> float:
    """Most seconds between the start of an event of ``bundle`` and its report."""
    clock = bundle.clock
    if bundle.task == "keyword":
        config = bundle.detector_config
        memory_s = (clock.memory_frames * clock.hop_length + clock.win_length) / clock.sample_rate
        return memory_s + config.smoothing_s + config.settle_s
    return bundle.decoder_config.longest_s


def _as_int16(samples: Samples) -> Int16:
    checked_scale(samples)
    if samples.dtype == np.int16:
        return samples.astype(np.int16, copy=False)
    return np.clip(np.rint(samples.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
