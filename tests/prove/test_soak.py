"""A few minutes of the day that `make prove` feeds to one stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.events import KeywordEvent
from tests.prove import soak
from tests.runtime.conftest import write_test_bundle

SECONDS = 64


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[soak.Round]:
    path: Path = write_test_bundle(tmp_path_factory.mktemp("soak") / "bundle", engines=("numpy", "litert"))
    return soak.soak(open_bundle(path), engine="litert", seconds=SECONDS, n_rounds=5, progress=lambda line: None)


def test_the_same_minute_again_and_again_gives_the_same_events_later(rounds: list[soak.Round]) -> None:
    # Planted: a word every 7 s from 6 s on, in 64 s of audio.
    assert [each.n_events for each in rounds] == [8] * 5
    assert [each.difference for each in rounds] == [""] * 5
    assert soak.faults([replace(each, median_us=1.0) for each in rounds]) == []  # other tests share this core


def test_what_must_not_change_is_found_when_it_does(rounds: list[soak.Round]) -> None:
    *_, last = rounds = [replace(each, median_us=1.0) for each in rounds]
    grown = last.peak_bytes - rounds[1].peak_bytes + 2**24
    heavier = [*rounds, replace(last, peak_bytes=last.peak_bytes + 2**24)]
    assert soak.faults(heavier) == [f"memory grew by {grown} bytes"]
    assert soak.faults([*rounds, replace(last, median_us=1.6)]) == ["a chunk took 1.0 us and takes 1.6 us"]
    assert soak.faults([*rounds, replace(last, difference="x")]) == ["round 5: x"]
    assert soak.faults([replace(each, n_events=0) for each in rounds]) == ["nothing was heard"]
    # Five rounds of 64 s are 0.0889 h.
    assert soak.describe("numpy", rounds, SECONDS).startswith("soak, numpy: 0.0888889 h of audio, 40 events; second")


def event(**changes: float) -> KeywordEvent:
    times = {"start_s": 1.0, "end_s": 1.5, "detected_s": 1.75, "score": 0.75} | changes
    return KeywordEvent(label="yes", **times)


def test_events_are_compared_by_what_they_say_and_to_the_sample() -> None:
    later = event(start_s=3601.0, end_s=3601.5, detected_s=3601.75)
    assert soak.difference([event()], [later], 3600) == ""
    assert soak.difference([event()], [], 3600) == "heard something else"
    assert soak.difference([event()], [replace(later, score=0.7500001)], 3600) == "heard something else"
    # One sample of drift is 62.5 us.
    late = replace(later, end_s=later.end_s + 1 / 16_000)
    assert soak.difference([event()], [late], 3600) == "times drifted by 6.25e-05 s"
