"""Train a wake word: every output of a stream has its target, and the worst output counts as much as all others."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeaudio_models.augmentation import mask_features
from edgeaudio_models.channels_last import ChannelsLast
from edgeaudio_models.evaluation import BATCH_SIZE
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import StreamingModule, run_from_reset
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_models.training_tasks import TrainingTask
from edgeaudio_models.wake_word.streams import HEARD, NOT_HEARD, compose, targets, through_microphones
from edgeaudio_models.waveform_batches import add_surroundings
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import MelSpec

PHRASE_INDEX = 1
"""Label of the phrase; label 0 is everything else."""
SMOOTHED_OUTPUTS = 5
"""Outputs averaged before a score is read: the detector's 0.2 s at 40 ms."""
FALSE_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Shares of the streams without the phrase that may be taken for it, where hits are counted."""


class WakeWordTask(TrainingTask):
    """One phrase against everything else, judged by the hits at a few shares of false ones."""

    metric = "hit_rate"

    def __init__(self, recipe: Recipe, data: TrainingData, front_end: TorchFrontEnd) -> None:
        super().__init__(recipe, data, front_end)
        data.check_labels(2)
        self.db_in_features = decibel(front_end.spec)
        seed = recipe.training.seed
        parts = [self._surrounded(data.train, seed + i) for i in range(recipe.wake_word.variants)]
        self.features = torch.stack([part.features for part in parts])
        self.targets = torch.stack([part.targets for part in parts])
        judged = self._surrounded(data.validation, seed)
        generator = torch.Generator().manual_seed(seed)
        self.validation_features = self._through_microphones(judged.features.to(torch.float32), generator)
        self.validation_has_phrase = torch.from_numpy(data.validation.label_indices) == PHRASE_INDEX

    def loss(self, module: StreamingModule, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`TrainingTask.loss`."""
        variant = torch.randint(len(self.features), (len(chosen),), generator=generator)
        features = self._through_microphones(self.features[variant, chosen].to(torch.float32), generator)
        features = mask_features(features, self.recipe.augmentation, generator=generator)
        layout: AbstractContextManager[Any] = ChannelsLast()
        with layout:
            logits = run_from_reset(module, features)
        wanted = self.targets[variant, chosen].to(torch.int64)
        return stream_loss(logits, wanted, label_smoothing=self.recipe.training.label_smoothing)

    @torch.no_grad()
    def evaluate(self, module: StreamingModule) -> dict[str, Any]:
        """See :meth:`TrainingTask.evaluate`."""
        scores = stream_scores(module, self.validation_features)
        hits, others = scores[self.validation_has_phrase], scores[~self.validation_has_phrase]
        rates = {share: hit_rate(hits, others, share) for share in FALSE_SHARES}
        return {
            "hit_rate": sum(rates.values()) / len(rates),
            "hit_rate_at_false_share": {str(share): rate for share, rate in rates.items()},
            "n_streams": len(scores),
        }

    def _surrounded(self, examples: Examples, seed: int) -> Surrounded:
        """Every example once in a stream, in a room and in noise; the seed decides all of it.

        Rooms and noise take most of the time of a step, so they are computed before the first one.
        """
        generator = torch.Generator().manual_seed(seed)
        has_phrase = torch.from_numpy(examples.label_indices) == PHRASE_INDEX
        order = torch.randperm(len(examples), generator=generator)
        parts = [self._batch(examples, has_phrase, part, generator) for part in torch.split(order, BATCH_SIZE)]
        back = order.argsort()
        return Surrounded(
            features=torch.cat([part.features for part in parts])[back],
            targets=torch.cat([part.targets for part in parts])[back],
        )

    def _batch(self, examples: Examples, has_phrase: Tensor, chosen: Tensor, generator: torch.Generator) -> Surrounded:
        streams = compose(
            torch.from_numpy(examples.waveforms[chosen.numpy()]).to(torch.float32) / 32768.0,
            has_phrase[chosen],
            sample_rate=self.sample_rate,
            max_rate_change=self.recipe.wake_word.max_rate_change,
            generator=generator,
        )
        heard = add_surroundings(
            streams.waveforms,
            self.recipe.augmentation,
            bed=self.bed,
            generator=generator,
            sample_rate=self.sample_rate,
            rooms=self.rooms,
        )
        features = self.front_end(heard)
        step, hop = self.front_end.multiple_of, self.front_end.spec.hop_length
        wanted = targets(
            streams,
            n_outputs=features.shape[1] // step,
            samples_per_output=step * hop,
            sample_rate=self.sample_rate,
        )
        return Surrounded(features=features.to(torch.float16), targets=wanted.to(torch.int8))

    def _through_microphones(self, features: Tensor, generator: torch.Generator) -> Tensor:
        return through_microphones(features, db_in_features=self.db_in_features, generator=generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class Surrounded:
    """Streams as a network hears them."""

    features: Tensor
    """float16 ``[N, T, F]``: half the memory, and 1/1000 of a value is nothing beside what is varied."""
    targets: Tensor
    """int8 ``[N, T_out]``, see :func:`edgeaudio_models.wake_word.streams.targets`."""


def decibel(spec: MelSpec) -> float:
    """What a gain of one dB adds to a feature.

    Raises:
        SpecError: The features are no logarithms of mel bands.
    """
    units = {"ln": math.log(10.0) / 10.0, "log10": 0.1, "10log10": 1.0}
    if spec.log not in units or spec.n_dct:
        raise SpecError(f"features have log={spec.log!r} and n_dct={spec.n_dct}; wake words take logarithmic mel bands")
    return units[spec.log] * spec.affine_scale


def stream_loss(logits: Tensor, wanted: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy of every output; in each stream half the weight lies on its worst output without the phrase.

    Args:
        logits: ``[N, T, 2]``.
        wanted: int64 ``[N, T]`` of ``HEARD``, ``NOT_HEARD`` and ``EITHER``.
        label_smoothing: Probability given to the other label.
    """
    margin = logits[:, :, PHRASE_INDEX] - logits[:, :, 1 - PHRASE_INDEX]
    missed = _smoothed(-margin, label_smoothing)
    accepted = _smoothed(margin, label_smoothing)
    hits, others = wanted == HEARD, wanted == NOT_HEARD
    n_hits, n_others = hits.sum(dim=1), others.sum(dim=1).clamp_min(1)
    hit_loss = (missed * hits).sum(dim=1) / n_hits.clamp_min(1)
    worst = torch.where(others, accepted, accepted.new_zeros(())).amax(dim=1)
    other_loss = 0.5 * (accepted * others).sum(dim=1) / n_others + 0.5 * worst
    return (hit_loss + other_loss).mean()


def _smoothed(margin: Tensor, label_smoothing: float) -> Tensor:
    return functional.softplus(margin) - 0.5 * label_smoothing * margin


@torch.no_grad()
def output_scores(module: StreamingModule, features: Tensor) -> Tensor:
    """Smoothed probability of the phrase at every output: features ``[n, T, F]`` to ``[n, T_out]``, from reset."""
    module.eval()
    logits = torch.cat([run_from_reset(module, part) for part in torch.split(features, BATCH_SIZE)])
    probability = torch.softmax(logits, dim=2)[:, :, PHRASE_INDEX]
    padded = functional.pad(probability, (SMOOTHED_OUTPUTS - 1, 0))
    smoothed: Tensor = functional.avg_pool1d(padded[:, None], SMOOTHED_OUTPUTS, stride=1)[:, 0]
    return smoothed


def stream_scores(module: StreamingModule, features: Tensor) -> Tensor:
    """Highest smoothed probability of the phrase in each stream ``[n, T, F]``: ``[n]``."""
    return output_scores(module, features).amax(dim=1)


def hit_rate(hits: Tensor, others: Tensor, false_share: float) -> float:
    """Share of ``hits`` above the score that ``false_share`` of ``others`` exceed."""
    n_false = int(false_share * len(others))
    threshold = others.sort(descending=True).values[min(n_false, len(others) - 1)]
    return float((hits > threshold).to(torch.float64).mean())
