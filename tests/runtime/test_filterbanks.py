"""Windows, mel triangles and cosine transforms against hand numbers and librosa."""

from dataclasses import replace

import numpy as np
import pytest

from edgeaudio_runtime import filterbanks
from edgeaudio_runtime.presets import KALDI80, LIBROSA_DB, LOG_MEL, MLPERF_TINY_KWS, TF_MFCC_KWS, WHISPER80

librosa = pytest.importorskip("librosa")

ROUNDING = 1e-12
"""Both sides are float64 formulas of the same numbers in another order."""


@pytest.mark.parametrize(
    ("window", "symmetry", "expected"),
    [
        ("hann", "periodic", [0.0, 0.5, 1.0, 0.5]),
        ("hann", "symmetric", [0.0, 0.75, 0.75, 0.0]),
        ("hann", "half_sample", [0.1464466094, 0.8535533906, 0.8535533906, 0.1464466094]),
        ("hamming", "symmetric", [0.08, 0.77, 0.77, 0.08]),
        ("povey", "symmetric", [0.0, 0.75**0.85, 0.75**0.85, 0.0]),
        ("rectangular", "periodic", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_windows_of_four_samples_equal_hand_numbers(window: str, symmetry: str, expected: list[float]) -> None:
    spec = replace(LOG_MEL, win_length=4, hop_length=2, window=window, window_symmetry=symmetry)
    np.testing.assert_allclose(filterbanks.window(spec), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "hz", "mel"),
    [("htk", 700.0, 2595 * np.log10(2.0)), ("slaney", 500.0, 7.5), ("slaney", 1000.0, 15.0), ("slaney", 6400.0, 42.0)],
)
def test_mel_scales_equal_hand_numbers_and_invert(scale: str, hz: float, mel: float) -> None:
    assert filterbanks.hz_to_mel(hz, scale) == pytest.approx(mel, abs=ROUNDING)
    assert filterbanks.mel_to_hz(mel, scale) == pytest.approx(hz, abs=1e-9)


@pytest.mark.parametrize("spec", [LOG_MEL, WHISPER80, LIBROSA_DB], ids=["log_mel", "whisper80", "librosa_db"])
def test_triangles_over_hertz_equal_librosa(spec: object) -> None:
    expected = librosa.filters.mel(
        sr=16000, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.f_min, fmax=spec.f_max, dtype=np.float64,
        htk=spec.mel_scale == "htk", norm=None if spec.mel_norm == "none" else "slaney",
    )  # fmt: skip
    np.testing.assert_allclose(filterbanks.mel_filterbank(spec), expected.T, atol=1e-10)


def test_triangles_over_mels_equal_the_loops_of_the_tensorflow_kernel() -> None:
    np.testing.assert_allclose(filterbanks.mel_filterbank(TF_MFCC_KWS), _tensorflow_kernel(), atol=1e-9)


def _tensorflow_kernel(n_bins: int = 257, n_mels: int = 40, low: float = 20.0, high: float = 4000.0) -> np.ndarray:
    # Bin by bin, as the Mfcc kernel walks: a weight to its own channel and the rest to the next one.
    to_mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)  # noqa: E731
    step = (to_mel(high) - to_mel(low)) / (n_mels + 1)
    centres = [to_mel(low) + step * (i + 1) for i in range(n_mels + 1)]
    width = 8000.0 / (n_bins - 1)
    matrix = np.zeros((n_bins, n_mels))
    channel = 0
    for k in range(int(1.5 + low / width), int(high / width) + 1):
        mel = to_mel(k * width)
        while channel < n_mels and centres[channel] < mel:
            channel += 1
        left = centres[channel - 1] if channel else to_mel(low)
        weight = (centres[channel] - mel) / (centres[channel] - left)
        if channel:
            matrix[k, channel - 1] += weight
        if channel < n_mels:
            matrix[k, channel] += 1.0 - weight
    return matrix


def test_bin_rules_leave_out_the_bins_they_name() -> None:
    full = replace(LOG_MEL, f_min=0.0, f_max=8000.0)
    assert filterbanks.bin_range(full) == (0, 257)
    assert filterbanks.bin_range(replace(full, bin_rule="no_dc")) == (1, 257)
    assert filterbanks.bin_range(KALDI80) == (0, 256)
    assert filterbanks.bin_range(TF_MFCC_KWS) == (2, 129)


def test_support_holds_every_weight_and_starts_and_ends_with_one() -> None:
    bank = filterbanks.mel_filterbank(LOG_MEL)
    used = filterbanks.support(bank)
    assert bank[used].sum() == bank.sum()
    assert bank[used.start].any()
    assert bank[used.stop - 1].any()


def test_the_ortho_cosine_transform_is_orthonormal() -> None:
    matrix = filterbanks.dct_matrix(replace(LOG_MEL, n_dct=40))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(40), atol=ROUNDING)


def test_tensorflow_c0_is_root_two_times_the_ortho_one() -> None:
    ortho = filterbanks.dct_matrix(replace(MLPERF_TINY_KWS, dct_norm="ortho"))
    tensorflow = filterbanks.dct_matrix(MLPERF_TINY_KWS)
    np.testing.assert_allclose(tensorflow[:, 0], ortho[:, 0] * np.sqrt(2), atol=ROUNDING)
    np.testing.assert_array_equal(tensorflow[:, 1:], ortho[:, 1:])


def test_the_lifter_scales_coefficients_by_its_sine() -> None:
    plain = filterbanks.dct_matrix(replace(LOG_MEL, n_dct=12))
    lifted = filterbanks.dct_matrix(replace(LOG_MEL, n_dct=12, dct_lifter=22.0))
    np.testing.assert_allclose(lifted[:, 11], plain[:, 11] * 12.0, atol=ROUNDING)
    np.testing.assert_array_equal(lifted[:, 0], plain[:, 0])
