"""Choose the threshold of a wake word on speech it did not learn from: held-out voices and speakers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.wake_word.background import joined
from edgeaudio_models.wake_word.corpus import GAP_SECONDS, WakeWordCorpus
from edgeaudio_models.wake_word.mining import find_places
from edgeaudio_models.wake_word.task import WakeWordTask, stream_scores

GRID = (*(round(0.5 + 0.025 * i, 3) for i in range(19)), 0.96, 0.97, 0.98)
"""Thresholds to choose from; a label fires only where it is the likelier one, so none is below a half."""
SPENT_ON_MARGIN = 0.05
"""Share of the held-out phrases that may be missed for a higher threshold than their speech calls for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A threshold and what it rests on."""

    value: float
    """Smoothed probability from which the phrase counts as heard."""
    miss_rate: float
    """Share of held-out phrases, in noise and rooms, below it."""
    false_accepts: int
    """Places in the held-out stream at or above it."""
    hours: float
    """Length of that stream."""
    highest_false_score: float
    """Highest score in that stream, 0 where nothing reached ``mining.LEAST_SCORE``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def summary(self) -> str:
        """One line."""
        return (
            f"threshold {self.value:g}: misses {self.miss_rate:.1%} of the held-out phrases, "
            f"{self.false_accepts} false accepts in {self.hours:.2f} hours of held-out speech"
        )


def choose_threshold(checkpoint: Checkpoint, data: TrainingData, corpus: WakeWordCorpus) -> Threshold:
    """The highest threshold that few phrases more are missed for than at the lowest without a false accept.

    That lowest one rests on the little speech that is held out, so :data:`SPENT_ON_MARGIN` of the phrases are given
    for a margin; where every threshold has a false accept, the highest of the grid is taken.

    The phrases are the validation clips as training judges them: other voices, in noise and in rooms. The stream is
    ordinary speech of those voices and the recorded speakers that were set aside. Near words are left out: a stream
    full of them, which nobody ever hears, would call for a threshold that misses the phrase.
    """
    module, rate = checkpoint.module, checkpoint.features.sample_rate
    front_end = TorchFrontEnd(checkpoint.features, multiple_of=module.step_frames)
    task = WakeWordTask(_judging(checkpoint.recipe), replace(data, train=data.validation), front_end)
    phrases = stream_scores(module, task.validation_features[task.validation_has_phrase]).numpy()
    speech = joined(corpus.speech.validation, gap_seconds=GAP_SECONDS, sample_rate=rate, seed=0)
    stream = np.concatenate([corpus.negatives.ordinary, speech])
    with torch.no_grad():
        false = np.array([place.score for place in find_places(module, front_end, stream)])
    highest = float(false.max()) if len(false) else 0.0
    value = with_margin(phrases, highest)
    return Threshold(
        value=value,
        miss_rate=float((phrases < value).mean()),
        false_accepts=int((false >= value).sum()),
        hours=len(stream) / rate / 3600,
        highest_false_score=highest,
    )


def with_margin(phrases: npt.NDArray[np.floating[Any]], highest_false_score: float) -> float:
    """Threshold from the scores of phrases ``[n]`` and the highest score of speech without them.

    Of :data:`GRID` above ``highest_false_score``, the highest that misses at most :data:`SPENT_ON_MARGIN` of the
    phrases more than the lowest does.
    """
    free = [value for value in GRID if value > highest_false_score] or [GRID[-1]]
    most = (phrases < free[0]).mean() + SPENT_ON_MARGIN
    return max(value for value in free if (phrases < value).mean() <= most)


def _judging(recipe: Recipe) -> Recipe:
    """A recipe whose task has next to nothing to learn."""
    return replace(recipe, wake_word=replace(recipe.wake_word, variants=1))
