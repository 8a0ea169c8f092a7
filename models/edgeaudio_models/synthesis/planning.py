"""Decide what is said, by whom and how, before anything is said; so a corpus is the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgeaudio_models.errors import CorpusError
from edgeaudio_models.synthesis.base import Synthesizer, Utterance

MIN_RATE = 0.75
MAX_RATE = 1.35
MIN_PITCH = 0.8
MAX_PITCH = 1.25
"""Ranges of speaking rate and pitch, relative to the voice's own."""

VALIDATION_SHARE = 0.15
"""Share of the voices, and of the clips, that go to validation."""

MIN_GROUPS_TO_SPLIT = 5
"""A synthesizer with fewer kinds of voices gives none of them up for validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedClip:
    """One clip to synthesize."""

    label: str
    """Label of the clip."""
    synthesizer: int
    """Index of who says it."""
    utterance: Utterance
    """What is said, and how."""
    split: str
    """"train" or "validation"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """Which voice speaks in which split."""

    train: tuple[tuple[int, str], ...]
    """(index of the synthesizer, voice), each synthesizer's voices in order."""
    validation: tuple[tuple[int, str], ...]
    """The same for validation."""

    @property
    def disjoint(self) -> bool:
        """Whether no voice speaks in both splits."""
        return not set(self.train) & set(self.validation)


def cast_voices(synthesizers: Sequence[Synthesizer], *, generator: np.random.Generator) -> Cast:
    """Give a share of the voices to validation, keeping kinds (the part after "+") together.

    A synthesizer with fewer than ``MIN_GROUPS_TO_SPLIT`` kinds speaks in training only, unless all are such: then every
    voice speaks in both splits and the cast is not disjoint.
    """
    train: list[tuple[int, str]] = []
    validation: list[tuple[int, str]] = []
    for i, synthesizer in enumerate(synthesizers):
        held_out = _held_out(synthesizer.voices, generator)
        for voice in synthesizer.voices:
            (validation if _kind(voice) in held_out else train).append((i, voice))
    return Cast(train=tuple(train), validation=tuple(validation or train))


def plan_clips(
    label: str,
    texts: Sequence[str],
    n_clips: int,
    *,
    cast: Cast,
    seed: int,
    rounds: Mapping[int, int] = MappingProxyType({}),
) -> tuple[PlannedClip, ...]:
    """Plan ``n_clips`` clips of one label: texts in turn, synthesizers in turn, everything else drawn.

    The draws depend on the seed and the label only, so a further label changes no other.

    Args:
        label: Label of the clips.
        texts: What to say.
        n_clips: Clips of both splits.
        cast: Whose voices are heard in which split.
        seed: Seed of every draw.
        rounds: Synthesizers by index that speak in one round of so many; the others speak in each.

    Raises:
        CorpusError: Clips are wanted and there is no text.
    """
    if n_clips and not texts:
        raise CorpusError(f"label={label!r} needs texts to say for its {n_clips} clips; name some that hold no keyword")
    generator = np.random.default_rng([seed, *label.encode()])
    n_validation = round(n_clips * VALIDATION_SHARE)
    splits = ["validation"] * n_validation + ["train"] * (n_clips - n_validation)
    candidates = {"train": cast.train, "validation": cast.validation}
    turns = {split: _turns(sorted({i for i, _ in of_split}), rounds) for split, of_split in candidates.items()}
    return tuple(
        _plan(
            label,
            texts[i % len(texts)],
            turns[split][i % len(turns[split])],
            split=split,
            candidates=candidates[split],
            generator=generator,
        )
        for i, split in enumerate(splits)
    )


def _turns(speakers: Sequence[int], rounds: Mapping[int, int]) -> tuple[int, ...]:
    """Who speaks after whom, until all begin again."""
    period = math.lcm(*(rounds.get(speaker, 1) for speaker in speakers))
    return tuple(speaker for k in range(period) for speaker in speakers if k % rounds.get(speaker, 1) == 0)


def _plan(
    label: str,
    text: str,
    speaker: int,
    *,
    split: str,
    candidates: Sequence[tuple[int, str]],
    generator: np.random.Generator,
) -> PlannedClip:
    voices = [voice for i, voice in candidates if i == speaker]
    voice = voices[int(generator.integers(len(voices)))]
    rate = round(float(generator.uniform(MIN_RATE, MAX_RATE)), 2)
    pitch = round(float(generator.uniform(MIN_PITCH, MAX_PITCH)), 2)
    utterance = Utterance(text=text, voice=voice, rate=rate, pitch=pitch)
    return PlannedClip(label=label, synthesizer=speaker, utterance=utterance, split=split)


def _held_out(voices: Sequence[str], generator: np.random.Generator) -> set[str]:
    kinds = sorted({_kind(voice) for voice in voices})
    if len(kinds) < MIN_GROUPS_TO_SPLIT:
        return set()
    n_held_out = max(1, round(VALIDATION_SHARE * len(kinds)))
    return {kinds[i] for i in generator.permutation(len(kinds))[:n_held_out]}


def _kind(voice: str) -> str:
    return voice.rpartition("+")[2]
