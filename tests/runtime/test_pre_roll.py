"""The audio around an event: exact by sample, from a memory that does not follow the chunks."""

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event, KeywordEvent, TranscriptEvent
from edgeaudio_runtime.pre_roll import AudioClip, PreRoll, longest_event_s
from edgeaudio_runtime.stream import AudioStream

RATE = 1000  # a sample is a millisecond


def keyword(start_s: float, end_s: float, detected_s: float, label: str = "yes") -> KeywordEvent:
    return KeywordEvent(label=label, score=0.9, start_s=start_s, end_s=end_s, detected_s=detected_s)


def run(pre_roll: PreRoll, audio: np.ndarray, events: list[Event], sizes: list[int]) -> list[AudioClip]:
    """Push ``audio`` in chunks of ``sizes``, each with the events that its last sample completes."""
    clips, position = [], 0
    for size in [*sizes, len(audio)]:
        chunk = audio[position : position + size]
        due = [e for e in events if position < round(e.detected_s * RATE) <= position + len(chunk)]
        position += len(chunk)
        clips += pre_roll.process(chunk, due)
    return clips + pre_roll.flush([e for e in events if round(e.detected_s * RATE) > len(audio)])


def ramp(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int16)


def joined(clips: list[AudioClip]) -> dict[str, list[int]]:
    """Samples by label; their values are their indices."""
    heard: dict[str, list[int]] = {}
    for clip in clips:
        samples = heard.setdefault(clip.event.label, [])
        assert not samples or clip.first_sample == samples[-1] + 1
        assert list(clip.samples[:1]) in ([], [clip.first_sample])
        samples += clip.samples.tolist()
    return heard


def test_a_clip_is_the_event_with_the_time_before_and_after() -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.2, after_s=0.3, longest_s=1.0)
    event = keyword(1.0, 1.5, 1.6)
    clips = run(pre_roll, ramp(4000), [event], [1600])
    assert [(clip.event, clip.first_sample, clip.is_last) for clip in clips] == [(event, 800, True)]
    np.testing.assert_array_equal(clips[0].samples, np.arange(800, 1800))


def test_a_clip_ends_with_the_stream_and_begins_with_it() -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.2, after_s=0.3, longest_s=1.0)
    clips = run(pre_roll, ramp(500), [keyword(0.1, 0.4, 0.45)], [])
    np.testing.assert_array_equal(clips[0].samples, np.arange(500))


def test_what_lies_further_back_than_the_memory_is_left_out() -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.1, after_s=0.0, longest_s=0.5)
    clips = run(pre_roll, ramp(3000), [keyword(1.0, 2.0, 2.2)], [])
    # 0.5 s before the report and 0.1 s more.
    np.testing.assert_array_equal(clips[0].samples, np.arange(1600, 2000))


@settings(max_examples=60)
@given(
    data=st.data(),
    sizes=st.lists(st.one_of(st.integers(0, 7), st.integers(0, 1500)), max_size=25),
    live=st.booleans(),
)
def test_chunks_change_no_sample(data: st.DataObject, sizes: list[int], live: bool) -> None:
    times = data.draw(st.lists(st.tuples(*[st.integers(0, 600)] * 3), max_size=4))
    events: list[Event] = []
    for number, (start, length, lag) in enumerate(times):
        end = start + number * 900 + min(length, 500)
        events.append(
            keyword((end - min(length, 500)) / RATE, end / RATE, (end + min(max(1, lag), 400)) / RATE, str(number))
        )
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.25, after_s=0.35, longest_s=1.0, live=live)
    audio = ramp(data.draw(st.integers(0, 4500)))
    found = joined(run(pre_roll, audio, events, sizes))
    for event in events:
        start, end = round(event.start_s * RATE), round(event.end_s * RATE)
        assert found[event.label] == list(range(max(0, start - 250), min(end + 350, len(audio))))


def test_a_live_hand_over_begins_with_the_past_and_goes_on_until_it_is_stopped() -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.2, after_s=None, longest_s=1.0, live=True)
    audio = ramp(9000)
    first = pre_roll.process(audio[:1650], [keyword(1.0, 1.5, 1.65)])
    assert joined(first)["yes"] == list(range(800, 1650))
    assert not first[-1].is_last
    rest = pre_roll.process(audio[1650:5000]) + pre_roll.stop()
    assert joined(first + rest)["yes"] == list(range(800, 5000))
    assert [clip.is_last for clip in rest][-1]
    assert pre_roll.process(audio[5000:]) == []


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 6000), max_size=6))
def test_the_next_event_ends_an_endless_hand_over_where_it_is_reported(cuts: list[int]) -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.1, after_s=None, longest_s=1.0, live=True)
    events: list[Event] = [keyword(1.0, 1.2, 1.3, "one"), keyword(3.0, 3.2, 3.337, "two")]
    edges = [0, *sorted(cuts)]
    found = joined(run(pre_roll, ramp(6000), events, [b - a for a, b in itertools.pairwise(edges)]))
    assert found == {"one": list(range(900, 3337)), "two": list(range(2900, 6000))}


def test_partial_transcripts_hand_nothing_over() -> None:
    def transcript(final: bool) -> TranscriptEvent:
        return TranscriptEvent(text="a", final=final, start_s=0.5, end_s=0.7, tokens=(), detected_s=0.8)

    pre_roll = PreRoll(sample_rate=RATE, before_s=0.0, after_s=0.0)
    clips = pre_roll.process(ramp(900), [transcript(False), transcript(True)])
    assert [clip.event.final for clip in clips] == [True]
    np.testing.assert_array_equal(clips[0].samples, np.arange(500, 700))


def test_float_samples_are_handed_over_as_int16() -> None:
    pre_roll = PreRoll(sample_rate=RATE, before_s=0.0, after_s=0.0)
    audio = np.array([0.0, 0.5, -1.0, 1.0, 2.0], dtype=np.float32)
    clips = pre_roll.process(audio, [keyword(0.0, 0.005, 0.005)])
    # Full scale is 32768, which int16 has on the negative side alone.
    assert clips[0].samples.tolist() == [0, 16384, -32768, 32767, 32767]
    assert clips[0].samples.dtype == np.int16


@settings(max_examples=8)
@given(sizes=st.lists(st.integers(0, 12_000), max_size=12))
def test_the_words_of_a_bundle_are_handed_over(
    keyword_bundle: Path, make_scene: Callable[..., np.ndarray], sizes: list[int]
) -> None:
    bundle = open_bundle(keyword_bundle)
    pcm = make_scene([("low", 0.7, 0.5), ("high", 1.9, 0.3)], 2.8)
    stream, pre_roll = AudioStream(bundle), PreRoll.of(bundle, before_s=0.3, after_s=0.2)
    clips, position = [], 0
    for size in [*sizes, len(pcm)]:
        chunk = pcm[position : position + size]
        clips += pre_roll.process(chunk, stream.process(chunk))
        position += size
    clips += pre_roll.flush(stream.flush())
    assert [clip.event.label for clip in clips] == ["low", "high"]
    for clip in clips:
        first, stop = round(clip.event.start_s * 16000) - 4800, round(clip.event.end_s * 16000) + 3200
        assert clip.first_sample == first
        np.testing.assert_array_equal(clip.samples, pcm[first:stop])


def test_the_longest_event_is_what_the_detector_looks_back_on(keyword_bundle: Path) -> None:
    # 24 + 50 frames in whole steps of 4 are 76; 25 ms of window, 0.08 s of smoothing, 0.3 s until the word has ended.
    bundle = open_bundle(keyword_bundle)
    window_s = bundle.features.win_length / 16000
    assert longest_event_s(bundle) == pytest.approx(0.76 + window_s + 0.08 + 0.3)


def test_memory_does_not_follow_the_chunks() -> None:
    pre_roll = PreRoll(sample_rate=16000)
    audio = np.zeros(16000 * 60, dtype=np.int16)
    pre_roll.process(audio[:160_000])
    tracemalloc.start()
    pre_roll.process(audio)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A minute is 1.9 MB; the memory of 4 s (128 kB) is moved back now and then.
    assert peak < 400_000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"before_s": -1.0}, r"\{'before_s': -1.0\} must be >= 0 and add up to at most 600 s"),
        ({"before_s": 500.0, "longest_s": 200.0}, "must be >= 0 and add up to at most 600 s"),
        ({"after_s": None}, "after_s=None has no end; pass a number, or live=True"),
    ],
)
def test_impossible_times_are_refused(values: dict[str, float | None], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        PreRoll(sample_rate=16000, **values)
