"""Resampling as the samples come: the same as at once, bit for bit, and at the level it was."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.errors import AudioError, SpecError
from edgeaudio_runtime.resampling import Resampler

NOISE = np.random.default_rng(3).integers(-8000, 8000, 12_000).astype(np.int16)


def convert(samples: np.ndarray, cuts: list[int], from_rate: int, to_rate: int = 16000) -> np.ndarray:
    resampler = Resampler(from_rate, to_rate)
    parts = [resampler.process(part) for part in np.split(samples, sorted(cuts))]
    return np.concatenate([*parts, resampler.flush()])


def test_a_tone_and_its_duration_are_kept() -> None:
    time = np.arange(44100) / 44100
    tone = np.round(8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    out = convert(tone, list(range(1000, 44100, 1000)), 44100)
    assert out.dtype == np.float32
    assert abs(len(out) - 16000) <= 1
    expected = 8000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    # soxr HQ: the pass band is flat to 0.01 dB; the first and last 20 ms ring.
    np.testing.assert_allclose(out[320:15680], expected[320:15680], atol=1e-3)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, len(NOISE)), max_size=40), rate=st.sampled_from([8000, 22050, 44100, 48000]))
def test_the_output_does_not_depend_on_how_the_input_was_cut(cuts: list[int], rate: int) -> None:
    np.testing.assert_array_equal(convert(NOISE, cuts, rate), convert(NOISE, [], rate))


def test_a_flush_leaves_it_as_new() -> None:
    resampler = Resampler(48000, 16000)
    first, again = (np.concatenate([resampler.process(NOISE), resampler.flush()]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    resampler.process(NOISE)
    resampler.reset()
    np.testing.assert_array_equal(np.concatenate([resampler.process(NOISE), resampler.flush()]), first)


def test_int16_and_float32_of_one_recording_give_the_same() -> None:
    as_float = NOISE.astype(np.float32) / np.float32(32768)
    np.testing.assert_array_equal(convert(NOISE, [], 48000), convert(as_float, [], 48000))


def test_what_cannot_be_resampled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="sample_rate=0 must be 1000 to 768000 Hz"):
        Resampler(0, 16000)
    with pytest.raises(SpecError, match="must be finite"):
        Resampler(48000, 16000).process(np.array([np.nan], dtype=np.float32))
    with pytest.raises(SpecError, match="must be int16 or float32"):
        Resampler(48000, 16000).process(np.zeros(3))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(AudioError, match=r"soxr is not installed; run: pip install 'edgeaudio-runtime\[resample\]'"):
        Resampler(8000, 16000)
