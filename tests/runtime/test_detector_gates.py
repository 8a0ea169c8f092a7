"""Patience, release by label, the gate above the noise floor, and the latency of events, by hand numbers."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.features import PcmSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.noise_gate import FLOOR_RISE_DB_PER_S, NoiseGate, decibels_per_unit
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import QuantParams

LABELS = ("_silence_", "yes", "no")
QUANT = QuantParams(scale=(0.1,), zero_point=0)
CLOCK = StreamClock(
    sample_rate=16000,
    hop_length=160,
    win_length=400,
    first_offset=0,
    step_frames=4,
    outputs_per_step=1,
    window_frames=20,
)
FLOOR_TOLERANCE_DB = 0.3
"""The floor under the logarithm lifts soft bands a little."""
AT_ONCE = {"smoothing_s": 0.0, "settle_s": 0.0, "refractory_s": 0.0}


def detector(**config: Any) -> KeywordDetector:
    return KeywordDetector(
        DetectorConfig(**{**AT_ONCE, **config}),
        labels=LABELS,
        background_labels=("_silence_",),
        output_quant=QUANT,
        clock=CLOCK,
        decibels_per_unit=0.5,
    )


def codes(names: str) -> np.ndarray:
    """One output a letter: y for a sure yes (softmax of 10), u for a yes of 0.576, n for a sure no, - for none."""
    rows = np.zeros((len(names), len(LABELS)), dtype=np.int8)
    for row, name in zip(rows, names, strict=True):
        row[{"y": 1, "n": 2, "u": 1, "-": 0}[name]] = {"u": 10, "-": 0}.get(name, 100)
    return rows


def outputs(events: list[KeywordEvent]) -> list[tuple[str, int]]:
    """Label and output of each event; output k is complete after 40 ms (k + 1) + 15 ms."""
    return [(event.label, round((event.detected_s - 0.015) / 0.04) - 1) for event in events]


@pytest.mark.parametrize(
    ("patience", "fired"),
    [
        (1, [("yes", 1), ("no", 3), ("yes", 6), ("no", 10)]),
        (2, [("yes", 2), ("yes", 7), ("no", 11)]),
        (3, [("yes", 8), ("no", 12)]),
        (4, []),
    ],
)
def test_patience_counts_outputs_in_a_row_of_one_label(patience: int, fired: list[tuple[str, int]]) -> None:
    # Label y reaches its threshold in outputs 1 and 2, n in 3, y in 6 to 8, n in 10 to 12.
    assert outputs(detector(patience=patience).process(codes("-yyn--yyy-nnn-"))) == fired


def test_patience_begins_anew_after_an_output_below_the_threshold() -> None:
    assert outputs(detector(patience=3).process(codes("yy-yy-yyy"))) == [("yes", 8)]


def test_a_label_may_have_its_own_release() -> None:
    # "u" is 0.576: it lets go of a label whose release is 0.58, not of one at 0.5.
    held = codes("yuuyuy")
    assert outputs(detector(release=0.5).process(held)) == [("yes", 0)]
    assert outputs(detector(release=0.5, releases={"yes": 0.58}).process(held)) == [("yes", 0), ("yes", 3), ("yes", 5)]
    assert outputs(detector(release=0.58, releases={"yes": 0.5}).process(held)) == [("yes", 0)]


def test_an_event_says_how_long_after_the_word_it_came() -> None:
    event = KeywordEvent(label="yes", score=0.9, start_s=1.0, end_s=1.5, detected_s=1.75)
    assert event.latency_s == 0.25
    assert "latency_s" not in event.to_dict()


def floor_by_hand(level: np.ndarray) -> np.ndarray:
    """The definition, frame by frame: down at once, up by 2 dB a second."""
    floor, rise = np.inf, FLOOR_RISE_DB_PER_S * 0.010
    floors = []
    for value in level:
        floor = min(floor + rise, value)
        floors.append(floor)
    return np.array(floors)


def test_the_floor_falls_at_once_and_climbs_slowly() -> None:
    level = np.random.default_rng(3).normal(-50, 6, 400).astype(np.float32)
    level[200:300] += 30
    is_open = level >= floor_by_hand(level.astype(np.float64)) + 20
    # The newest frame of each step, or one of the 19 before it, opened the gate; so does the stream's first frame.
    expected = [is_open[max(0, last - 19) : last + 1].any() or last < 20 for last in range(3, 400, 4)]
    gate = NoiseGate(20.0, clock=CLOCK, decibels_per_unit=1.0)
    np.testing.assert_array_equal(gate.hear(level), expected)
    assert 0 < sum(expected) < len(expected)


@given(cuts=st.lists(st.integers(0, 100), max_size=6), gate_db=st.floats(0, 40))
@settings(max_examples=30)
def test_cutting_the_frames_changes_nothing(cuts: list[int], gate_db: float) -> None:
    level = np.random.default_rng(5).normal(-50, 10, 400).astype(np.float32)
    level[70:90] = np.nan
    whole, cut = (NoiseGate(gate_db, clock=CLOCK, decibels_per_unit=0.7) for _ in range(2))
    edges = [0, *sorted(cuts), 100]
    parts = [cut.hear(level[4 * a : 4 * b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.hear(level))


def test_the_gate_stays_open_where_nothing_is_known() -> None:
    gate = NoiseGate(20.0, clock=CLOCK, decibels_per_unit=1.0)
    assert gate.hear(np.full(80, np.nan, dtype=np.float32)).all()


def test_a_keyword_fires_only_where_the_sound_rose_above_the_floor() -> None:
    # Half a dB a unit: 60 units are 30 dB. Outputs 30 to 32 are loud; the gate stays open for 20 frames, 5 outputs.
    quiet, loud = np.full(200, -100, dtype=np.float32), np.full(200, -100, dtype=np.float32)
    loud[120:132] += 60
    said = codes("-" * 34 + "yy" + "-" * 14)
    assert outputs(detector(gate_db=20.0).process(said, loud)) == [("yes", 34)]
    assert outputs(detector(gate_db=20.0).process(said, quiet)) == []
    assert outputs(detector(gate_db=40.0).process(said, loud)) == []
    late = codes("-" * 38 + "yy" + "-" * 10)
    assert outputs(detector(gate_db=20.0).process(late, loud)) == []


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 150), max_size=6),
    patience=st.integers(1, 3),
    gate_db=st.one_of(st.none(), st.just(15.0)),
)
def test_cutting_the_outputs_changes_no_event(cuts: list[int], patience: int, gate_db: float | None) -> None:
    rng = np.random.default_rng(11)
    rows, sound = rng.integers(-30, 30, (150, 3)).astype(np.int8), rng.normal(-80, 20, 600).astype(np.float32)
    config = {"smoothing_s": 0.08, "patience": patience, "gate_db": gate_db, "releases": {"no": 0.5}}
    whole, cut = detector(**config), detector(**config)
    found = []
    for a, b in itertools.pairwise([0, *sorted(cuts), 150]):
        found += cut.process(rows[a:b], sound[4 * a : 4 * b])
    assert found + cut.flush() == whole.process(rows, sound) + whole.flush()


@pytest.mark.parametrize("name", ["log_mel", "kaldi80"])
def test_ten_times_the_amplitude_is_twenty_decibels(name: str) -> None:
    spec = preset(name)
    noise = np.random.default_rng(0).normal(0, 300, spec.sample_rate).astype(np.int16)
    soft, loud = (activity(spec, compute_features(spec, noise * gain)).mean() for gain in (1, 10))
    unit = decibels_per_unit(spec)
    assert unit is not None
    assert unit * (loud - soft) == pytest.approx(20.0, abs=FLOOR_TOLERANCE_DB)


def test_features_without_a_sum_of_logarithms_have_no_decibels() -> None:
    spec = preset("log_mel")
    assert decibels_per_unit(replace(spec, n_dct=10)) is None
    assert decibels_per_unit(replace(spec, log="none")) is None
    assert decibels_per_unit(PcmSpec(sample_rate=16000, win_length=160, hop_length=160)) == 1.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patience": 0}, "patience=0 must be an integer from 1 to 1000"),
        ({"patience": 1.5}, "patience=1.5 must be an integer from 1 to 1000"),
        ({"gate_db": -3}, "gate_db=-3 must be a number from 0 to 100"),
        ({"releases": {"yes": 0.7}}, r"releases\['yes'\]=0.7 must be <= the label's threshold, 0.6; lower it"),
        ({"releases": 0.3}, "releases=0.3 must map labels to numbers"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        DetectorConfig.from_dict({"schema_version": 1, **values})


def test_what_the_network_or_its_features_lack_is_named() -> None:
    with pytest.raises(SpecError, match=r"releases name labels \['maybe'\], which the network lacks"):
        detector(releases={"maybe": 0.1})
    with pytest.raises(SpecError, match="gate_db=10 needs log-mel features or PCM; gate with a vad bundle instead"):
        KeywordDetector(DetectorConfig(gate_db=10), labels=LABELS, output_quant=QUANT, clock=CLOCK)


def test_settings_survive_the_way_to_json_and_back_and_new_ones_are_left_out_where_unset() -> None:
    config = DetectorConfig(patience=2, releases={"no": 0.1}, gate_db=12.0)
    assert DetectorConfig.from_dict(config.to_dict()) == config
    unset = {"schema_version", "smoothing_s", "threshold", "thresholds", "release", "refractory_s", "settle_s"}
    assert set(DetectorConfig().to_dict()) == unset
