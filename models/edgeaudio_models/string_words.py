"""Which words make a string: any of a pool, or words that one voice says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeaudio_models.augmentation import draw_integers
from edgeaudio_models.recipe import ContextRecipe
from edgeaudio_runtime.errors import SpecError

MIN_VOICE_CLIPS = 20
"""Voices with fewer clips share one group: strings of theirs alone would say the same clip again and again."""


def draw_words(pool: Tensor, n_strings: int, context: ContextRecipe, generator: torch.Generator) -> list[Tensor]:
    """Words of ``n_strings`` strings, as many as ``context`` says, each drawn from ``pool`` (int64 ``[n]``)."""
    counts = draw_integers(n_strings, context.min_words, context.max_words, generator)
    return [pool[draw_integers(count, 0, len(pool) - 1, generator)] for count in counts.tolist()]


class VoiceWords:
    """Strings that one voice says from the first word to the last, as a speaker would.

    A network that hears such strings can learn to hear a vowel by the voice it has heard before it.
    """

    def __init__(self, label_indices: Tensor, voices: Sequence[str], context: ContextRecipe) -> None:
        """Sort the clips by voice.

        Args:
            label_indices: int64 ``[n]``.
            voices: Who says each clip.
            context: How many words a string has.

        Raises:
            SpecError: The voices are not known.
        """
        if len(voices) != len(label_indices):
            rule = "needs clips whose voices are known: recordings with speakers, or synthesized ones, in memory"
            raise SpecError(f"context.one_voice=true {rule}; leave it out here")
        names = {name: i for i, name in enumerate(sorted(set(voices)))}
        voice = torch.tensor([names[name] for name in voices])
        rare = torch.bincount(voice, minlength=len(names)) < MIN_VOICE_CLIPS
        self._voice = torch.where(rare[voice], len(names), voice)
        self._context = context
        self._clips = {v: torch.nonzero(self._voice == v)[:, 0] for v in sorted(set(self._voice.tolist()))}
        self._weights = {v: _root_weights(label_indices[clips]) for v, clips in self._clips.items()}

    def draw(self, first: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Strings that begin with the clips ``first`` (int64 ``[n]``); the words after the first are of its voice."""
        counts = draw_integers(len(first), self._context.min_words, self._context.max_words, generator)
        return [self._from(clip, count, generator) for clip, count in zip(first, counts.tolist(), strict=True)]

    def _from(self, first: Tensor, count: int, generator: torch.Generator) -> Tensor:
        voice = int(self._voice[first])
        later = torch.multinomial(self._weights[voice], count - 1, replacement=True, generator=generator)
        return torch.cat([first[None], self._clips[voice][later]])


def _root_weights(label_indices: Tensor) -> Tensor:
    """Every label as often as the root of its clips, so that few clips of a word are neither lost nor worn out."""
    return torch.bincount(label_indices).to(torch.float64).pow(-0.5)[label_indices]
