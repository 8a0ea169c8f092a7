"""Which examples an epoch sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeaudio_models.recipe import TrainingRecipe


def sampling_weights(label_indices: Tensor, labels: Sequence[str], recipe: TrainingRecipe) -> Tensor:
    """Probability of drawing each example: float64 ``[n]``, sum 1.

    All examples of label l share ``weight[l] * count[l] ** (1 - class_balance)``, before scaling to sum 1.
    """
    counts = torch.bincount(label_indices, minlength=len(labels)).to(torch.float64)
    factors = torch.tensor([recipe.label_weights.get(label, 1.0) for label in labels], dtype=torch.float64)
    shares = factors * counts.pow(1.0 - recipe.class_balance) * (counts > 0)
    weights = (shares / counts.clamp_min(1.0))[label_indices]
    return weights / weights.sum()


def draw_epoch(weights: Tensor, n_examples: int, generator: torch.Generator) -> Tensor:
    """Draw ``n_examples`` example indices with replacement: int64 ``[n_examples]``."""
    return torch.multinomial(weights, n_examples, replacement=True, generator=generator)
