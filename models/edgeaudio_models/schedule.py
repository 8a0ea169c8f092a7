"""The learning rate as a pure function of the step, so that nothing about it need be saved."""

from __future__ import annotations

import math

from edgeaudio_models.recipe import TrainingRecipe

ONE_CYCLE_START = 1 / 25
"""First learning rate of "one_cycle" over the highest (Smith and Topin, arXiv:1708.07120, and torch's default)."""


def learning_rate(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """Learning rate of ``step`` (0-based) out of ``steps``, as ``recipe.schedule`` says."""
    rising = recipe.warmup * steps
    if step < rising:
        done = (step + 1) / rising if recipe.schedule == "warmup_cosine" else step / rising
        if recipe.schedule == "warmup_cosine":
            return recipe.learning_rate * min(1.0, done)
        return recipe.learning_rate * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * _cosine(1.0 - done))
    return recipe.learning_rate * _cosine((step - rising) / max(1.0, steps - rising))


def _cosine(done: float) -> float:
    """Half a cosine from 1 at ``done = 0`` to 0 at ``done = 1``."""
    return 0.5 * (1.0 + math.cos(math.pi * done))
