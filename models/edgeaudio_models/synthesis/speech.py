"""One spoken word at the rate a model wants: synthesized, cached, resampled, trimmed, brought to a level."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16, read_audio, resample_audio, to_int16, write_wav
from edgeaudio_models.synthesis.base import Synthesizer, Utterance
from edgeaudio_runtime.errors import AudioError

CACHE_FORMAT = 2
"""Part of every key; raise it when an engine is driven differently."""

TRIM_BELOW_DB = -40.0
"""Frames this far under the loudest one, before the first and after the last louder one, are silence."""

_FRAME_MS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A word found in a stream: its label and its extent."""

    label: str
    """What was said."""
    start_s: float
    """Where it begins, seconds from the start of the stream."""
    end_s: float
    """Where it ends."""


def speak(
    synthesizer: Synthesizer, utterance: Utterance, *, sample_rate: int = 16_000, cache_folder: Path | None = None
) -> Int16:
    """Say it, without silence around it: int16 ``[n_samples]`` at ``sample_rate``.

    Args:
        synthesizer: Who speaks.
        utterance: What, in which voice, how fast and how high.
        sample_rate: Rate of the result in Hz.
        cache_folder: Keep what the engine gave as ``speech/<key>.wav`` here; None keeps nothing. An engine that is not
            deterministic repeats itself only through this.

    Raises:
        SynthesisError: See ``Synthesizer.synthesize``.
    """
    samples, rate = _cached(synthesizer, utterance, cache_folder)
    if rate != sample_rate:
        samples = to_int16(resample_audio(samples.astype(np.float32) / np.float32(32768), rate, sample_rate))
    start, stop = speech_extent(samples, sample_rate)
    return samples[start:stop]


def speech_extent(samples: Int16, sample_rate: int, *, below_db: float = TRIM_BELOW_DB) -> tuple[int, int]:
    """First sample of speech and one past the last, in steps of 5 ms; (0, 0) where all is digital silence.

    A frame is speech when its energy is within ``below_db`` of the loudest frame's.
    """
    frame = max(1, sample_rate * _FRAME_MS // 1000)
    n_frames = -(-len(samples) // frame)
    padded = np.zeros(n_frames * frame, np.float64)
    padded[: len(samples)] = samples
    energy = np.square(padded.reshape(n_frames, frame)).sum(axis=1)
    if not energy.any():
        return 0, 0
    loud = np.flatnonzero(energy >= energy.max() * 10.0 ** (below_db / 10.0))
    return int(loud[0]) * frame, min(int(loud[-1] + 1) * frame, len(samples))


def set_level(samples: Int16, rms_db: float) -> Int16:
    """Scale to an rms in dB under full scale, less where peaks would clip; digital silence stays as it is."""
    real = samples.astype(np.float64) / 32768.0
    rms = float(np.sqrt(np.mean(real**2))) if len(real) else 0.0
    if rms == 0.0:
        return samples
    gain = min(10.0 ** (rms_db / 20.0) / rms, 0.999 / float(np.abs(real).max()))
    return to_int16(real * gain)


def cache_key(synthesizer: Synthesizer, utterance: Utterance) -> str:
    """Name of an utterance in the cache: 32 hex digits over the engine, the voice, rate, pitch and text."""
    told = (CACHE_FORMAT, synthesizer.name, utterance.voice, utterance.rate, utterance.pitch, utterance.text)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def _cached(synthesizer: Synthesizer, utterance: Utterance, cache_folder: Path | None) -> tuple[Int16, int]:
    path = None if cache_folder is None else cache_folder / "speech" / f"{cache_key(synthesizer, utterance)}.wav"
    if path is not None and path.is_file():
        try:
            return read_audio(path)
        except AudioError:
            path.unlink(missing_ok=True)  # damaged by something else; say it again
    result = synthesizer.synthesize(utterance.text, utterance.voice, utterance.rate, utterance.pitch)
    if path is not None:
        write_wav(path, *result)
    return result
