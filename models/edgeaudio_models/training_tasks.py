"""What differs between training for keywords and for CTC: the batch, its loss, and how a network is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeaudio_models.augmentation import change_tempo, draw_masks, draw_uniform, hide_masked, warp_features
from edgeaudio_models.channels_last import ChannelsLast
from edgeaudio_models.ctc import BLANK
from edgeaudio_models.evaluation import clip_features, keyword_metrics, last_logits, string_error_rate
from edgeaudio_models.losses import ctc_loss, keyword_loss, word_end_loss
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.rooms import bank_of
from edgeaudio_models.streaming import StreamingModule, run_from_reset
from edgeaudio_models.string_words import VoiceWords, draw_words
from edgeaudio_models.synced_batch_norm import SyncedBatchNorm
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_models.waveform_batches import (
    Strings,
    add_surroundings,
    change_rate,
    join_strings,
    keyword_batch,
    noise_bed,
    voiced_spans,
)
from edgeaudio_models.weight_updates import reduced_precision
from edgeaudio_models.workers import ALONE, Workers
from edgeaudio_runtime.whole_recording import padded_frames

SILENCE = "_silence_"
VALIDATION_STRINGS = 200
"""Strings joined from the validation clips; the same ones at every epoch."""


class TrainingTask(ABC):
    """Batches, loss and judgement of one training; all randomness comes from the generators passed in."""

    metric: str
    """Name of the figure in :meth:`evaluate` that chooses the best epoch; the larger the better."""
    workers: Workers = ALONE
    """This process among those that train together."""

    def __init__(self, recipe: Recipe, data: TrainingData, front_end: TorchFrontEnd) -> None:
        self.recipe = recipe
        self.front_end = front_end
        self.sample_rate = front_end.spec.sample_rate
        self.waveforms = torch.from_numpy(data.train.waveforms)
        self.label_indices = torch.from_numpy(data.train.label_indices).to(torch.int64)
        recorded = None if data.noise is None else torch.from_numpy(data.noise).to(torch.float32) / 32768.0
        n_samples = 2 * self.waveforms.shape[1]
        self.bed = noise_bed(recorded, n_samples=n_samples, seed=recipe.training.seed)
        self.rooms = bank_of(recipe.augmentation, sample_rate=self.sample_rate, seed=recipe.training.seed)

    @abstractmethod
    def loss(self, module: StreamingModule, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of ``module`` on this process's share of a batch made of the examples ``chosen`` (int64 ``[N]``).

        Every process draws and makes the waveforms of the whole batch, so that the draws are those of one process.
        """

    @abstractmethod
    def evaluate(self, module: StreamingModule) -> dict[str, Any]:
        """JSON-ready figures on the validation split, among them :attr:`metric`."""

    def _mine(self, values: Tensor) -> Tensor:
        """This process's share of something about the whole batch, on its device."""
        return values[self.workers.share(len(values))].to(self.workers.device)

    def _logits(
        self, module: StreamingModule, streams: Tensor, generator: torch.Generator, *, tempo: float = 1.0
    ) -> Tensor:
        """Logits of this process's share of ``streams`` ``[N, S]``, squeezed by ``tempo``, in float32."""
        features = self.front_end(self._mine(streams))
        if tempo != 1.0:
            features = change_tempo(features, tempo, multiple_of=module.step_frames)
        if warp := self.recipe.augmentation.max_feature_warp:
            factors = draw_uniform(len(streams), 1.0 - warp, 1.0 + warp, generator)
            features = warp_features(features, self._mine(factors))
        masks = draw_masks((len(streams), *features.shape[1:]), self.recipe.augmentation, generator=generator)
        with ExitStack() as contexts:
            contexts.enter_context(reduced_precision(self.recipe.training, self.workers.device))
            if self.workers.size > 1:
                contexts.enter_context(SyncedBatchNorm(self.workers.add_up))
            contexts.enter_context(ChannelsLast())
            return run_from_reset(module, hide_masked(features, self._mine(masks))).float()


class KeywordTask(TrainingTask):
    """One clip, one label, scored at the last step."""

    metric = "macro_accuracy"

    def __init__(self, recipe: Recipe, data: TrainingData, front_end: TorchFrontEnd) -> None:
        super().__init__(recipe, data, front_end)
        labels = recipe.corpus.labels
        data.check_labels(len(labels))
        self.silence_index = labels.index(SILENCE) if SILENCE in labels else -1
        self.validation_labels = torch.from_numpy(data.validation.label_indices)
        device = next(front_end.buffers()).device
        self.validation_features = clip_features(front_end, torch.from_numpy(data.validation.waveforms), device=device)

    def loss(self, module: StreamingModule, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`TrainingTask.loss`."""
        wanted = self.label_indices[chosen]
        streams = keyword_batch(
            self.waveforms[chosen].to(torch.float32) / 32768.0,
            silent=wanted == self.silence_index,
            recipe=self.recipe,
            sample_rate=self.sample_rate,
            bed=self.bed,
            generator=generator,
            rooms=self.rooms,
        )
        logits = self._logits(module, streams, generator)
        return keyword_loss(logits, self._mine(wanted), label_smoothing=self.recipe.training.label_smoothing)

    def evaluate(self, module: StreamingModule) -> dict[str, Any]:
        """See :meth:`TrainingTask.evaluate`."""
        predicted = last_logits(module, self.validation_features).argmax(dim=1)
        metrics = keyword_metrics(predicted, self.validation_labels, self.recipe.corpus.labels)
        return {
            "accuracy": metrics.accuracy,
            "macro_accuracy": metrics.macro_accuracy,
            "label_accuracy": metrics.label_accuracy,
            "n_clips": metrics.n_clips,
        }


class CtcTask(TrainingTask):
    """Strings of words joined from single-word clips, one label a word."""

    metric = "label_correctness"

    def __init__(self, recipe: Recipe, data: TrainingData, front_end: TorchFrontEnd) -> None:
        super().__init__(recipe, data, front_end)
        data.check_labels(len(recipe.corpus.labels), first=BLANK + 1)
        self.validation = self._validation_strings(data.validation)
        one_voice, labels = recipe.context.one_voice, torch.from_numpy(data.train.label_indices)
        self.voices = VoiceWords(labels, data.train.voices, recipe.context) if one_voice else None

    def _validation_strings(self, examples: Examples) -> Strings:
        clips, spans = _trimmed(torch.from_numpy(examples.waveforms))
        context = replace(self.recipe.context, max_word_rate_change=0.0, max_rate_change_of_voice=0.0)
        generator = torch.Generator().manual_seed(self.recipe.training.seed)
        return join_strings(
            clips,
            spans,
            torch.from_numpy(examples.label_indices),
            words=draw_words(torch.arange(len(examples)), VALIDATION_STRINGS, context, generator),
            recipe=replace(self.recipe, context=context),
            sample_rate=self.sample_rate,
            generator=generator,
        )

    def loss(self, module: StreamingModule, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`TrainingTask.loss`; strings are made of ``chosen``, or begin with these if each has one voice."""
        strings = self._strings(chosen, generator)
        limit = self.recipe.context.max_rate_change
        # Faster only: slower would push the first and last word over the ends.
        factor = 1.0 - limit * float(torch.rand(1, generator=generator))
        streams = change_rate(strings.waveforms, factor) if limit else strings.waveforms
        streams = add_surroundings(
            streams,
            self.recipe.augmentation,
            bed=self.bed,
            generator=generator,
            sample_rate=self.sample_rate,
            rooms=self.rooms,
        )
        squeezed = self.recipe.context.max_tempo_change
        tempo = 1.0 - squeezed * float(torch.rand(1, generator=generator)) if squeezed else 1.0
        logits = self._logits(module, streams, generator, tempo=tempo)
        targets, lengths = self._mine_of_words(strings.targets, strings), self._mine(strings.target_lengths)
        loss = ctc_loss(logits, torch.full((len(logits),), logits.shape[1]), targets, lengths)
        weight = self.recipe.training.word_end_weight
        if not weight:
            return loss
        played = _after_change_of_rate(strings.word_ends, strings.waveforms.shape[1], factor if limit else 1.0)
        hops = self.front_end.spec.hop_length * module.step_frames // module.outputs_per_step
        ends = self._mine_of_words((played * tempo / hops).to(torch.int64), strings)
        return loss + weight * word_end_loss(logits, ends, targets, lengths)

    def _strings(self, chosen: Tensor, generator: torch.Generator) -> Strings:
        if self.voices is None:
            words = draw_words(chosen, len(chosen), self.recipe.context, generator)
        else:
            words = self.voices.draw(chosen, generator)
        used, places = map(torch.from_numpy, np.unique(torch.cat(words).numpy(), return_inverse=True))
        clips, spans = _trimmed(self.waveforms[used])
        return join_strings(
            clips,
            spans,
            self.label_indices[used],
            words=torch.split(places, [len(said) for said in words]),
            recipe=self.recipe,
            sample_rate=self.sample_rate,
            generator=generator,
        )

    def _mine_of_words(self, values: Tensor, strings: Strings) -> Tensor:
        """This process's share of something about every word of the batch, one string after the other."""
        parts = torch.split(values, strings.target_lengths.tolist())
        return torch.cat(parts[self.workers.share(len(parts))]).to(self.workers.device)

    def _n_outputs(self, n_samples: Tensor, module: StreamingModule) -> Tensor:
        """Outputs that belong to strings of these lengths, the last step of each filled with silence."""
        frames = [padded_frames(self.front_end.spec, n, module.step_frames) for n in n_samples.tolist()]
        return n_samples.new_tensor(frames) // module.step_frames * module.outputs_per_step

    def evaluate(self, module: StreamingModule) -> dict[str, Any]:
        """See :meth:`TrainingTask.evaluate`."""
        rate = string_error_rate(
            module,
            self.front_end,
            self.validation,
            outputs_of=lambda n_samples: self._n_outputs(n_samples, module),
        )
        return {"label_error_rate": rate, "label_correctness": 1.0 - rate, "n_strings": VALIDATION_STRINGS}


def _after_change_of_rate(places: Tensor, n_samples: int, factor: float) -> Tensor:
    """Where samples of a row of ``n_samples`` lie after :func:`change_rate`, which pads what it shortened evenly."""
    return (places * factor).to(torch.int64) + (n_samples - round(n_samples * factor)) // 2


def _trimmed(waveforms: Tensor) -> tuple[Tensor, Tensor]:
    clips = waveforms.to(torch.float32) / 32768.0
    return clips, voiced_spans(clips)


TASKS: dict[str, type[TrainingTask]] = {"keyword": KeywordTask, "ctc": CtcTask}
"""By ``Recipe.task``."""


def task_type(recipe: Recipe) -> type[TrainingTask]:
    """The task that trains ``recipe``."""
    if recipe.corpus.kind == "wake_word":
        from edgeaudio_models.wake_word.task import WakeWordTask

        return WakeWordTask
    return TASKS[recipe.task]
