"""Windows, mel triangles and cosine transforms of a specification, as float64 arrays.

The numpy front end and its torch mirror take these same arrays, so they can differ only in arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.features import MelSpec

Float64 = npt.NDArray[np.float64]

SLANEY_BREAK_HZ = 1000.0
"""Where Slaney's scale turns from linear to logarithmic."""
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_MEL = SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequency: npt.ArrayLike, mel_scale: str) -> Float64:
    """Map frequencies in Hz to mels; "htk": ``2595 * log10(1 + f / 700)``, "slaney": linear below 1 kHz, log above."""
    hz = np.asarray(frequency, dtype=np.float64)
    if mel_scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    logarithmic = _SLANEY_BREAK_MEL + np.log(np.maximum(hz, SLANEY_BREAK_HZ) / SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.where(hz < SLANEY_BREAK_HZ, hz / _SLANEY_HZ_PER_MEL, logarithmic)


def mel_to_hz(mel: npt.ArrayLike, mel_scale: str) -> Float64:
    """Inverse of :func:`hz_to_mel`."""
    mels = np.asarray(mel, dtype=np.float64)
    if mel_scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    above = np.maximum(mels - _SLANEY_BREAK_MEL, 0.0)
    logarithmic = SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * above)
    return np.where(mels < _SLANEY_BREAK_MEL, mels * _SLANEY_HZ_PER_MEL, logarithmic)


def window(spec: MelSpec) -> Float64:
    """Window of the specification, ``[win_length]``."""
    n = np.arange(spec.win_length, dtype=np.float64)
    if spec.window == "rectangular":
        return np.ones(spec.win_length)
    phase = {
        "periodic": n / spec.win_length,
        "symmetric": n / max(spec.win_length - 1, 1),
        "half_sample": (n + 0.5) / spec.win_length,
    }[spec.window_symmetry]
    cosine = np.cos(2.0 * np.pi * phase)
    if spec.window == "hamming":
        return np.asarray(0.54 - 0.46 * cosine)
    hann = 0.5 - 0.5 * cosine
    return np.asarray(hann**0.85 if spec.window == "povey" else hann)


def bin_range(spec: MelSpec) -> tuple[int, int]:
    """First FFT bin that may count and the one after the last, by ``bin_rule``."""
    n_bins = spec.n_fft // 2 + 1
    hz_per_bin = spec.sample_rate / spec.n_fft
    if spec.bin_rule == "tf_op":
        return int(1.5 + spec.f_min / hz_per_bin), int(spec.f_max / hz_per_bin) + 1
    return int(spec.bin_rule == "no_dc"), n_bins - int(spec.bin_rule == "no_nyquist")


def mel_filterbank(spec: MelSpec) -> Float64:
    """Triangles ``[n_fft // 2 + 1, n_mels]`` that map a spectrum to mels by ``spectrum @ filterbank``.

    Triangle i rises from edge i to edge i + 1 and falls to edge i + 2; the edges are equally spaced in mel from
    ``f_min`` to ``f_max``. Its sides are straight over Hz or over mels (``triangle_domain``).
    """
    first_mel, last_mel = hz_to_mel([spec.f_min, spec.f_max], spec.mel_scale)
    edges_mel = np.linspace(first_mel, last_mel, spec.n_mels + 2)
    edges_hz = mel_to_hz(edges_mel, spec.mel_scale)
    bins_hz = np.arange(spec.n_fft // 2 + 1, dtype=np.float64) * (spec.sample_rate / spec.n_fft)
    if spec.triangle_domain == "mel":
        edges, bins = edges_mel, hz_to_mel(bins_hz, spec.mel_scale)
    else:
        edges, bins = edges_hz, bins_hz
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    weights: Float64 = np.maximum(0.0, np.minimum(rising, falling))
    if spec.mel_norm == "slaney":
        weights *= np.asarray(2.0 / (edges_hz[2:] - edges_hz[:-2]))
    first, stop = bin_range(spec)
    weights[:first] = 0.0
    weights[stop:] = 0.0
    return weights


def dct_matrix(spec: MelSpec) -> Float64:
    """Type II DCT with lifter, ``[n_mels, n_dct]``, for ``log_mels @ matrix``: ``cos(pi * k * (n + 1/2) / n_mels)``."""
    n = np.arange(spec.n_mels)[:, None] + 0.5
    k = np.arange(spec.n_dct)
    matrix: Float64 = np.sqrt(2.0 / spec.n_mels) * np.cos(np.pi * k * n / spec.n_mels)
    if spec.dct_norm == "ortho":
        matrix[:, :1] /= np.sqrt(2.0)
    if spec.dct_lifter:
        matrix *= 1.0 + spec.dct_lifter / 2.0 * np.sin(np.pi * k / spec.dct_lifter)
    return matrix


def support(filterbank: npt.NDArray[Any]) -> slice:
    """FFT bins with a weight in any triangle: ``[first, last]`` as a slice, so that the rest need not be computed."""
    used = np.flatnonzero(np.any(filterbank != 0.0, axis=1))
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
