"""The part of a stream that is in memory: a window of clips that moves on by one batch a step."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from edgeaudio_models.corpora import SILENCE, UNKNOWN
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.recipe import TrainingRecipe
from edgeaudio_models.sampler import Draws, sampling_weights
from edgeaudio_models.streams.clip_stream import ClipStream, EncodedClip
from edgeaudio_models.training_data import Examples


class ClipWindow:
    """Clips ``[first, first + size)`` of the endless passes over a stream, decoded.

    Words that are not among ``labels`` become ``_unknown_``, or are left out where there is no such label. Where there
    is ``_silence_``, silent clips stand beside the window, since corpora of words have none.

    Args:
        stream: Where the clips come from.
        labels: Labels of the network, in its order.
        sample_rate: In Hz.
        n_samples: Samples of a clip.
        size: Clips in memory.
        held_out: Speakers that must not occur, since the validation clips are theirs.
    """

    def __init__(
        self,
        stream: ClipStream,
        *,
        labels: tuple[str, ...],
        sample_rate: int,
        n_samples: int,
        size: int,
        held_out: Collection[str] = (),
    ) -> None:
        self._stream, self._labels, self._held_out = stream, labels, frozenset(held_out)
        self._sample_rate, self._size = sample_rate, size
        n_silent = max(1, size // len(labels)) if SILENCE in labels else 0
        silence = labels.index(SILENCE) if n_silent else 0
        self.examples = Examples(
            waveforms=np.zeros((size + n_silent, n_samples), np.int16),
            label_indices=np.full(size + n_silent, silence, np.int64),
        )
        """The clips in memory; the arrays change as the window moves."""
        self._first = self._next = 0
        self._clips = self._passes()

    @property
    def identity(self) -> str:
        """Of the stream and the window: what decides every clip at every step."""
        return f"{self._stream.identity} window={self._size}"

    def move_to(self, first: int) -> None:
        """Hold the clips from ``first`` on; going back begins anew, going forth skips without decoding.

        Raises:
            CorpusError: The stream is damaged, yields no clip that is wanted, or has a speaker held out.
            AudioError: A clip cannot be decoded.
        """
        if first < self._first:
            self._next, self._clips = 0, self._passes()
        self._first = first
        while self._next < first + self._size:
            clip, at = next(self._clips), self._next
            self._next += 1
            if at >= first:
                row, n_samples = at % self._size, self.examples.waveforms.shape[1]
                self.examples.waveforms[row] = clip.decode(sample_rate=self._sample_rate, n_samples=n_samples)
                self.examples.label_indices[row] = self._labels.index(wanted_label(clip.label, self._labels))

    def _passes(self) -> Iterator[EncodedClip]:
        """Every clip that is wanted, pass after pass."""
        for number in itertools.count():
            n_wanted = 0
            for clip in self._stream.clips(number):
                if clip.speaker and clip.speaker in self._held_out:
                    remedy = "validation must have speakers of its own"
                    raise CorpusError(f"{clip.name}: speaker={clip.speaker!r} is among those of validation; {remedy}")
                if wanted_label(clip.label, self._labels):
                    n_wanted += 1
                    yield clip
            if not n_wanted:
                raise CorpusError(f"{self._stream.identity}: no clip has one of the labels {list(self._labels)}")


def wanted_label(label: str, labels: tuple[str, ...]) -> str:
    """Label of the network for a clip of another or the same name; empty to leave it out."""
    if label in labels:
        return label
    return UNKNOWN if UNKNOWN in labels and label != SILENCE else ""


class WindowDraws(Draws):
    """Draws batches from a window as from a corpus; step t draws from the window that begins at ``t * batch_size``."""

    def __init__(self, window: ClipWindow, labels: tuple[str, ...], recipe: TrainingRecipe) -> None:
        self._window, self._labels, self._recipe = window, labels, recipe

    def epoch(self, number: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """See :meth:`Draws.epoch`; an epoch that is resumed skips to its place in the stream."""
        size = self._recipe.batch_size
        for step in range(number * n_steps, (number + 1) * n_steps):
            self._window.move_to(step * size)
            label_indices = torch.from_numpy(self._window.examples.label_indices)
            weights = sampling_weights(label_indices, self._labels, self._recipe)
            yield torch.multinomial(weights, size, replacement=True, generator=generator)
