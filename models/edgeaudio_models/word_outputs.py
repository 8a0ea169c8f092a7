"""Outputs beside the labels that tell single words apart while a network learns, and are cut off after it.

A label that stands for many words teaches little about any of them: what it shares with a keyword goes unnoticed. Told
apart by outputs of their own, the words shape what the network hears, and the labels read it (multi-task learning;
Caruana, Machine Learning 28, 1997).
"""

from __future__ import annotations

from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.training_data import TrainingData
from edgeaudio_runtime.errors import SpecError


def n_word_outputs(recipe: Recipe, data: TrainingData) -> int:
    """Further outputs that training needs: one a word, or none.

    Raises:
        SpecError: Words shall be told apart and ``data`` does not name them, or the task is not "keyword".
    """
    if recipe.training.word_loss == 0.0:
        return 0
    if data.train.word_indices is None or recipe.task != "keyword":
        rule = "needs a keyword task and clips whose words are known: recordings alone, in memory"
        raise SpecError(f"training.word_loss={recipe.training.word_loss} {rule}; leave it out here")
    return int(data.train.word_indices.max()) + 1


def without_word_outputs(trained: StreamingModule, network: StreamingModule) -> StreamingModule:
    """``network``, built for the labels alone, with weights and mode of ``trained``, whose last outputs are words."""
    sizes = {name: len(value) for name, value in network.state_dict().items() if value.ndim}
    weights = trained.state_dict()
    network.load_state_dict({name: value[: sizes[name]] if name in sizes else value for name, value in weights.items()})
    return network.train(trained.training)
