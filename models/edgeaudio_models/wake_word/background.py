"""Recorded speech and noise that hold no wake word: one long stream a split, speakers kept apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16, is_audio, read_audio
from edgeaudio_models.corpora import Clip, Source, open_corpus
from edgeaudio_models.errors import CorpusError

VALIDATION_PERCENT = 10
"""Share of the speakers to learn from that are set aside to choose by."""


DATA_VARIABLE = "EDGEAUDIO_DATA"
"""Environment variable that names a folder of recordings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedSpeech:
    """Recordings by split; those of a test split are not read."""

    train: tuple[Int16, ...] = ()
    """Recordings of speakers to learn from."""
    validation: tuple[Int16, ...] = ()
    """Recordings of speakers to choose by."""
    sources: tuple[Source, ...] = ()
    """Where they come from."""
    n_left_out: int = 0
    """Recordings not taken because the phrase is said in them."""


def background_folder(given: Path | None) -> Path | None:
    """``given``, else the folder that ``EDGEAUDIO_DATA`` names; None where it names none: from the phrase alone."""
    if given is not None:
        return given
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else None


def read_speech(
    folder: Path, names: Sequence[str], *, sample_rate: int, is_phrase: Callable[[str], bool] = lambda text: False
) -> RecordedSpeech:
    """Read the speech below ``folder``; names that are not there are passed over.

    A manifest's test split is left alone, and so are clips of which it says that the phrase is heard in them. Where
    there is no manifest, every file is taken; its speaker is what stands before the first hyphen of its name, as in
    LibriSpeech.

    Args:
        folder: Where the names are.
        names: Folders of recordings or corpora.
        sample_rate: What to resample to, in Hz.
        is_phrase: Whether a text is the phrase.
    """
    clips: list[Clip] = []
    sources: list[Source] = []
    for name in names:
        found, source = _clips(folder / name)
        clips += found
        sources += source
    train: list[Int16] = []
    validation: list[Int16] = []
    kept = [clip for clip in clips if not is_phrase(clip.word or clip.label)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # decoding hours takes long, and leaves the interpreter free
        decoded = pool.map(lambda clip: read_audio(clip.path, sample_rate=sample_rate)[0], kept)
        for clip, samples in zip(kept, decoded, strict=True):
            (validation if _for_validation(clip) else train).append(samples)
    return RecordedSpeech(
        train=tuple(train),
        validation=tuple(validation),
        sources=tuple(sources),
        n_left_out=len(clips) - len(kept),
    )


def _clips(folder: Path) -> tuple[list[Clip], tuple[Source, ...]]:
    if (folder / "manifest.csv").is_file():
        corpus = open_corpus(folder)
        return [clip for clip in corpus.clips if clip.split != "test"], corpus.sources
    files = sorted(path for path in folder.rglob("*") if is_audio(path)) if folder.is_dir() else []
    clips = [Clip(path=path, label="_speech_", speaker=path.name.partition("-")[0]) for path in files]
    return clips, (Source(name=folder.name, licence="unstated"),) if files else ()


def _for_validation(clip: Clip) -> bool:
    from edgeaudio_models.recipe_data import drawn_split

    return clip.split == "validation" or drawn_split(clip) == "validation"


def check_background(folder: Path, speech: RecordedSpeech, noise: Int16 | None, names: Sequence[str]) -> None:
    """Raise CorpusError where ``folder`` held neither speech nor noise."""
    if noise is None and not speech.train:
        raise CorpusError(f"{folder}: no recordings in {list(names)}; put speech and noise without the phrase there")


def total_seconds(recordings: Sequence[Int16], sample_rate: int) -> float:
    """Length of all of them."""
    return sum(map(len, recordings)) / sample_rate


def joined(
    pieces: Sequence[Int16],
    *,
    gap_seconds: tuple[float, float],
    sample_rate: int,
    seed: int,
    abutting: float = 0.0,
) -> Int16:
    """One stream of all pieces with drawn gaps of digital silence between them.

    Args:
        pieces: What to join, in this order.
        gap_seconds: Shortest and longest gap.
        sample_rate: Hz.
        seed: Of the gaps.
        abutting: Share of the pieces that the next one follows at once.
    """
    generator = np.random.default_rng([seed, len(pieces)])
    parts: list[Int16] = []
    for piece in pieces:
        gap = round(sample_rate * generator.uniform(*gap_seconds))
        if abutting and generator.random() < abutting:
            gap = 0
        parts += [piece, np.zeros(gap, np.int16)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)
