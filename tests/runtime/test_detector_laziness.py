"""A detector that leaves out what cannot fire says what one that computes everything says, bit for bit."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime import probabilities as probabilities_module
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.probabilities import SmoothedProbabilities, quiet_lead
from edgeaudio_runtime.quantization import QuantParams

LABELS = ("_silence_", "yes", "_unknown_", "no")
KEYWORDS = (1, 3)
SCALE = 0.125
CLOCK = StreamClock(
    sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4, outputs_per_step=1,
    window_frames=40,
)  # fmt: skip
NEVER_QUIET = 10_000
"""A keyword with so large a handicap always leads, so every probability is computed."""
MARGIN = 1e-9
"""On which side of a threshold a mean lies, rounding must not decide."""


def new_detector(config: DetectorConfig, background: tuple[str, ...] = ("_silence_", "_unknown_")) -> KeywordDetector:
    quant = QuantParams(scale=(SCALE,), zero_point=0)
    return KeywordDetector(config, labels=LABELS, background_labels=background, output_quant=quant, clock=CLOCK)


def eager_detector(config: DetectorConfig) -> KeywordDetector:
    with mock.patch.object(probabilities_module, "quiet_lead", return_value=NEVER_QUIET):
        return new_detector(config)


def heard(detector: KeywordDetector, rows: np.ndarray, activity: np.ndarray, cuts: list[int]) -> list[KeywordEvent]:
    events = []
    for a, b in itertools.pairwise([0, *cuts, len(rows)]):
        events += detector.process(rows[a:b], activity[a * 4 : b * 4])
    return events + detector.flush()


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Long quiet stretches, some near the limit, with keywords in between."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        n, lead = draw(st.integers(1, 60)), draw(st.sampled_from([-40, -20, -6, -3, 0, 3, 30]))
        block = rng.integers(-60, -20, (n, len(LABELS)))
        block[:, draw(st.sampled_from(KEYWORDS))] = lead + rng.integers(-2, 3, n)
        block[:, draw(st.sampled_from([0, 2]))] = rng.integers(-2, 3, n)
        rows.append(block)
    codes = np.concatenate(rows).astype(np.int8)
    activity = np.cumsum(rng.normal(size=len(codes) * 4)).astype(np.float32)
    return codes, activity, sorted(draw(st.lists(st.integers(0, len(codes)), max_size=30)))


CONFIGS = st.builds(
    DetectorConfig,
    smoothing_s=st.sampled_from([0.0, 0.08, 0.3]),
    threshold=st.sampled_from([0.2, 0.5, 0.6, 0.9, 1.0]),
    release=st.sampled_from([0.05, 0.2]),
    refractory_s=st.sampled_from([0.0, 0.4]),
    settle_s=st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=80)
@given(stream=streams(), config=CONFIGS)
def test_leaving_out_what_cannot_fire_changes_nothing(
    stream: tuple[np.ndarray, np.ndarray, list[int]], config: DetectorConfig
) -> None:
    rows, activity, cuts = stream
    expected = heard(eager_detector(config), rows, activity, [])
    assert heard(new_detector(config), rows, activity, cuts) == expected
    every = list(range(len(rows)))
    assert heard(new_detector(config), rows, activity, every) == expected


def test_a_keyword_after_a_long_quiet_time_is_seen_with_what_came_before_it() -> None:
    quiet, spoken = [[40, -40, 10, -50]], [[-40, 60, -40, -50]]
    rows = np.array(quiet * 300 + spoken * 70 + quiet * 10, dtype=np.int8)
    activity = np.zeros(len(rows) * 4, dtype=np.float32)
    activity[300 * 4 : 320 * 4] = 9.0
    expected = heard(eager_detector(DetectorConfig()), rows, activity, [])
    assert len(expected) == 1
    for first in (1, 63, 64):
        cuts = [*range(300), 300 + first]
        assert heard(new_detector(DetectorConfig()), rows, activity, cuts) == expected


@given(stream=streams(), threshold=st.sampled_from([0.3, 0.5, 0.6, 0.9]))
def test_the_outputs_that_fire_are_those_of_the_definition(
    stream: tuple[np.ndarray, np.ndarray, list[int]], threshold: float
) -> None:
    rows, _, cuts = stream
    config = DetectorConfig(
        smoothing_s=0.16, threshold=threshold, release=threshold, refractory_s=0.0, settle_s=0.0
    )  # fmt: skip
    powers = np.exp(SCALE * rows.astype(np.float64))
    probs = powers / powers.sum(axis=1, keepdims=True)
    padded = np.concatenate([np.zeros((3, len(LABELS))), probs])
    scores = np.mean([padded[i : i + len(rows)] for i in range(4)], axis=0)
    margin = np.abs(scores[:, KEYWORDS] - threshold).min()
    if margin < 1e-9:  # the definition itself is undecided by rounding
        return
    expected, latched = [], set()
    for output, score in enumerate(scores):
        latched = {k for k in latched if score[k] >= threshold}
        best = int(score.argmax())
        if best in KEYWORDS and score[best] >= threshold and best not in latched:
            latched.add(best)
            expected.append((LABELS[best], pytest.approx(score[best]), pytest.approx(CLOCK.detected_s(output))))
    silent = np.full(len(rows) * 4, np.nan, dtype=np.float32)
    found = heard(new_detector(config), rows, silent, cuts)
    assert [(event.label, event.score, event.detected_s) for event in found] == expected


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3, 0.5, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("scale", [0.01, 0.125, 2.0])
def test_with_the_quiet_lead_no_keyword_reaches_its_threshold(threshold: float, scale: float) -> None:
    lead = quiet_lead(QuantParams(scale=(scale,)), threshold)
    # The worst case: one background label, one keyword, no other. The largest difference of two codes is 255.
    reached = [d for d in range(-255, 256) if 1 / (1 + np.exp(float(np.float32(scale)) * d)) >= threshold]
    assert lead > max(reached, default=-257)
    # And no more than it takes; at 1.0 the margin for rounding is all of it.
    assert lead == 256 or threshold == 1.0 or lead == max(reached, default=-257) + 1


def test_a_quiet_stream_costs_no_softmax() -> None:
    quiet = np.tile(np.array([[40, -20, 10, -30]], dtype=np.int8), (25, 1))
    one = new_detector(DetectorConfig())
    with mock.patch.object(SmoothedProbabilities, "_softmax", side_effect=AssertionError("computed")):
        for _ in range(200):
            assert one.process(quiet) == []


def test_without_background_labels_everything_is_computed_and_fires() -> None:
    rows = np.tile(np.array([[40, -20, -10, -30]], dtype=np.int8), (25, 1))
    config = DetectorConfig(smoothing_s=0.0, settle_s=0.0)
    assert [event.label for event in new_detector(config, background=()).process(rows)] == ["_silence_"]


def test_a_network_of_background_labels_alone_never_fires() -> None:
    rows = np.full((25, 4), 100, dtype=np.int8)
    assert new_detector(DetectorConfig(), background=LABELS).process(rows) == []


@settings(max_examples=60)
@given(stream=streams(), config=CONFIGS)
def test_what_the_watch_lets_pass_need_not_be_heard(
    stream: tuple[np.ndarray, np.ndarray, list[int]], config: DetectorConfig
) -> None:
    rows, activity, _ = stream
    expected = heard(new_detector(config), rows, activity, [])
    detector, events, waiting = new_detector(config), [], 0
    memory = detector.watch.memory_steps
    assert memory is not None
    thresholds, releases = np.array((detector.watch.thresholds, detector.watch.releases))
    for i, mean in enumerate(smoothed(rows, detector)):
        calls = np.where(detector.latched, mean <= releases + MARGIN, mean >= thresholds - MARGIN)
        if detector.is_idle and not calls.any():
            waiting += 1
            continue
        first = max(i - waiting, i - memory + 1)
        if waiting:
            detector.pass_over(rows[first:i], activity[first * 4 : i * 4], n_before=first - (i - waiting))
        events += detector.process(rows[i : i + 1], activity[i * 4 : i * 4 + 4])
        waiting = 0
    if not waiting:  # else nothing is outstanding, and the clock of a flush does not matter
        events += detector.flush()
    assert events == expected


def smoothed(rows: np.ndarray, detector: KeywordDetector) -> np.ndarray:
    """The mean of the newest softmax outputs by its definition."""
    powers, n = np.exp(SCALE * rows.astype(np.float64)), detector.watch.n_smoothing
    probabilities = np.pad(powers / powers.sum(1, keepdims=True), ((n - 1, 0), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(probabilities, n, axis=0).mean(-1)


def test_a_gate_remembers_all_there_was() -> None:
    quant = QuantParams(scale=(SCALE,), zero_point=0)
    config = DetectorConfig(gate_db=10.0)
    detector = KeywordDetector(
        config, labels=LABELS, background_labels=LABELS[::2], output_quant=quant, clock=CLOCK, decibels_per_unit=1.0
    )
    assert detector.watch.memory_steps is None
