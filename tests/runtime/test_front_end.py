"""The streaming front end: chunking changes nothing, framing, tail, reset, memory, errors."""

import dataclasses
import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime import frame_transform
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec, PcmSpec
from edgeaudio_runtime.front_end import BLOCK_FRAMES, FrontEnd, compute_features, front_end_in_use
from edgeaudio_runtime.presets import LOG_MEL, MLPERF_STREAMING_WAKEWORD, PRESETS, WINDOWED_PRESETS, preset

ODD_SPECS = {
    "positive offset": dataclasses.replace(LOG_MEL, first_offset=277),
    "hop equals window": dataclasses.replace(LOG_MEL, hop_length=400),
    "hop of one sample": dataclasses.replace(LOG_MEL, hop_length=1, win_length=64, n_fft=64, n_mels=8),
    "stream pre-emphasis from itself, offset": dataclasses.replace(
        MLPERF_STREAMING_WAKEWORD, preemphasis_first="self", first_offset=100
    ),
    "raw samples": PcmSpec(sample_rate=16_000, win_length=320, hop_length=320),
    "overlapping raw samples": PcmSpec(sample_rate=16_000, win_length=400, hop_length=160, first_offset=-200),
    "lifter and magnitude": dataclasses.replace(LOG_MEL, power=1, n_dct=13, dct_lifter=22.0, log="log10"),
}
SPECS = {**PRESETS, **ODD_SPECS}


def _noise(n_samples: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 3000, n_samples) * (np.sin(np.arange(n_samples) / 900) > 0)
    return np.rint(samples).clip(-32768, 32767).astype(np.int16)


def _stream(front_end: FrontEnd, samples: np.ndarray, sizes: list[int], multiple_of: int = 1) -> np.ndarray:
    parts, position = [], 0
    for size in sizes:
        parts.append(front_end.process(samples[position : position + size]))
        position += size
    parts.append(front_end.process(samples[position:]))
    parts.append(front_end.flush(multiple_of))
    return np.concatenate(parts)


@pytest.fixture(autouse=True, scope="module", params=["auto", "numpy"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with what this installation has, and with numpy where that is C."""
    if request.param == "numpy" and front_end_in_use(LOG_MEL) == "numpy":
        pytest.skip("this installation has the numpy front end alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAUDIO_FRONT_END", request.param)
        yield request.param


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=15)
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 7, 159, 160, 161, 399, 400, 401, 700, 1600, 9000]), max_size=25))
def test_frames_do_not_depend_on_chunking(name: str, sizes: list[int]) -> None:
    spec = SPECS[name]
    samples = _noise(700 if spec.hop_length == 1 else 14321)
    expected = compute_features(spec, samples)
    assert np.array_equal(_stream(FrontEnd(spec), samples, sizes), expected)


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=10)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 159, 160, 161, 400, 640, 1600, 9000]), max_size=25),
    multiple_of=st.sampled_from([2, 4, 5, 3 * BLOCK_FRAMES]),
)
def test_frames_in_multiples_are_the_same_frames(name: str, sizes: list[int], multiple_of: int) -> None:
    spec = SPECS[name]
    samples = _noise(700 if spec.hop_length == 1 else 14321)
    front_end, parts, position = FrontEnd(spec, multiple_of=multiple_of), [], 0
    for size in [*sizes, len(samples)]:
        parts.append(front_end.process(samples[position : position + size]))
        position += size
    # 3 and the multiple have no common factor, or are 3 times one another: the flush must round up to both.
    parts.append(front_end.flush(multiple_of=3))
    assert all(len(part) % multiple_of == 0 for part in parts)
    assert np.array_equal(np.concatenate(parts), compute_features(spec, samples, math.lcm(3, multiple_of)))


def test_frames_in_multiples_come_as_soon_as_they_are_complete() -> None:
    front_end = FrontEnd(LOG_MEL, multiple_of=4)
    # Frame 3 ends with sample 3 * 160 + 400, frame 7 one step of 640 samples later.
    assert [len(front_end.process(_noise(n))) for n in (879, 1, 639, 1)] == [0, 4, 0, 4]


@pytest.mark.parametrize("name", SPECS)
def test_sample_by_sample_equals_all_at_once(name: str) -> None:
    spec, samples = SPECS[name], _noise(3000)
    assert np.array_equal(_stream(FrontEnd(spec), samples, [1] * 3000), compute_features(spec, samples))


def test_a_chunk_longer_than_many_blocks_equals_short_chunks() -> None:
    samples = _noise(160 * BLOCK_FRAMES * 5 + 77)
    short = _stream(FrontEnd(LOG_MEL), samples, [160] * (BLOCK_FRAMES * 5))
    assert np.array_equal(compute_features(LOG_MEL, samples), short)


@pytest.mark.parametrize("name", SPECS)
def test_int16_and_float32_of_the_same_samples_are_equal_and_may_alternate(name: str) -> None:
    spec, codes = SPECS[name], _noise(4000)
    real = (codes / 32768).astype(np.float32)
    expected = compute_features(spec, codes)
    assert np.array_equal(compute_features(spec, real), expected)
    front_end = FrontEnd(spec)
    parts = [front_end.process((codes, real)[i % 2][i * 100 : (i + 1) * 100]) for i in range(40)]
    assert np.array_equal(np.concatenate([*parts, front_end.flush()]), expected)


@pytest.mark.parametrize("offset", [0, 277, -200])
def test_an_impulse_shows_in_exactly_the_frames_that_cover_it(offset: int) -> None:
    spec = dataclasses.replace(LOG_MEL, first_offset=offset)
    for position in (0, 399, 400, 1600, 1759, 3999):
        samples = np.zeros(4000, dtype=np.int16)
        samples[position] = 32767
        heard = np.flatnonzero(np.ptp(compute_features(spec, samples), axis=1) > 0)
        starts = offset + 160 * np.arange(spec.n_frames(4000))
        # The periodic Hann window is 0 at its first sample, so a frame does not hear that one.
        assert heard.tolist() == np.flatnonzero((starts < position) & (position < starts + 400)).tolist()


def test_digital_silence_is_the_floor_through_the_affine() -> None:
    features = compute_features(LOG_MEL, np.zeros(1600, dtype=np.int16))
    np.testing.assert_allclose(features, (np.log(1e-6) + 6.5) * 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("n_samples", "multiple_of", "n_frames"),
    [(0, 1, 0), (0, 4, 0), (1, 1, 1), (1, 4, 4), (160, 1, 1), (161, 1, 2), (16000, 1, 100), (16001, 4, 104)],
)
def test_flush_rounds_the_number_of_frames_up(n_samples: int, multiple_of: int, n_frames: int) -> None:
    assert len(compute_features(LOG_MEL, _noise(n_samples), multiple_of)) == n_frames


@pytest.mark.parametrize("name", SPECS)
def test_the_tail_is_what_silence_behind_the_samples_gives(name: str) -> None:
    spec, samples = SPECS[name], _noise(2345)
    features = compute_features(spec, samples, multiple_of=4)
    longer = FrontEnd(spec).process(np.concatenate([samples, np.zeros(6 * spec.win_length, dtype=np.int16)]))
    assert np.array_equal(features, longer[: len(features)])


def test_after_flush_and_after_reset_a_stream_starts_anew() -> None:
    samples = _noise(5000)
    front_end = FrontEnd(MLPERF_STREAMING_WAKEWORD)
    first = _stream(front_end, samples, [1000, 3])
    assert (front_end.n_samples, front_end.n_frames) == (0, 0)
    front_end.process(samples[:1234])
    assert (front_end.n_samples, front_end.n_frames) == (1234, 1)
    front_end.reset()
    assert np.array_equal(_stream(front_end, samples, [17]), first)


def test_two_streams_do_not_disturb_each_other() -> None:
    first, second = FrontEnd(LOG_MEL), FrontEnd(LOG_MEL)
    a, b = _noise(4000), _noise(4000, seed=2)
    pairs = [(first.process(a[i : i + 160]), second.process(b[i : i + 160])) for i in range(0, 4000, 160)]
    assert np.array_equal(np.concatenate([*(x for x, _ in pairs), first.flush()]), compute_features(LOG_MEL, a))
    assert np.array_equal(np.concatenate([*(y for _, y in pairs), second.flush()]), compute_features(LOG_MEL, b))


def test_an_output_is_not_overwritten_by_later_calls() -> None:
    front_end, samples = FrontEnd(LOG_MEL), _noise(1600)
    first = front_end.process(samples)
    kept = first.copy()
    front_end.process(samples[::-1].copy())
    assert np.array_equal(first, kept)


def test_no_frame_yet_is_an_empty_array_of_the_right_width() -> None:
    features = FrontEnd(LOG_MEL).process(np.zeros(399, dtype=np.int16))
    assert (features.shape, features.dtype) == ((0, 40), np.float32)


def test_views_with_strides_are_taken_as_they_are() -> None:
    stereo = np.stack([_noise(4000), _noise(4000, seed=2)], axis=1)
    assert np.array_equal(compute_features(LOG_MEL, stereo[:, 0]), compute_features(LOG_MEL, _noise(4000)))


def test_memory_does_not_grow_with_time() -> None:
    front_end, chunk = FrontEnd(LOG_MEL), _noise(160)
    for _ in range(200):
        front_end.process(chunk)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(3000):
        front_end.process(chunk)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # 3000 hops would be 1.9 MB of samples or 480 kB of features; a few objects of the interpreter are allowed.
    assert grown < 4096


def test_the_public_rfft_gives_the_bits_of_the_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = compute_features(LOG_MEL, _noise(8000), implementation="numpy")
    monkeypatch.setattr(frame_transform, "fastest_rfft", lambda: frame_transform.public_rfft)
    assert np.array_equal(compute_features(LOG_MEL, _noise(8000), implementation="numpy"), fast)


def test_float32_beyond_full_scale_is_neither_clipped_nor_rescaled() -> None:
    quiet = np.sin(np.arange(1600) / 3).astype(np.float32)
    # Twice the amplitude is four times the power: ln 4 more where the floor does not matter.
    louder = compute_features(dataclasses.replace(LOG_MEL, log_floor=1e-30), quiet * 2)
    gain = louder - compute_features(dataclasses.replace(LOG_MEL, log_floor=1e-30), quiet)
    np.testing.assert_allclose(gain[:8], np.log(4.0) * 0.2, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(160), "samples.dtype=float64 must be int16 or float32; use samples.astype"),
        (np.zeros(160, dtype=np.int32), r"samples.dtype=int32 must be int16 or float32; use \(samples >> 16\)"),
        (np.zeros(160, dtype=np.uint8), "samples.dtype=uint8 must be int16 or float32; decode to one of them first"),
        (np.zeros((160, 2), dtype=np.int16), r"samples.shape=\(160, 2\) must be 1-D; give one channel"),
        (np.zeros((), dtype=np.int16), r"samples.shape=\(\) must be 1-D"),
        ([0, 1, 2], "samples of type list must be a numpy array"),
        (b"\0\0", r"samples of type bytes must be a numpy array; use numpy.frombuffer\(data, dtype='<i2'\)"),
        (np.array([0, np.nan], dtype=np.float32), r"samples\[1\]=nan must be finite; look for a fault in the capture"),
        (np.array([-np.inf, 0], dtype=np.float32), r"samples\[0\]=-inf must be finite"),
        (np.array([0, 12000], dtype=np.float32), r"peak=12000 of float32 samples must be <= 32, full scale is -1\.\.1"),
        (np.array([0, 33] * 10, dtype=np.float32), "give int16, or divide by 32768"),
    ],
)
def test_a_wrong_chunk_is_refused_with_the_remedy_and_the_stream_is_as_before(samples: object, words: str) -> None:
    front_end, good = FrontEnd(LOG_MEL), _noise(1000)
    first = front_end.process(good)
    with pytest.raises(SpecError, match=words):
        front_end.process(samples)
    assert np.array_equal(np.concatenate([first, front_end.flush()]), compute_features(LOG_MEL, good))


def test_a_loud_chunk_within_the_limit_is_accepted() -> None:
    assert FrontEnd(LOG_MEL).process(np.full(1600, 31.9, dtype=np.float32)).shape == (8, 40)


@pytest.mark.parametrize("name", WINDOWED_PRESETS)
def test_a_specification_of_the_whole_recording_cannot_stream(name: str) -> None:
    words = "need the whole recording, they cannot stream; use compute_features in a windowed bundle"
    with pytest.raises(SpecError, match=words):
        FrontEnd(WINDOWED_PRESETS[name])
    assert compute_features(WINDOWED_PRESETS[name], _noise(16000)).shape[1] == preset(name).n_features


def test_another_kind_is_refused_by_name() -> None:
    class Raw(FeatureSpec):
        kind = "spectrogram"
        n_features: int = 1

    with pytest.raises(SpecError, match="feature kind 'spectrogram' must be 'mel' for this front end"):
        FrontEnd(Raw(sample_rate=16000, win_length=1, hop_length=1))


def test_flush_to_a_multiple_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="multiple_of=0 must be >= 1; 1 rounds to nothing"):
        FrontEnd(LOG_MEL).flush(multiple_of=0)
    with pytest.raises(SpecError, match="multiple_of=0 must be >= 1"):
        FrontEnd(LOG_MEL, multiple_of=0)


def test_the_front_end_names_its_specification() -> None:
    assert isinstance(FrontEnd(LOG_MEL).spec, MelSpec)
    assert FrontEnd(LOG_MEL).spec.hash == LOG_MEL.hash


def test_raw_samples_leave_as_they_came_in_frames_with_silence_behind() -> None:
    spec = PcmSpec(sample_rate=8000, win_length=3, hop_length=2, first_offset=-1)
    samples = np.array([32767, -32768, 1, 2], np.int16)
    frames = np.array([[0, 32767, -32768], [-32768, 1, 2], [2, 0, 0], [0, 0, 0]], np.float32) / 32768
    features = compute_features(spec, samples, multiple_of=4)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, frames)
    np.testing.assert_array_equal(compute_features(spec, (samples / 32768).astype(np.float32), multiple_of=4), frames)


def test_raw_samples_have_no_native_front_end() -> None:
    spec = PcmSpec(sample_rate=8000, win_length=3, hop_length=3)
    assert front_end_in_use(dataclasses.replace(spec, sample_rate=16_000)) == "numpy"
    with pytest.raises(SpecError, match="'native' cannot be had: raw samples need no transform"):
        FrontEnd(spec, implementation="native")
