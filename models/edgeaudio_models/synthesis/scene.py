"""A stream with words at known places, to listen to and to score a detector against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.synthesis.base import Synthesizer, Utterance
from edgeaudio_models.synthesis.engines import PicoSynthesizer
from edgeaudio_models.synthesis.speech import Spoken, set_level, speak

LEVEL_DB = -22.0
"""Rms of every word, in dB under full scale."""

ROOM_DB = -62.0
"""Rms of the white noise the words stand in."""

MIN_RATE = 0.9
MAX_RATE = 1.15
MIN_PITCH = 0.9
MAX_PITCH = 1.1
"""Ranges of speaking rate and pitch; well inside what :mod:`~edgeaudio_models.synthesis.planning` trains on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A stream and the truth about it."""

    samples: Int16
    """int16 ``[n_samples]``."""
    sample_rate: int
    """Hz."""
    spoken: tuple[Spoken, ...]
    """The words in order, with their extents."""


def synthesize_scene(
    words: Sequence[str],
    gap_s: float = 1.0,
    seed: int = 0,
    *,
    synthesizer: Synthesizer | None = None,
    voices: Sequence[str] | None = None,
    sample_rate: int = 16_000,
    cache_folder: Path | None = None,
) -> Scene:
    """Say the words one after another with gaps: before the first, between two, and after the last.

    Args:
        words: What to say, in order.
        gap_s: Shortest gap in seconds; each is drawn from ``gap_s`` to ``1.5 * gap_s``.
        seed: Seed of gaps, voices, rates, pitches and room noise; the same seed gives the same samples.
        synthesizer: Who speaks; None is SVOX Pico, which is deterministic.
        voices: Voices to draw from; None takes all of the synthesizer's.
        sample_rate: Hz.
        cache_folder: See :func:`~edgeaudio_models.synthesis.speech.speak`.

    Raises:
        SynthesisError: The synthesizer is not installed or fails.
        CorpusError: No words, or ``gap_s`` < 0.
    """
    if not words or gap_s < 0:
        raise CorpusError(f"words={list(words)} must name a word and gap_s={gap_s} must be >= 0")
    speaker = synthesizer or PicoSynthesizer()
    generator = np.random.default_rng([seed, 3])
    pieces, spoken, n_samples = [], [], 0
    for word in words:
        gap = round(sample_rate * generator.uniform(gap_s, 1.5 * gap_s))
        utterance = _draw(word, tuple(voices or speaker.voices), generator)
        said = speak(speaker, utterance, sample_rate=sample_rate, cache_folder=cache_folder)
        start, stop = n_samples + gap, n_samples + gap + len(said)
        pieces += [np.zeros(gap, np.int16), set_level(said, LEVEL_DB)]
        spoken.append(Spoken(label=word, start_s=start / sample_rate, end_s=stop / sample_rate))
        n_samples = stop
    pieces.append(np.zeros(round(sample_rate * 1.5 * gap_s), np.int16))
    stream = _with_room(np.concatenate(pieces), generator)
    return Scene(samples=stream, sample_rate=sample_rate, spoken=tuple(spoken))


def _draw(word: str, voices: Sequence[str], generator: np.random.Generator) -> Utterance:
    return Utterance(
        text=word,
        voice=voices[int(generator.integers(len(voices)))],
        rate=round(float(generator.uniform(MIN_RATE, MAX_RATE)), 2),
        pitch=round(float(generator.uniform(MIN_PITCH, MAX_PITCH)), 2),
    )


def _with_room(stream: Int16, generator: np.random.Generator) -> Int16:
    amplitude = 32768.0 * 10.0 ** (ROOM_DB / 20.0)
    room = np.rint(generator.standard_normal(len(stream)) * amplitude).astype(np.int32)
    return np.asarray(np.clip(stream + room, -32768, 32767), np.int16)
