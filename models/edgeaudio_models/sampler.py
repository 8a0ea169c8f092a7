"""Which examples an epoch sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgeaudio_models.recipe import Recipe, TrainingRecipe
from edgeaudio_models.training_data import TrainingData
from edgeaudio_runtime.errors import SpecError


def sampling_weights(
    label_indices: Tensor, labels: Sequence[str], recipe: TrainingRecipe, *, word_indices: Tensor | None = None
) -> Tensor:
    """Probability of drawing each example: float64 ``[n]``, sum 1.

    All examples of label l share ``weight[l] * count[l] ** (1 - class_balance)``, before scaling to sum 1. Within a
    label, those of word w share in proportion to ``count[w] ** (1 - word_balance)``; at 0 all are alike.
    """
    counts = torch.bincount(label_indices, minlength=len(labels)).to(torch.float64)
    factors = torch.tensor([recipe.label_weights.get(label, 1.0) for label in labels], dtype=torch.float64)
    shares = factors * counts.pow(1.0 - recipe.class_balance) * (counts > 0)
    parts = _word_factors(label_indices, word_indices, recipe.word_balance)
    totals = torch.zeros(len(labels), dtype=torch.float64).index_add(0, label_indices, parts)
    weights = (shares / totals.clamp_min(torch.finfo(torch.float64).tiny))[label_indices] * parts
    return weights / weights.sum()


def _word_factors(label_indices: Tensor, word_indices: Tensor | None, balance: float) -> Tensor:
    """``count ** -balance`` of the word of each example within its label, ``[n]``; ones where words are not told."""
    if word_indices is None or balance == 0.0:
        return torch.ones(len(label_indices), dtype=torch.float64)
    pairs = torch.stack([label_indices, word_indices])
    _, group, counts = torch.unique(pairs, dim=1, return_inverse=True, return_counts=True)
    factors: Tensor = counts.to(torch.float64).pow(-balance)[group]
    return factors


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
    if recipe.training.word_balance and data.train.word_indices is None:
        rule = "needs clips whose words are known: recordings alone, in memory"
        raise SpecError(f"training.word_balance={recipe.training.word_balance} {rule}; leave it out here")
    if data.window is not None:
        from edgeaudio_models.streams.window import WindowDraws

        return WindowDraws(data.window, recipe.corpus.labels, recipe.training)
    label_indices = torch.from_numpy(data.train.label_indices).to(torch.int64)
    words = None if data.train.word_indices is None else torch.from_numpy(data.train.word_indices)
    weights = sampling_weights(label_indices, recipe.corpus.labels, recipe.training, word_indices=words)
    return MemoryDraws(weights, recipe.training.batch_size)
