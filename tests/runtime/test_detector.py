"""The keyword detector by hand numbers: when it fires, when it must not, and where it puts the word."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.extent import StreamClock, active_region
from edgeaudio_runtime.probabilities import softmax_table
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.recent import RecentRows

LABELS = ("_silence_", "yes", "no")
QUANT = QuantParams(scale=(0.1,), zero_point=0)
# Frames of 25 ms every 10 ms; an output every 40 ms, averaging 1 s.
CLOCK = StreamClock(
    sample_rate=16000,
    hop_length=160,
    win_length=400,
    first_offset=0,
    step_frames=4,
    outputs_per_step=1,
    window_frames=100,
)
AT_ONCE = {"smoothing_s": 0.0, "settle_s": 0.0}


def detector(clock: StreamClock = CLOCK, **config: object) -> KeywordDetector:
    return KeywordDetector(
        DetectorConfig(**{**AT_ONCE, **config}),
        labels=LABELS,
        background_labels=("_silence_",),
        output_quant=QUANT,
        clock=clock,
    )


def codes(*names: str | None) -> np.ndarray:
    """One output each: the named label at real 10, the others at 0; None leaves all equal."""
    rows = np.zeros((len(names), len(LABELS)), dtype=np.int8)
    for row, name in zip(rows, names, strict=True):
        if name is not None:
            row[LABELS.index(name)] = 100
    return rows


def labels(events: list[KeywordEvent]) -> list[str]:
    return [event.label for event in events]


def detected_s(output: int) -> float:
    """End of the last frame (25 ms) of the step of 40 ms."""
    return ((output + 1) * 4 - 1) * 0.010 + 0.025


def test_softmax_by_table_is_softmax() -> None:
    logits = np.array([[12, -30, 5]], dtype=np.int8)
    real = logits.astype(np.float64) * np.float32(0.1)
    expected = np.exp(real) / np.exp(real).sum()
    powers = softmax_table(QUANT)[logits.max() - logits.astype(int)]
    np.testing.assert_allclose(powers / powers.sum(), expected, rtol=1e-12)


def test_a_label_fires_once_when_it_reaches_the_threshold() -> None:
    events = detector().process(codes(None, "yes", "yes", "yes", None, None))
    assert labels(events) == ["yes"]
    assert events[0].detected_s == pytest.approx(detected_s(1))
    # Softmax of (10, 0, 0).
    assert events[0].score == pytest.approx(1 / (1 + 2 * np.exp(-10)), abs=1e-6)


def test_a_background_label_never_fires() -> None:
    assert detector().process(codes(*["_silence_"] * 10)) == []


def test_a_label_below_the_threshold_does_not_fire() -> None:
    rows = np.array([[0, 10, 0]] * 5, dtype=np.int8)  # e / (e + 2) = 0.576
    assert detector(threshold=0.58).process(rows) == []
    assert labels(detector(threshold=0.57).process(rows)) == ["yes"]


def test_a_label_may_have_its_own_threshold() -> None:
    rows = np.array([[0, 10, 0], [0, 0, 10]], dtype=np.int8)
    found = detector(threshold=0.9, thresholds={"no": 0.5}).process(rows)
    assert labels(found) == ["no"]


def test_only_the_largest_probability_fires() -> None:
    rows = np.array([[31, 30, 0]], dtype=np.int8)  # silence leads, yes has 0.46
    assert detector(threshold=0.4).process(rows) == []


def test_smoothing_is_the_mean_over_its_window_and_counts_nothing_before_the_stream() -> None:
    # Window of 4 outputs, probability 1 - 9e-5 from the first on: 1/4, 2/4, 3/4 -> the third passes 0.6.
    events = detector(smoothing_s=0.16).process(codes("yes", "yes", "yes", "yes"))
    assert events[0].detected_s == pytest.approx(detected_s(2))
    assert events[0].score == pytest.approx(0.75, abs=1e-4)


def test_a_label_fires_again_only_after_release() -> None:
    weaker = np.array([[0, 10, 0]], dtype=np.int8)  # 0.576: below the threshold, above release
    held = np.concatenate([codes("yes"), *[weaker] * 20, codes("yes", "yes")])
    assert labels(detector(refractory_s=0.0).process(held)) == ["yes"]
    released = np.concatenate([codes("yes"), *[weaker] * 20, codes("no"), codes("yes")])
    assert labels(detector(refractory_s=0.0).process(released)) == ["yes", "no", "yes"]


def test_nothing_fires_within_the_refractory_time() -> None:
    # 0.4 s are 10 outputs: "no" is held back from output 3 to output 10 and fires there, since it still holds.
    events = detector(refractory_s=0.4).process(codes("yes", None, None, *["no"] * 12))
    assert labels(events) == ["yes", "no"]
    assert events[1].detected_s == pytest.approx(detected_s(10))
    assert labels(detector(refractory_s=0.4).process(codes("yes", None, None, "no", None, *[None] * 10))) == ["yes"]


def activity_of(spans: list[tuple[int, int]], n_frames: int, *, floor: float = -10.0, peak: float = 0.0) -> np.ndarray:
    activity = np.full(n_frames, floor, dtype=np.float32)
    for first, last in spans:
        activity[first : last + 1] = peak
    return activity


def test_the_word_lies_where_the_activity_is() -> None:
    # Frames 60..99 are loud; frame i stands for the 10 ms around its centre, i * 10 + 12.5 ms.
    names = [None] * 24 + ["yes"] * 2 + [None] * 9
    event = detector(settle_s=0.3).process(codes(*names), activity_of([(60, 99)], 140))[0]
    assert event.start_s == pytest.approx(0.6075)
    assert event.end_s == pytest.approx(1.0075)
    # Ten quiet frames may be a gap, the eleventh ends the word: frame 110, seen with the step that ends at frame 111.
    assert event.detected_s == pytest.approx(detected_s(27))


def test_a_word_that_goes_on_is_reported_when_the_patience_ends() -> None:
    names = [None] * 24 + ["yes"] * 11
    event = detector(settle_s=0.2).process(codes(*names), activity_of([(60, 139)], 140))[0]
    assert event.detected_s == pytest.approx(detected_s(24 + 5))
    assert event.end_s == pytest.approx((30 * 4) * 0.010 + 0.0075)


def test_with_no_patience_the_event_leaves_at_the_crossing() -> None:
    event = detector(settle_s=0.0).process(codes(*[None] * 24, "yes"), activity_of([(60, 99)], 100))[0]
    assert event.detected_s == pytest.approx(detected_s(24))


def test_flush_reports_a_word_that_still_sounds() -> None:
    waiting = detector(settle_s=0.5)
    assert waiting.process(codes(*[None] * 24, "yes"), activity_of([(60, 99)], 100)) == []
    event = waiting.flush()[0]
    assert (event.label, event.start_s) == ("yes", pytest.approx(0.6075))
    assert waiting.flush() == []


def test_a_short_pause_is_part_of_the_word_and_a_long_one_is_not() -> None:
    names = [None] * 34 + ["yes"]
    near = detector().process(codes(*names), activity_of([(60, 79), (88, 119)], 140))[0]
    assert near.start_s == pytest.approx(0.6075)
    far = detector().process(codes(*names), activity_of([(60, 71), (88, 119)], 140))[0]
    assert far.start_s == pytest.approx(0.8875)


def test_the_previous_word_is_not_taken_again() -> None:
    names = [None] * 20 + ["yes"] + [None] * 19 + ["no"]
    loud = activity_of([(40, 79), (120, 139)], 164)
    events = detector(refractory_s=0.4).process(codes(*names), loud)
    assert [(e.label, e.start_s) for e in events] == [("yes", pytest.approx(0.4075)), ("no", pytest.approx(1.2075))]


def test_a_click_is_not_the_word() -> None:
    names = [None] * 34 + ["yes"]
    loud = activity_of([(60, 99)], 140, peak=-3.0)
    loud[130:132] = 0.0
    assert detector().process(codes(*names), loud)[0].start_s == pytest.approx(0.6075)


@pytest.mark.parametrize("activity", [None, np.full(140, -3.0, dtype=np.float32)])
def test_without_contrast_the_rise_of_the_probability_says_where(activity: np.ndarray | None) -> None:
    names = [None] * 24 + ["_silence_"] * 6 + ["yes"] * 5
    event = detector(smoothing_s=0.16).process(codes(*names), activity)[0]
    # Smoothed 1/4 at output 30, 2/4 at 31, 3/4 at 32, where it fires; it was below 0.075 at 29. Half of 3: 60 ms.
    assert event.detected_s == pytest.approx(detected_s(32))
    assert event.end_s == pytest.approx(detected_s(32) - 0.06)
    assert event.start_s == pytest.approx(detected_s(32) - 0.06 - 3 * 0.04)


def test_times_are_never_before_the_stream() -> None:
    event = detector(smoothing_s=0.16).process(codes("yes", "yes", "yes"))[0]
    assert 0.0 <= event.start_s <= event.end_s <= event.detected_s


def test_reset_begins_a_new_stream() -> None:
    used = detector()
    used.process(codes("yes", "yes"))
    used.reset()
    assert used.process(codes(None, "yes")) == detector().process(codes(None, "yes"))


def test_two_outputs_a_step_are_half_a_step_apart() -> None:
    clock = StreamClock(
        sample_rate=16000, hop_length=160, win_length=400, first_offset=0,
        step_frames=4, outputs_per_step=2, window_frames=100,
    )  # fmt: skip
    assert clock.output_s == pytest.approx(0.02)
    events = detector(clock, smoothing_s=0.04).process(codes(None, "yes", "yes", "yes"))
    # Two outputs of smoothing: 0.5 + 0.17 is above 0.6 already with the first "yes".
    assert events[0].detected_s == pytest.approx(detected_s(0))
    with pytest.raises(SpecError, match="3 outputs are no whole number of steps; a step yields 2"):
        detector(clock).process(codes(None, None, None))


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int]]:
    n = draw(st.integers(1, 400))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    wandering = np.cumsum(rng.integers(-25, 26, (n, 3)), axis=0)
    activity = np.cumsum(rng.normal(size=n * 4)).astype(np.float32)
    cuts = draw(st.lists(st.integers(0, n), max_size=8))
    return np.clip(wandering, -128, 127).astype(np.int8), activity, sorted(cuts)


@given(stream=streams(), smoothing_s=st.sampled_from([0.0, 0.1, 0.3]), settle_s=st.sampled_from([0.0, 0.2, 1.0]))
def test_cutting_the_outputs_changes_nothing(
    stream: tuple[np.ndarray, np.ndarray, list[int]], smoothing_s: float, settle_s: float
) -> None:
    rows, activity, cuts = stream
    config = {"smoothing_s": smoothing_s, "settle_s": settle_s, "refractory_s": 0.2, "threshold": 0.5, "release": 0.3}
    whole, cut = detector(**config), detector(**config)
    expected = whole.process(rows, activity) + whole.flush()
    found = []
    for a, b in itertools.pairwise([0, *cuts, len(rows)]):
        found += cut.process(rows[a:b], activity[a * 4 : b * 4])
    assert found + cut.flush() == expected
    for event in expected:
        assert 0.0 <= event.start_s <= event.end_s <= event.detected_s


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 3, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"it must be \[k, 3\]"):
        detector().process(np.zeros(shape, dtype=np.int8))


def test_activity_of_another_length_is_refused() -> None:
    with pytest.raises(SpecError, match=r"activity has shape \[7\], it must be \[8\], one value a frame"):
        detector().process(codes(None, None), np.zeros(7, dtype=np.float32))


def test_a_threshold_for_an_unknown_label_is_refused() -> None:
    with pytest.raises(SpecError, match=r"thresholds name labels \['maybe'\], which the network lacks"):
        detector(thresholds={"maybe": 0.9})


def test_an_endless_averaging_window_is_refused() -> None:
    with pytest.raises(SpecError, match=r"window_frames=10{30} must be <= 100000; export the bundle again"):
        detector(replace(CLOCK, window_frames=10**30))


def test_logits_of_several_scales_are_refused() -> None:
    quant = QuantParams(scale=(0.1, 0.2, 0.3), axis=1)
    with pytest.raises(SpecError, match="output_quant has axis=1; logits must share one scale"):
        KeywordDetector(DetectorConfig(), labels=LABELS, output_quant=quant, clock=CLOCK)


def test_a_configuration_survives_the_way_to_json_and_back() -> None:
    config = DetectorConfig(threshold=0.7, thresholds={"yes": 0.8}, release=0.2, refractory_s=1.0, settle_s=0.0)
    assert DetectorConfig.from_dict(config.to_dict()) == config


def test_no_active_region_in_nothing() -> None:
    assert active_region(np.full(148, np.nan, dtype=np.float32), clock=CLOCK, taken=-1) is None
    assert active_region(np.zeros(148, dtype=np.float32), clock=CLOCK, taken=147) is None


@given(sizes=st.lists(st.integers(0, 5), max_size=60), kept=st.integers(1, 12))
def test_recent_rows_are_the_last_of_all_rows(sizes: list[int], kept: int) -> None:
    recent = RecentRows(kept, (2,), fill=-1.0, dtype=np.float64, block=5)
    everything = np.full((kept, 2), -1.0)
    for value, size in enumerate(sizes):
        recent.extend(size)[:] = value
        everything = np.concatenate((everything, np.full((size, 2), float(value))))
        np.testing.assert_array_equal(recent.last(kept), everything[-kept:])
        np.testing.assert_array_equal(recent.last(kept + size), everything[-(kept + size) :])


@given(sizes=st.lists(st.integers(0, 5), max_size=60), window=st.integers(1, 9))
def test_windows_are_the_last_rows_before_each_row(sizes: list[int], window: int) -> None:
    recent = RecentRows(window - 1, (2,), fill=-1.0, dtype=np.float64, block=5, window=window)
    everything = np.full((window - 1, 2), -1.0)
    for value, size in enumerate(sizes):
        recent.extend(size)[:] = value
        everything = np.concatenate((everything, np.full((size, 2), float(value))))
        ends = range(len(everything) - size, len(everything))
        expected = [everything[end - window + 1 : end + 1] for end in ends]
        np.testing.assert_array_equal(recent.windows(size), np.reshape(expected, (size, window, 2)))
