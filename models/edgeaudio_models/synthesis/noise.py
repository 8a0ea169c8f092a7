"""Generated noise and silence, so that a net can learn what no speech sounds like without any recording."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeaudio_models.audio_files import Float32, Int16, to_int16
from edgeaudio_runtime.errors import SpecError

NOISE_EXPONENTS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Power falls with frequency as ``1 / f**exponent``."""

NOISE_KINDS = (*NOISE_EXPONENTS, "hum")

MIN_SILENCE_DB = -80.0
MAX_SILENCE_DB = -20.0
"""Range of the rms of generated silence, in dB under full scale: a quiet room to a fan beside the microphone."""

LOWEST_HZ = 20.0
"""Coloured noise has nothing below: no microphone hears it, and brown noise would have most of its power there."""

_N_HARMONICS = 12


def generate_noise(
    kind: str, n_samples: int, *, rms_db: float, generator: np.random.Generator, sample_rate: int = 16_000
) -> Float32:
    """Generate noise: float32 ``[n_samples]`` with exactly the asked rms over its length.

    Args:
        kind: "white", "pink", "brown", or "hum" (mains at 50 or 60 Hz with falling harmonics).
        n_samples: Length in samples.
        rms_db: Root mean square in dB, 0 is full scale.
        generator: Source of randomness.
        sample_rate: Hz.

    Raises:
        SpecError: Unknown kind, or no samples.
    """
    if kind not in NOISE_KINDS:
        raise SpecError(f"kind={kind!r} must be one of {list(NOISE_KINDS)}")
    if n_samples < 1:
        raise SpecError(f"n_samples={n_samples} must be >= 1")
    if kind == "hum":
        noise = _hum(n_samples, sample_rate, generator)
    else:
        noise = _coloured(n_samples, sample_rate, NOISE_EXPONENTS[kind], generator)
    rms = float(np.sqrt(np.mean(noise**2)))
    return np.asarray(noise * (10.0 ** (rms_db / 20.0) / max(rms, 1e-12)), np.float32)


def generate_silence(
    n_clips: int, n_samples: int, *, generator: np.random.Generator, sample_rate: int = 16_000
) -> Int16:
    """Clips without speech: int16 ``[n_clips, n_samples]``; digital silence first, then noise of all kinds and levels.

    One clip in ten is digital silence; the others take the kinds in turn at an rms drawn from ``MIN_SILENCE_DB`` to
    ``MAX_SILENCE_DB``.
    """
    clips = np.zeros((n_clips, n_samples), np.int16)
    for i in range(n_clips // 10, n_clips):
        rms_db = generator.uniform(MIN_SILENCE_DB, MAX_SILENCE_DB)
        kind = NOISE_KINDS[i % len(NOISE_KINDS)]
        noise = generate_noise(kind, n_samples, rms_db=rms_db, generator=generator, sample_rate=sample_rate)
        clips[i] = to_int16(noise)
    return clips


def _coloured(
    n_samples: int, sample_rate: int, exponent: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    n_bins = n_samples // 2 + 1
    spectrum = generator.standard_normal(2 * n_bins).view(np.complex128)
    frequencies = np.maximum(np.arange(n_bins), 1.0)
    spectrum[: math.ceil(LOWEST_HZ * n_samples / sample_rate)] = 0.0
    return np.asarray(np.fft.irfft(spectrum * frequencies ** (-exponent / 2.0), n=n_samples), np.float64)


def _hum(n_samples: int, sample_rate: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    mains_hz = generator.choice([50.0, 60.0]) * generator.uniform(0.995, 1.005)
    harmonics = np.arange(1, _N_HARMONICS + 1)
    amplitudes = generator.uniform(0.2, 1.0, _N_HARMONICS) / harmonics
    phases = generator.uniform(0.0, 2.0 * np.pi, _N_HARMONICS)
    seconds = np.arange(n_samples) / sample_rate
    waves = np.sin(2.0 * np.pi * mains_hz * harmonics[:, None] * seconds[None, :] + phases[:, None])
    return np.asarray(amplitudes @ waves, np.float64)
