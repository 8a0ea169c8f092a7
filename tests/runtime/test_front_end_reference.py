"""The front end against librosa, kaldi-native-fbank, formulas, golden files and a third party's model."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_runtime.front_end import compute_features, front_end_in_use
from edgeaudio_runtime.presets import KALDI80, MLPERF_STREAMING_WAKEWORD, MLPERF_TINY_KWS, preset, windowed_preset


@pytest.fixture(autouse=True, scope="module", params=["auto", "numpy"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every reference against what this installation has, and against numpy where that is C."""
    if request.param == "numpy" and front_end_in_use(preset("log_mel")) == "numpy":
        pytest.skip("this installation has the numpy front end alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAUDIO_FRONT_END", request.param)
        yield request.param


GOLDEN = Path(__file__).parents[1] / "golden" / "front_end"

NATS = 1e-5
"""Bar against float64 in natural-log units; mel and logarithm run in float32, whose half step at 16 is 1e-6."""
KNF_NATS = 5e-3
"""kaldi-native-fbank computes in float32 itself; its own error grows where a band lies far below its neighbours."""
CEPSTRUM = 1e-4
"""40 logs of up to 28 nats are summed in float32; c0 of silence is -247, where one float32 step is 1.5e-5."""

NATS_PER_UNIT = {
    "log_mel": 1 / 0.2, "kaldi80": 1.0, "whisper80": 4 * np.log(10), "librosa_db": np.log(10) / 10,
}  # fmt: skip
"""What one unit of a preset's features is in natural-log units."""


def _clips(folder: Path, n_clips: int, split: str = "validation") -> list[tuple[str, np.ndarray]]:
    soundfile = pytest.importorskip("soundfile")
    with (folder / "speech_commands" / "manifest.csv").open() as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["split"] == split]
    chosen = np.random.default_rng(7).choice(len(rows), n_clips, replace=False)
    read = lambda path: soundfile.read(folder / "speech_commands" / path, dtype="float32")[0]  # noqa: E731
    clips = [(rows[i]["label"], read(rows[i]["path"])) for i in chosen]
    return [(label, clip) for label, clip in clips if len(clip) > 2048]


def _artificial() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    silence = np.zeros(8000, dtype=np.float32)
    burst = silence.copy()
    burst[3000:5000] = rng.normal(0, 0.1, 2000)
    noise = rng.normal(0, 1e-3, 8000).astype(np.float32)
    return [silence, burst, noise, np.round(rng.uniform(-1, 1, 8000)).astype(np.float32) / 32768]


def _librosa_features(name: str, x: np.ndarray) -> np.ndarray:
    librosa = pytest.importorskip("librosa")
    spec = preset(name)
    # librosa centres the window in the FFT buffer; zeros in front put frame i where ours is.
    before = (spec.n_fft - spec.win_length) // 2 - spec.first_offset
    signal = np.pad(x.astype(np.float64), (before, spec.n_fft))
    stft = librosa.stft(signal, n_fft=spec.n_fft, win_length=spec.win_length, hop_length=spec.hop_length, center=False)
    bank = librosa.filters.mel(
        sr=16000, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.f_min, fmax=spec.f_max, dtype=np.float64,
        htk=name == "log_mel", norm=None if name == "log_mel" else "slaney",
    )  # fmt: skip
    mel = (bank @ np.abs(stft) ** 2).T
    finish = {
        "log_mel": lambda: (np.log(mel + 1e-6) + 6.5) * 0.2,
        "whisper80": lambda: (np.maximum(np.log10(np.maximum(mel, 1e-10)), -7.0) + 4.0) / 4.0,
        "librosa_db": lambda: np.maximum(librosa.power_to_db(mel, amin=1e-10, top_db=None), -55.0),
    }
    return finish[name]()


def _assert_close_to_librosa(name: str, x: np.ndarray) -> None:
    features = compute_features(preset(name), x)
    expected = _librosa_features(name, x)[: len(features)]
    assert len(expected) == len(features)
    assert np.max(np.abs(features - expected)) * NATS_PER_UNIT[name] < NATS


@pytest.mark.parametrize("name", ["log_mel", "whisper80", "librosa_db"])
def test_silence_and_noise_equal_librosa_in_float64(name: str) -> None:
    for x in _artificial():
        _assert_close_to_librosa(name, x)


@pytest.mark.real_speech
@pytest.mark.parametrize("name", ["log_mel", "whisper80", "librosa_db"])
def test_real_speech_equals_librosa_in_float64(name: str, real_data: Path) -> None:
    for _, x in _clips(real_data, 40):
        _assert_close_to_librosa(name, x)


@pytest.mark.real_speech
def test_real_speech_equals_kaldi_native_fbank(real_data: Path) -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400.0
    for _, x in _clips(real_data, 20):
        bank = knf.OnlineFbank(options)
        bank.accept_waveform(16000, x.tolist())
        expected = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
        features = compute_features(KALDI80, x)[: len(expected)]
        assert np.max(np.abs(features - expected)) < KNF_NATS
        assert np.mean(np.abs(features - expected)) < NATS


@pytest.mark.parametrize("name", ["log_mel", "whisper80", "librosa_db", "kaldi80"])
def test_golden_vectors_are_reproduced(name: str) -> None:
    header, samples, *rows = (GOLDEN / f"{name}.txt").read_text().splitlines()
    expected = np.array([row.split() for row in rows], dtype=np.float64)
    assert list(expected.shape) == json.loads(header)["shape"]
    features = compute_features(preset(name), np.array(samples.split(), dtype=np.int16))[: len(expected)]
    tolerance = KNF_NATS if name == "kaldi80" else NATS
    assert np.max(np.abs(features - expected)) * NATS_PER_UNIT[name] < tolerance


def test_golden_files_are_the_ones_their_checksums_name() -> None:
    for line in (GOLDEN / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest


def _frames(x: np.ndarray, win_length: int, hop_length: int) -> np.ndarray:
    starts = range(0, len(x) - win_length + 1, hop_length)
    return np.stack([x[start : start + win_length] for start in starts])


def _htk_triangles(n_fft: int, n_mels: int, low: float, high: float) -> np.ndarray:
    # tf.signal.linear_to_mel_weight_matrix: straight over mels, DC left out.
    mel = 1127.0 * np.log1p(np.arange(n_fft // 2 + 1) * (16000 / n_fft) / 700.0)
    edges = np.linspace(1127.0 * np.log1p(low / 700.0), 1127.0 * np.log1p(high / 700.0), n_mels + 2)
    triangles = [np.interp(mel, edges[i : i + 3], [0.0, 1.0, 0.0]) for i in range(n_mels)]
    matrix = np.stack(triangles, axis=1)
    matrix[0] = 0.0
    return matrix


def _tensorflow_cepstra(log_mel: np.ndarray, n_dct: int) -> np.ndarray:
    n_mels = log_mel.shape[1]
    rows = [np.cos(np.pi / n_mels * k * (np.arange(n_mels) + 0.5)) for k in range(n_dct)]
    return np.sqrt(2.0 / n_mels) * log_mel @ np.array(rows).T


def _periodic_hann(n: int) -> np.ndarray:
    return np.hanning(n + 1)[:n]


def test_tf_mfcc_equals_the_formula_of_the_kernel() -> None:
    for x in _artificial():
        magnitude = np.abs(np.fft.rfft(_frames(x.astype(np.float64), 480, 320) * _periodic_hann(480), 512))
        # The kernel starts at bin floor(1.5 + 20 / 31.25) = 2 and ends at bin 4000 / 31.25 = 128, of weight 0.
        magnitude[:, :2] = 0.0
        mel = magnitude @ _htk_triangles(512, 40, 20.0, 4000.0)
        expected = _tensorflow_cepstra(np.log(np.maximum(mel, 1e-12)), 40)
        features = compute_features(preset("tf_mfcc_kws"), x)[: len(expected)]
        assert np.max(np.abs(features - expected)) < CEPSTRUM


@pytest.mark.parametrize("windowed", [False, True])
def test_mlperf_keyword_cepstra_equal_the_formula(windowed: bool) -> None:
    for x in _artificial():
        peak = float(x.max()) or 1.0
        scaled = x.astype(np.float64) * (1.0 / peak if windowed else 2.5)
        magnitude = np.abs(np.fft.rfft(_frames(scaled, 480, 320) * _periodic_hann(480), 512))
        expected = _tensorflow_cepstra(np.log(magnitude @ _htk_triangles(512, 40, 20.0, 4000.0) + 1e-6), 10)
        spec = windowed_preset("mlperf_tiny_kws") if windowed else MLPERF_TINY_KWS
        features = compute_features(spec, x)[: len(expected)]
        assert np.max(np.abs(features - expected)) < CEPSTRUM


@pytest.mark.parametrize("windowed", [False, True])
def test_mlperf_wake_word_features_equal_the_formula(windowed: bool) -> None:
    for x in _artificial():
        signal = x.astype(np.float64)
        if windowed and x.any():
            signal = (signal - signal.mean()) / np.abs(signal - signal.mean()).max()
        emphasized = signal - 0.96875 * np.concatenate([[0.0], signal[:-1]])
        power = np.abs(np.fft.rfft(_frames(emphasized, 1024, 512) * np.hamming(1024))) ** 2 / 1024
        decibels = 10 * np.log10(np.maximum(power @ _htk_triangles(1024, 40, 0.0, 8000.0), 1e-30))
        expected = np.clip((decibels + 52) / 64, 0, 1)
        spec = windowed_preset("mlperf_streaming_wakeword") if windowed else MLPERF_STREAMING_WAKEWORD
        features = compute_features(spec, x)[: len(expected)]
        assert np.max(np.abs(features - expected)) < NATS * 10 / np.log(10) / 64


def test_whisper_s_original_is_floored_eight_decades_below_its_maximum_with_reflected_edges() -> None:
    x = _artificial()[1] + np.float32(0.01) * np.sin(np.arange(8000, dtype=np.float32) / 5)
    padded = np.pad(x.astype(np.float64), 200, mode="reflect")
    power = np.abs(np.fft.rfft(_frames(padded, 400, 160) * _periodic_hann(400))) ** 2
    librosa = pytest.importorskip("librosa")
    mel = power @ librosa.filters.mel(sr=16000, n_fft=400, n_mels=80, dtype=np.float64).T
    log_mel = np.log10(np.maximum(mel, 1e-10))
    expected = (np.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0
    features = compute_features(windowed_preset("whisper80"), x)[: len(expected)]
    assert np.max(np.abs(features - expected)) * NATS_PER_UNIT["whisper80"] < NATS


def test_librosa_s_original_is_floored_eighty_decibels_below_its_maximum() -> None:
    librosa = pytest.importorskip("librosa")
    x = _artificial()[1]
    mel = librosa.feature.melspectrogram(y=x.astype(np.float64), sr=16000)
    expected = librosa.power_to_db(mel).T
    features = compute_features(windowed_preset("librosa_db"), x)[: len(expected)]
    # melspectrogram rounds its triangles to float32.
    assert np.max(np.abs(features - expected)) * NATS_PER_UNIT["librosa_db"] < NATS


@pytest.mark.parametrize("offset", [6.5, -3.0, 100.0])
def test_the_affine_is_what_it_says_at_any_offset(offset: float) -> None:
    plain = replace(preset("log_mel"), affine_offset=0.0, affine_scale=1.0)
    shifted = replace(plain, affine_offset=offset, affine_scale=0.5)
    for x in _artificial():
        expected = (compute_features(plain, x).astype(np.float64) + offset) * 0.5
        np.testing.assert_allclose(compute_features(shifted, x), expected, atol=NATS)


def test_kaldi_on_the_int16_scale_is_a_constant_above() -> None:
    x = _artificial()[2]
    unit = compute_features(replace(KALDI80, log_floor=1e-30), x)
    large = compute_features(replace(KALDI80, log_floor=1e-30, input_scale=32768.0), x)
    np.testing.assert_allclose(large - unit, 2 * np.log(32768.0), atol=NATS)


@pytest.mark.real_speech
def test_a_published_model_hears_words_through_the_windowed_original(real_data: Path) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    labels = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_"]
    model = litert.Interpreter(str(real_data / "third_party_models" / "mlperf_tiny" / "kws_ref_model.tflite"))
    model.allocate_tensors()
    source, sink = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
    clips = _clips(real_data, 300, split="test")
    n_right = 0
    for label, clip in clips:
        second = np.pad(clip, (0, max(0, 16000 - len(clip))))[:16000]
        features = compute_features(windowed_preset("mlperf_tiny_kws"), second)[:49]
        codes = np.clip(np.rint(features / 0.58470291) + 83, -128, 127).astype(np.int8)
        model.set_tensor(source, codes[None, :, :, None])
        model.invoke()
        n_right += labels[int(np.argmax(model.get_tensor(sink)[0]))] == label
    # The published model reaches 90 % on this split; a wrong constant of the front end costs tens of percent.
    assert n_right / len(clips) > 0.85
