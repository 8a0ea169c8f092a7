"""Iterators of events over iterators of audio, plain and async."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.stream import AudioStream

if TYPE_CHECKING:
    from edgeaudio_runtime.resampling import Resampler

Chunk = npt.NDArray[Any]
_PIECE_S = 0.5
"""Audio that the async form hears before it looks whether it was cancelled."""


class Stream(Protocol):
    """An :class:`~edgeaudio_runtime.stream.AudioStream` or a :class:`~edgeaudio_runtime.hub.Hub`."""

    sample_rate: int

    def process(self, samples: Chunk) -> list[Event]:
        """Take the next samples; return the events they complete."""
        ...

    def flush(self) -> list[Event]:
        """End the stream, return what was outstanding, and begin anew."""
        ...


def listen(
    source: Stream | Bundle,
    chunks: Iterable[Chunk],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
) -> Iterator[Event]:
    """Yield the events of ``chunks`` as they become certain, and at the end what was outstanding.

        for event in listen(open_bundle("bundle"), chunks, sample_rate=48_000, channel=0):
            ...

    Args:
        source: A bundle, or a stream or hub to go on with; that is flushed at the end, and left as it is where you stop
            early.
        chunks: int16, or float32 in -1..1; ``[n]``, or ``[n, n_channels]`` with ``channel`` chosen; any n.
        sample_rate: Hz of the chunks, resampled where the bundle's is another (extra ``resample``); None for the same.
        channel: The column to hear, from 0.

    Raises:
        AudioError: Another rate, and soxr is not installed.
        SpecError: Chunks of another dtype or shape, or NaN; the stream is as before that chunk.
    """
    ear = Ear(source, sample_rate=sample_rate, channel=channel)
    return _listening(ear, chunks)


def _listening(ear: Ear, chunks: Iterable[Chunk]) -> Iterator[Event]:
    for chunk in chunks:
        yield from ear.hear(chunk)
    yield from ear.finish()


async def alisten(
    source: Stream | Bundle,
    chunks: AsyncIterable[Chunk],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
) -> AsyncIterator[Event]:
    """As :func:`listen`, for ``async for``: the network runs in a thread of its own, the event loop stays free.

    The next chunk is asked for when the last one has been heard, so nothing piles up here; a source that cannot wait
    bounds its own queue. When the iterator is closed or its task cancelled, the thread ends after at most half a
    second of audio, and nothing touches the stream any more once the iterator has ended.
    """
    # Here, since the plain form needs neither and both take longer to import than this package.
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="edgeaudio") as thread:  # leaving waits for the piece under way
        ear = await loop.run_in_executor(thread, lambda: Ear(source, sample_rate=sample_rate, channel=channel))
        async for chunk in chunks:
            for piece in ear.pieces(chunk):
                for event in await loop.run_in_executor(thread, ear.hear, piece):
                    yield event
        for event in await loop.run_in_executor(thread, ear.finish):
            yield event


class Ear:
    """A stream behind the choice of a channel and the change of a rate; see :func:`listen` for the arguments."""

    def __init__(self, source: Stream | Bundle, *, sample_rate: int | None = None, channel: int | None = None) -> None:
        self._stream: Stream = AudioStream(source) if isinstance(source, Bundle) else source
        self._channel = channel
        self._resampler: Resampler | None = None
        if sample_rate not in (None, self._stream.sample_rate):
            from edgeaudio_runtime.resampling import Resampler

            assert sample_rate is not None
            self._resampler = Resampler(sample_rate, self._stream.sample_rate)
        self._piece = round(_PIECE_S * (sample_rate or self._stream.sample_rate))

    def pieces(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk in parts of half a second at most."""
        return (chunk[start : start + self._piece] for start in range(0, len(chunk), self._piece))

    def hear(self, chunk: Chunk) -> list[Event]:
        """Take the next samples, ``[n]`` or ``[n, n_channels]``; return the events they complete."""
        samples = self._one_channel(chunk)
        return self._stream.process(samples if self._resampler is None else self._resampler.process(samples))

    def finish(self) -> list[Event]:
        """End the stream, return what was outstanding, and begin anew."""
        rest: list[Event] = [] if self._resampler is None else self._stream.process(self._resampler.flush())
        return [*rest, *self._stream.flush()]

    def _one_channel(self, chunk: Chunk) -> Chunk:
        if not isinstance(chunk, np.ndarray) or chunk.ndim != 2:
            if self._channel:
                raise SpecError(f"channel={self._channel}, but the chunks are mono; give arrays [n, n_channels]")
            return chunk
        n_channels = chunk.shape[1]
        if self._channel is None and n_channels > 1:
            raise SpecError(f"chunk.shape={chunk.shape} has {n_channels} channels; choose with channel=0")
        if not 0 <= (self._channel or 0) < n_channels:
            raise SpecError(f"channel={self._channel} must be in 0..{n_channels - 1}; the chunks have {n_channels}")
        return chunk[:, self._channel or 0]
