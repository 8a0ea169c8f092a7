"""A few minutes of the day that `make prove` feeds to one stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeaudio_runtime.bundle import open_bundle
from tests.prove import soak
from tests.runtime.conftest import write_test_bundle

SECONDS = 64


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[soak.Round]:
    path: Path = write_test_bundle(tmp_path_factory.mktemp("soak") / "bundle", engines=("numpy", "litert"))
    return soak.soak(open_bundle(path), engine="litert", seconds=SECONDS, n_rounds=5, progress=lambda line: None)


def test_the_same_minute_again_and_again_gives_the_same_events_later(rounds: list[soak.Round]) -> None:
    # Planted: a word every 7 s from 6 s on, in 64 s of audio.
    assert [event.label for event in rounds[0].events] == ["high", "low", "low"] * 2 + ["high", "low"]
    quiet = [replace(each, median_us=1.0) for each in rounds]  # other tests share this core
    assert soak.faults(quiet, SECONDS) == []


def test_what_must_not_change_is_found_when_it_does(rounds: list[soak.Round]) -> None:
    first, *_, last = rounds = [replace(each, median_us=1.0) for each in rounds]
    heavier = [*rounds, replace(last, peak_bytes=first.peak_bytes + 2**24)]
    assert any("memory grew by" in fault for fault in soak.faults(heavier, SECONDS))
    slower = [*rounds[:-1], replace(last, median_us=1.6)]
    assert soak.faults(slower, SECONDS) == ["a step took 1.0 us and takes 1.6 us"]
    deafer = [*rounds[:-1], replace(last, events=last.events[:-1])]
    assert soak.faults(deafer, SECONDS) == [f"round {len(rounds) - 1} heard something else than round 0"]
    # One sample of drift is 62.5 us.
    late = tuple(replace(event, end_s=event.end_s + 1 / 16_000) for event in last.events)
    assert "drifted by" in soak.faults([*rounds[:-1], replace(last, events=late)], SECONDS)[0]
