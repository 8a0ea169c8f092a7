"""Which examples an epoch sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgeaudio_models.recipe import Recipe, TrainingRecipe
from edgeaudio_models.training_data import TrainingData
from edgeaudio_runtime.errors import SpecError


def sampling_weights(
    label_indices: Tensor, labels: Sequence[str], recipe: TrainingRecipe, *, words: Sequence[str] = ()
) -> Tensor:
    """Probability of drawing each example: float64 ``[n]``, sum 1.

    All examples of label l share ``weight[l] * count[l] ** (1 - class_balance)``, before scaling to sum 1. Within a
    label, those of word w share ``word_weight[w] * count[w] ** (1 - word_balance)`` likewise, where words are told.
    """
    counts = torch.bincount(label_indices, minlength=len(labels)).to(torch.float64)
    factors = torch.tensor([recipe.label_weights.get(label, 1.0) for label in labels], dtype=torch.float64)
    shares = factors * counts.pow(1.0 - recipe.class_balance) * (counts > 0)
    parts = _word_factors(label_indices, words, recipe)
    totals = torch.zeros(len(labels), dtype=torch.float64).index_add(0, label_indices, parts)
    weights = (shares / totals.clamp_min(torch.finfo(torch.float64).tiny))[label_indices] * parts
    return weights / weights.sum()


def _word_factors(label_indices: Tensor, words: Sequence[str], recipe: TrainingRecipe) -> Tensor:
    """``weight * count ** -word_balance`` of the word of each example within its label, ``[n]``; ones without words."""
    if not words:
        return torch.ones(len(label_indices), dtype=torch.float64)
    told = list(zip(label_indices.tolist(), words, strict=True))
    factors = {
        (label, word): recipe.word_weights.get(word, 1.0) * count**-recipe.word_balance
        for (label, word), count in Counter(told).items()
    }
    return torch.tensor([factors[pair] for pair in told], dtype=torch.float64)


def draw_epoch(weights: Tensor, n_examples: int, generator: torch.Generator) -> Tensor:
    """Draw ``n_examples`` example indices with replacement: int64 ``[n_examples]``."""
    return torch.multinomial(weights, n_examples, replacement=True, generator=generator)


class Draws(ABC):
    """Which of the clips in memory make the batches of an epoch."""

    @abstractmethod
    def epoch(self, number: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the example indices int64 ``[batch_size]`` of each step of epoch ``number``, from 0."""


class MemoryDraws(Draws):
    """Draws from all clips, by their weights."""

    def __init__(self, weights: Tensor, batch_size: int) -> None:
        self._weights = weights
        self._batch_size = batch_size

    def epoch(self, number: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """See :meth:`Draws.epoch`; all are drawn at the beginning."""
        yield from torch.split(draw_epoch(self._weights, n_steps * self._batch_size, generator), self._batch_size)


def draws_of(data: TrainingData, recipe: Recipe) -> Draws:
    """How the batches of ``recipe`` are drawn from ``data``.

    Raises:
        SpecError: Words shall be balanced and ``data`` does not tell them.
    """
    training, words = recipe.training, data.train.words
    if (training.word_balance or training.word_weights) and not words:
        rule = "need clips whose words are known: recordings alone, in memory"
        raise SpecError(f"training.word_balance={training.word_balance} and word_weights {rule}; leave them out here")
    strangers = sorted(set(training.word_weights) - set(words))
    if strangers:
        raise SpecError(f"training.word_weights: {strangers} are said by no clip; there are {sorted(set(words))}")
    if data.window is not None:
        from edgeaudio_models.streams.window import WindowDraws

        return WindowDraws(data.window, recipe.corpus.labels, recipe.training)
    label_indices = torch.from_numpy(data.train.label_indices).to(torch.int64)
    weights = sampling_weights(label_indices, recipe.corpus.labels, training, words=words)
    return MemoryDraws(weights, recipe.training.batch_size)
