"""The mutable middle of a training: module, weight updates, average, best weights, history, epoch."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from edgeaudio_models.architectures import architecture_config, build_module, config_values
from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_models.ema import ExponentialAverage
from edgeaudio_models.history import History, HistoryRow, history_of
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.sampler import draws_of
from edgeaudio_models.schedule import learning_rate
from edgeaudio_models.starting import begin_with, joined_lineage
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.training_tasks import TrainingTask, task_type
from edgeaudio_models.weight_updates import WeightUpdates
from edgeaudio_models.workers import ALONE, Workers
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.presets import preset

EPOCH_SEED = 1_000_003
"""Epoch e draws from the seed ``seed * EPOCH_SEED + e``, so that a resumed run needs no generator state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProgress:
    """Where a training stands."""

    epoch: int
    """Epochs finished or, within one, its number from 1."""
    epochs: int
    """Epochs in all."""
    step: int
    """Steps finished in all epochs."""
    steps: int
    """Steps in all."""
    loss: float
    """Mean loss of the epoch so far."""
    score: float | None
    """Validation figure of the averaged weights, after the last step of an epoch; else None."""
    best: float
    """Best such figure so far."""
    learning_rate: float
    """Of the step."""
    seconds: float
    """Since this process began to train."""


Progress = Callable[[TrainingProgress], None]


class TrainingRun:
    """One training: :meth:`train_epoch` until :attr:`finished`, then :meth:`checkpoint`."""

    def __init__(
        self, recipe: Recipe, data: TrainingData, *, start: StreamingModule | None = None, workers: Workers = ALONE
    ) -> None:
        self.recipe = recipe
        self.spec = preset(recipe.features.preset)
        self.config = _config(recipe, self.spec)
        self.workers = workers
        self.module = _fresh_module(recipe, self.config)
        begun = begin_with(self.module, recipe)
        self.provenance = joined_lineage(data.provenance, begun)
        if start is not None:
            self.module.load_state_dict(start.state_dict())
        elif begun is not None:
            start = begun.module
        self.module.to(workers.device)
        front_end = TorchFrontEnd(self.spec, multiple_of=self.module.step_frames).to(workers.device)
        self.task: TrainingTask = task_type(recipe)(recipe, data, front_end)
        self.task.workers = workers
        self.draws = draws_of(data, recipe)
        self.updates = WeightUpdates(self.module, recipe.training, workers)
        self.average = ExponentialAverage(self.module, decay=recipe.training.ema_decay)
        self.epochs_mean = AveragedModel(self.average.module, use_buffers=True)
        self.steps_per_epoch = recipe.training.steps_per_epoch or max(1, len(data.train) // recipe.training.batch_size)
        self.epoch = 0
        self.best: dict[str, Any] = {"score": -math.inf, "weights": {}, "metrics": {}, "epoch": 0}
        self.history: History = ()
        self.started = time.monotonic()
        self.identity = hashlib.sha256((format_recipe(recipe) + data.digest() + _digest_of(start)).encode()).hexdigest()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` of them brought nothing better."""
        training = self.recipe.training
        waited = self.epoch - self.best["epoch"]
        return self.epoch >= training.epochs or (training.patience > 0 and waited >= training.patience)

    def train_epoch(self, progress: Progress | None) -> None:
        """Take every step of the next epoch, then judge the averaged weights."""
        generator = torch.Generator().manual_seed(self.recipe.training.seed * EPOCH_SEED + self.epoch)
        total, began = 0.0, time.monotonic()
        for index, chosen in enumerate(self.draws.epoch(self.epoch, self.steps_per_epoch, generator)):
            total += self._step(chosen, self.epoch * self.steps_per_epoch + index, generator)
            if progress is not None and index + 1 < self.steps_per_epoch:
                progress(self._progress(index + 1, total / (index + 1), None))
        score, metrics = self._judged(self.average.module)
        if score > self.best["score"]:
            self._keep(self.average.module, score, metrics)
        self._average_epochs()
        self._remember(total / self.steps_per_epoch, score, time.monotonic() - began)
        if progress is not None:
            progress(self._progress(self.steps_per_epoch, total / self.steps_per_epoch, score))
        self.epoch += 1

    def _step(self, chosen: Tensor, step: int, generator: torch.Generator) -> float:
        self.module.train()
        share = self.workers.share(len(chosen))
        part = (share.stop - share.start) / len(chosen)
        losses = [self.task.loss(learner, chosen, generator) for learner in self.module.learners]
        loss = torch.stack(losses).mean()
        value = self.updates.apply(
            loss if part == 1.0 else loss * part,
            step=step,
            learning_rate=learning_rate(self.recipe.training, step, self._steps),
        )
        self.average.update(self.module)
        return value

    @property
    def _steps(self) -> int:
        return self.recipe.training.epochs * self.steps_per_epoch

    def _remember(self, loss: float, score: float, seconds: float) -> None:
        row = HistoryRow(
            epoch=self.epoch + 1, loss=loss, learning_rate=self._learning_rate, score=score, seconds=seconds
        )
        self.history = (*self.history, row)

    @property
    def _learning_rate(self) -> float:
        return float(self.updates.optimizer.param_groups[0]["lr"])

    def _judged(self, module: StreamingModule) -> tuple[float, dict[str, Any]]:
        """Validation figure of some weights, and all figures beside it."""
        metrics = self.workers.tell(self.task.evaluate(module) if self.workers.leads else None)
        return float(metrics[self.task.metric]), metrics

    def _keep(self, module: StreamingModule, score: float, metrics: dict[str, Any]) -> None:
        """Take these weights for the best so far."""
        weights = dict(copy.deepcopy(module.state_dict()))
        self.best = {"score": score, "weights": weights, "metrics": metrics, "epoch": self.epoch + 1}

    def _average_epochs(self) -> None:
        """Add one of the last epochs to their mean; after the last one keep the mean, whatever its figure is."""
        left = self.recipe.training.epochs - self.epoch - 1
        if left >= self.recipe.training.averaged_epochs:
            return
        self.epochs_mean.update_parameters(self.average.module)
        if left == 0:
            mean = cast(StreamingModule, self.epochs_mean.module)
            self._keep(mean, *self._judged(mean))

    def _progress(self, step: int, loss: float, score: float | None) -> TrainingProgress:
        return TrainingProgress(
            epoch=self.epoch + 1,
            epochs=self.recipe.training.epochs,
            step=self.epoch * self.steps_per_epoch + step,
            steps=self._steps,
            loss=loss,
            score=score,
            best=self.best["score"],
            learning_rate=self._learning_rate,
            seconds=time.monotonic() - self.started,
        )

    def state(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs, as tensors and plain values."""
        return {
            "run": self.identity,
            "epoch": self.epoch,
            "module": dict(self.module.state_dict()),
            **self.updates.state(),
            "average": dict(self.average.module.state_dict()),
            "updates": self.average.updates,
            "epochs_mean": dict(self.epochs_mean.state_dict()),
            "best": self.best,
            "history": [asdict(row) for row in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the epoch in which ``state`` was taken."""
        self.epoch, self.best = state["epoch"], state["best"]
        self.module.load_state_dict(state["module"])
        self.updates.restore(state)
        self.average.module.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        if "epochs_mean" in state:  # states of earlier versions have none
            self.epochs_mean.load_state_dict(state["epochs_mean"])
        self.history = history_of(state.get("history", []))

    def checkpoint(self) -> Checkpoint:
        """The averaged weights of the best epoch, or of the last ones, on the processor."""
        module = self.average.module
        module.load_state_dict(self.best["weights"])
        chosen = {**self.best["metrics"], "epoch": self.best["epoch"], "chosen_by": self.task.metric}
        return Checkpoint(
            architecture=self.recipe.model.architecture,
            config=self.config,
            module=module.cpu(),
            labels=self.recipe.corpus.labels,
            features=self.spec,
            recipe=self.recipe,
            metrics={"validation": chosen},
            provenance=self.provenance,
            history=self.history,
        )


def _config(recipe: Recipe, spec: FeatureSpec) -> dict[str, Any]:
    """Configuration of the recipe's network as plain values."""
    sizes = {"n_features": spec.n_features, "n_labels": len(recipe.corpus.labels)}
    values = {**recipe.model.parameters, **sizes}
    return config_values(architecture_config(recipe.model.architecture, values))


def _digest_of(start: StreamingModule | None) -> str:
    """Hex digest over the weights a training begins with; empty for fresh ones."""
    if start is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in start.state_dict().values():
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fresh_module(recipe: Recipe, config: dict[str, Any]) -> StreamingModule:
    """Module with weights from the recipe's seed; the global generator of torch is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build_module(recipe.model.architecture, config)
