"""``listen`` and ``alisten``: the events of a stream, from any iterator, and nothing left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime import AudioStream, Bundle, SpecError, alisten, listen, open_bundle
from edgeaudio_runtime.errors import AudioError


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)


@pytest.fixture(scope="module")
def bundle(keyword_bundle: Path) -> Bundle:
    return open_bundle(keyword_bundle)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, pcm: np.ndarray) -> list[Any]:
    stream = AudioStream(bundle)
    return [*stream.process(pcm), *stream.flush()]


def cut(samples: np.ndarray, size: int = 700) -> list[np.ndarray]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


class Feed:
    """An async source that counts what was asked of it."""

    def __init__(self, chunks: list[np.ndarray]) -> None:
        self.chunks, self.n_asked = chunks, 0

    async def __aiter__(self) -> AsyncIterator[np.ndarray]:
        for chunk in self.chunks:
            self.n_asked += 1
            await asyncio.sleep(0)
            yield chunk


def no_thread_is_left() -> bool:
    return not any(thread.name.startswith("edgeaudio") for thread in threading.enumerate())


def test_the_events_are_those_of_the_stream(bundle: Bundle, pcm: np.ndarray, expected: list[Any]) -> None:
    assert [event.label for event in expected] == ["low", "high"]
    assert list(listen(bundle, cut(pcm))) == expected
    stream = AudioStream(bundle)
    for _ in range(2):  # flushed at the end, so that the stream is as new
        assert list(listen(stream, iter(cut(pcm, 5000)))) == expected


def test_an_event_comes_before_the_next_chunk_is_asked_for(bundle: Bundle, pcm: np.ndarray) -> None:
    asked = []

    def chunks() -> Any:
        for index, chunk in enumerate(cut(pcm, 1600)):
            asked.append(index)
            yield chunk

    first = next(listen(bundle, chunks()))
    assert first.detected_s == pytest.approx(0.1 * len(asked), abs=0.1)


def test_a_channel_is_chosen_and_a_rate_converted(bundle: Bundle, pcm: np.ndarray, expected: list[Any]) -> None:
    soxr = pytest.importorskip("soxr")
    frames = np.stack([np.zeros_like(pcm), pcm], axis=1)
    assert list(listen(bundle, cut(frames), channel=1)) == expected
    assert list(listen(bundle, cut(frames[:, 1:]))) == expected
    assert list(listen(bundle, cut(pcm), sample_rate=16000)) == expected
    fast = soxr.resample(frames / 32768, 16000, 48000).astype(np.float32)
    converted = list(listen(bundle, cut(fast), sample_rate=48000, channel=1))
    assert [event.label for event in converted] == ["low", "high"]
    assert converted[0].start_s == pytest.approx(expected[0].start_s, abs=0.05)


@pytest.mark.parametrize(
    ("shape", "channel", "words"),
    [
        ((5, 2), None, r"chunk.shape=\(5, 2\) has 2 channels; choose with channel=0"),
        ((5, 2), 2, r"channel=2 must be in 0\.\.1; the chunks have 2"),
        ((5, 2), -1, r"channel=-1 must be in 0\.\.1"),
        ((5,), 1, r"channel=1, but the chunks are mono; give arrays \[n, n_channels\]"),
        ((5, 2, 1), None, "must be 1-D"),
    ],
)
def test_chunks_of_another_shape_are_refused(
    bundle: Bundle, shape: tuple[int, ...], channel: int | None, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        list(listen(bundle, [np.zeros(shape, np.int16)], channel=channel))


def test_a_rate_that_cannot_be_is_refused_at_once(bundle: Bundle) -> None:
    with pytest.raises(AudioError, match="sample_rate=3 must be 1000 to 768000 Hz"):
        listen(bundle, [], sample_rate=3)


def test_the_async_form_gives_the_same_and_ends_its_thread(
    bundle: Bundle, pcm: np.ndarray, expected: list[Any]
) -> None:
    async def collect(size: int) -> list[Any]:
        return [event async for event in alisten(bundle, Feed(cut(pcm, size)))]

    async def together() -> list[list[Any]]:
        return await asyncio.gather(collect(700), collect(len(pcm)), collect(160))

    assert asyncio.run(together()) == [expected] * 3
    assert no_thread_is_left()


def test_the_event_loop_stays_free_while_the_network_runs(
    bundle: Bundle, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    process = AudioStream.process

    def watched(self: AudioStream, samples: np.ndarray) -> Any:
        threads.add(threading.current_thread().name)
        return process(self, samples)

    monkeypatch.setattr(AudioStream, "process", watched)

    async def hear() -> None:
        async for _ in alisten(bundle, Feed(cut(pcm))):
            pass

    asyncio.run(hear())
    assert all(name.startswith("edgeaudio") for name in threads)


def test_no_chunk_is_asked_for_before_the_last_one_was_heard(bundle: Bundle, pcm: np.ndarray) -> None:
    async def first() -> tuple[Any, int]:
        feed = Feed(cut(pcm, 1600))
        events = alisten(bundle, feed)
        event = await anext(events)
        await asyncio.sleep(0.02)
        await events.aclose()  # type: ignore[attr-defined]
        return event, feed.n_asked

    event, n_asked = asyncio.run(first())
    assert event.detected_s == pytest.approx(0.1 * n_asked, abs=0.1)
    assert no_thread_is_left()


def test_a_cancelled_task_leaves_no_thread_and_a_stream_that_can_go_on(
    bundle: Bundle, pcm: np.ndarray, expected: list[Any]
) -> None:
    stream = AudioStream(bundle)

    async def hear() -> None:
        async for _ in alisten(stream, Feed([pcm] * 1000)):
            pass

    async def cancel() -> None:
        task = asyncio.create_task(hear())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert no_thread_is_left()

    asyncio.run(cancel())
    stream.reset()
    assert [*stream.process(pcm), *stream.flush()] == expected


def test_an_error_of_the_source_or_of_a_chunk_ends_it_with_that_error(bundle: Bundle) -> None:
    async def broken() -> AsyncIterator[np.ndarray]:
        yield np.zeros(100, np.int16)
        raise OSError("unplugged")

    async def hear(chunks: Any) -> None:
        async for _ in alisten(bundle, chunks):
            pass

    with pytest.raises(OSError, match="unplugged"):
        asyncio.run(hear(broken()))
    with pytest.raises(SpecError, match="must be int16 or float32"):
        asyncio.run(hear(Feed([np.zeros(3)])))
    assert no_thread_is_left()
