"""The fixed-point front end against TensorFlow's C code: every integer equal."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_runtime import front_end
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MicrofrontendSpec
from edgeaudio_runtime.front_end import FrontEnd, compute_features, front_end_choice, front_end_in_use
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.presets import MICROFRONTEND, MICROFRONTEND_CODES, preset
from edgeaudio_runtime.quantization import quantize


@pytest.fixture(autouse=True, scope="module", params=["auto", "numpy"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here with what this installation has, and with numpy where that is C."""
    if request.param == "numpy" and front_end_in_use(MICROFRONTEND) == "numpy":
        pytest.skip("this installation has the numpy front end alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAUDIO_FRONT_END", request.param)
        yield request.param


CHOICES = (
    "native (C)",
    "numpy: its library was not built with this installation, or does not load (install with a C compiler at hand)",
)
GOLDEN = Path(__file__).parents[1] / "golden" / "microfrontend"


def _pymicro_features(samples: np.ndarray) -> np.ndarray:
    micro = pytest.importorskip("pymicro_features", reason="the reference package pymicro-features is not installed")
    reference, data, frames, start = micro.MicroFrontend(), samples.astype("<i2").tobytes(), [], 0
    while start + 320 <= len(data):
        result = reference.process_samples(data[start : start + 320])
        start += 2 * result.samples_read
        if result.features:
            frames.append(result.features)
    return np.array(frames)


def _signals() -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(0), np.arange(16_000)
    kept = {
        "silence": np.zeros(16_000),
        "noise at full scale": rng.integers(-32768, 32768, 16_000),
        "noise of 3 codes": rng.integers(-3, 4, 16_000),
        "sine at full scale": 32767 * np.sin(0.37 * n),
        "square wave": np.where(n // 37 % 2, 32767, -32768),
        "smallest values among small ones": np.where(
            rng.random(16_000) < 0.004, -32768, rng.integers(-900, 901, 16_000)
        ),
        "bursts": rng.normal(0, 3000, 16_000) * (np.sin(n / 900) > 0),
    }
    return {name: np.rint(signal).astype(np.int16) for name, signal in kept.items()}


@pytest.mark.parametrize("name", _signals())
def test_features_equal_those_of_pymicro_features(name: str) -> None:
    samples = _signals()[name]
    expected = _pymicro_features(samples)
    assert expected.shape == (98, 40)
    np.testing.assert_array_equal(FrontEnd(MICROFRONTEND).process(samples), expected)


@pytest.mark.real_speech
def test_features_of_speech_equal_those_of_pymicro_features(real_data: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    paths = sorted((real_data / "wake_words" / "validation").rglob("*.flac"))[:12]
    samples = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in paths])
    expected = _pymicro_features(samples)
    assert expected.max() > 20
    np.testing.assert_array_equal(FrontEnd(MICROFRONTEND).process(samples)[: len(expected)], expected)


@pytest.mark.parametrize("name", ["every_20ms", "no_gain_control", "wrapped_gain"])
def test_other_specifications_equal_the_c_code(name: str) -> None:
    header, samples, *rows = (GOLDEN / f"{name}.txt").read_text().splitlines()
    expected = np.array([row.split() for row in rows], dtype=np.float32)
    spec = FeatureSpec.from_dict(json.loads(header)["spec"])
    np.testing.assert_array_equal(FrontEnd(spec).process(np.array(samples.split(), np.int16)), expected)


def test_golden_files_are_the_ones_their_checksums_name() -> None:
    for line in (GOLDEN / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest


def test_the_presets_are_those_of_microwakeword_and_micro_speech() -> None:
    # A window of 30 ms, 40 channels from 125 to 7500 Hz, every 10 and every 20 ms.
    every_10ms, every_20ms = preset("microfrontend"), preset("microfrontend_20ms")
    assert (every_10ms.win_length, every_10ms.hop_length, every_10ms.n_features) == (480, 160, 40)
    assert every_20ms == replace(every_10ms, hop_length=320)
    assert every_10ms.hash != every_20ms.hash
    assert FeatureSpec.from_dict(every_10ms.to_dict()) == every_10ms


def test_reset_and_flush_forget_the_noise() -> None:
    samples = _signals()["bursts"]
    once = compute_features(MICROFRONTEND, samples)
    stream = FrontEnd(MICROFRONTEND)
    stream.process(samples)
    stream.reset()
    np.testing.assert_array_equal(stream.process(samples), once[:98])
    stream.flush()
    np.testing.assert_array_equal(stream.process(samples), once[:98])
    assert (stream.process(samples)[:98] != once[:98]).any()


def test_float_samples_are_rounded_half_to_even_and_clipped_to_int16() -> None:
    codes = _signals()["noise at full scale"]
    real = (codes / 32768).astype(np.float32)
    np.testing.assert_array_equal(compute_features(MICROFRONTEND, real), compute_features(MICROFRONTEND, codes))
    loud = np.clip(codes.astype(np.int32) * 2, -32768, 32767).astype(np.int16)
    np.testing.assert_array_equal(compute_features(MICROFRONTEND, 2 * real), compute_features(MICROFRONTEND, loud))


def test_the_int8_view_is_the_integer_formula_of_the_devices() -> None:
    values = np.arange(0, 700)
    # ESPHome and micro_speech: (256 * v + 333) / 666 - 128, in integers.
    expected = np.clip((256 * values + 333) // 666 - 128, -128, 127)
    np.testing.assert_array_equal(
        quantize(values.astype(np.float32) * np.float32(10 / 256), MICROFRONTEND_CODES), expected
    )


def test_activity_is_the_sum_of_the_channels() -> None:
    features = np.arange(80, dtype=np.float32).reshape(2, 40)
    np.testing.assert_array_equal(activity(MICROFRONTEND, features), [780, 2380])


def test_where_it_is_computed_is_said(implementation: str) -> None:
    said = front_end_choice(MICROFRONTEND)
    assert said == "numpy: EDGEAUDIO_FRONT_END says so" if implementation == "numpy" else said in CHOICES


def test_a_library_of_an_older_build_leaves_the_work_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAUDIO_FRONT_END", "auto")
    monkeypatch.setattr(front_end, "load_library", object)
    assert front_end_choice(MICROFRONTEND) == CHOICES[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"win_length": 256}, "win_length=256 must be 257 to 512: the fixed-point FFT has 512 points"),
        ({"win_length": 640}, "win_length=640 must be 257 to 512"),
        ({"n_mels": 0}, "n_mels=0 must be 1 to 256, the bins of the fixed-point FFT; use 40"),
        ({"n_mels": 257}, "n_mels=257 must be 1 to 256"),
        ({"f_max": 8000.0}, r"f_min=125.0 and f_max=8000.0 must satisfy 0 <= f_min < f_max < 8000.0 Hz"),
        ({"odd_smoothing": 1.5}, "odd_smoothing=1.5 must be between 0 and 1"),
        ({"pcan_offset": 0.0}, "pcan_offset=0.0 must be >= 1 and output_scale=0.0390625 not 0"),
        ({"pcan": 1}, "pcan=1 must be of type bool"),
        ({"n_fft": 512}, r"unknown feature fields \['n_fft'\]; this runtime knows \['even_smoothing', 'f_max'"),
    ],
)
def test_a_broken_specification_is_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        FeatureSpec.from_dict({**MICROFRONTEND.to_dict(), **change})


def test_a_channel_between_two_bins_stays_silent() -> None:
    # 200 channels from 100 to 200 Hz, half a hertz each, where bins lie 31.25 Hz apart.
    spec = MicrofrontendSpec(sample_rate=16_000, win_length=480, hop_length=160, n_mels=200, f_min=100.0, f_max=200.0)
    heard = compute_features(spec, _signals()["noise at full scale"]).any(axis=0)
    assert heard.sum() <= 2 * 4
