"""Train a recipe on plain arrays: fixed seeds, averaged weights, best epoch by validation, resume after a kill."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeaudio_models.architectures import architecture_config, build_module, config_values
from edgeaudio_models.checkpoint import Checkpoint, save_checkpoint
from edgeaudio_models.ema import ExponentialAverage
from edgeaudio_models.history import History, HistoryRow, history_of
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.sampler import draw_epoch, sampling_weights
from edgeaudio_models.schedule import learning_rate
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.training_state import TrainingError, load_state, save_state
from edgeaudio_models.training_tasks import TASKS, TrainingTask
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.staging import refuse_overwrite

STATE_FILE = "training_state.pt"
CHECKPOINT_FOLDER = "checkpoint"
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
    seconds: float
    """Since this process began to train."""


Progress = Callable[[TrainingProgress], None]


def train(
    recipe: Recipe,
    data: TrainingData,
    output_dir: str | Path,
    *,
    resume: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Train ``recipe`` on ``data`` and leave ``output_dir/checkpoint``.

    Every epoch ends with an atomic write of ``output_dir/training_state.pt``. A run that is killed and started again
    goes on after its last whole epoch and ends with the same weights, bit for bit, on the same machine and number of
    threads.

    Args:
        recipe: What to train.
        data: Clips to learn from and clips to choose the best epoch by.
        output_dir: Made if missing.
        resume: Go on from the state of an earlier run of the same recipe on the same data.
        force: Replace an existing checkpoint.
        progress: Called after every step, and after the last step of an epoch with the validation figure.

    Returns:
        The checkpoint with the averaged weights of the best epoch, as written.

    Raises:
        SpecError: The data do not fit the recipe.
        TrainingError: A state of another run stands in the way, or the loss is no longer a number.
        OutputError: ``output_dir`` holds a finished checkpoint already and ``force`` is false, or cannot be written.
    """
    folder = Path(output_dir)
    refuse_overwrite(folder / CHECKPOINT_FOLDER, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, data)
    saved = load_state(folder / STATE_FILE, run=run.identity) if resume else None
    if saved is not None:
        run.restore(saved)
    while run.epoch < recipe.training.epochs:
        run.train_epoch(progress)
        save_state(folder / STATE_FILE, run.state())
    checkpoint = run.checkpoint()
    save_checkpoint(checkpoint, folder / CHECKPOINT_FOLDER, force=force)
    return checkpoint


class _Run:
    """The mutable middle of a training: module, optimizer, average, best weights, epoch."""

    def __init__(self, recipe: Recipe, data: TrainingData) -> None:
        spec = preset(recipe.features.preset)
        self.recipe = recipe
        self.spec = spec
        self.provenance = dict(data.provenance)
        self.config = config_values(
            architecture_config(
                recipe.model.architecture,
                {
                    **recipe.model.parameters,
                    "n_features": spec.n_features,
                    "n_labels": len(recipe.corpus.labels),
                },
            )
        )
        self.module = _fresh_module(recipe, self.config)
        front_end = TorchFrontEnd(spec, multiple_of=self.module.step_frames)
        self.task: TrainingTask = TASKS[recipe.task](recipe, data, front_end)
        self.optimizer = _optimizer(self.module, recipe)
        self.average = ExponentialAverage(self.module, decay=recipe.training.ema_decay)
        self.weights = sampling_weights(self.task.label_indices, recipe.corpus.labels, recipe.training)
        self.steps_per_epoch = max(1, len(data.train) // recipe.training.batch_size)
        self.epoch = 0
        self.best: dict[str, Any] = {"score": -math.inf, "weights": {}, "metrics": {}, "epoch": 0}
        self.history: History = ()
        self.started = time.monotonic()
        self.identity = hashlib.sha256((format_recipe(recipe) + data.digest()).encode()).hexdigest()

    def train_epoch(self, progress: Progress | None) -> None:
        generator = torch.Generator().manual_seed(self.recipe.training.seed * EPOCH_SEED + self.epoch)
        size = self.recipe.training.batch_size
        drawn = draw_epoch(self.weights, self.steps_per_epoch * size, generator)
        total, began = 0.0, time.monotonic()
        for index, chosen in enumerate(torch.split(drawn, size)):
            total += self._step(chosen, self.epoch * self.steps_per_epoch + index, generator)
            if progress is not None and index + 1 < self.steps_per_epoch:
                progress(self._progress(index + 1, total / (index + 1), None))
        score = self._judge()
        self._remember(total / self.steps_per_epoch, score, time.monotonic() - began)
        if progress is not None:
            progress(self._progress(self.steps_per_epoch, total / self.steps_per_epoch, score))
        self.epoch += 1

    def _step(self, chosen: Tensor, step: int, generator: torch.Generator) -> float:
        training = self.recipe.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, step, training.epochs * self.steps_per_epoch)
        self.module.train()
        loss = self.task.loss(self.module, chosen, generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            where = f"loss={value} at step {step}"
            raise TrainingError(f"{where}; lower training.learning_rate={training.learning_rate}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), training.max_gradient_norm)
        self.optimizer.step()
        self.average.update(self.module)
        return value

    def _remember(self, loss: float, score: float, seconds: float) -> None:
        row = HistoryRow(
            epoch=self.epoch + 1,
            loss=loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            score=score,
            seconds=seconds,
        )
        self.history = (*self.history, row)

    def _judge(self) -> float:
        metrics = self.task.evaluate(self.average.module)
        score = float(metrics[self.task.metric])
        if score > self.best["score"]:
            weights = copy.deepcopy(self.average.module.state_dict())
            self.best = {"score": score, "weights": dict(weights), "metrics": metrics, "epoch": self.epoch + 1}
        return score

    def _progress(self, step: int, loss: float, score: float | None) -> TrainingProgress:
        epochs = self.recipe.training.epochs
        return TrainingProgress(
            epoch=self.epoch + 1,
            epochs=epochs,
            step=self.epoch * self.steps_per_epoch + step,
            steps=epochs * self.steps_per_epoch,
            loss=loss,
            score=score,
            best=self.best["score"],
            seconds=time.monotonic() - self.started,
        )

    def state(self) -> dict[str, Any]:
        return {
            "run": self.identity,
            "epoch": self.epoch,
            "module": dict(self.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": dict(self.average.module.state_dict()),
            "updates": self.average.updates,
            "best": self.best,
            "history": [asdict(row) for row in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.best = state["epoch"], state["best"]
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.module.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.history = history_of(state.get("history", []))  # states of earlier versions have none

    def checkpoint(self) -> Checkpoint:
        module = self.average.module
        module.load_state_dict(self.best["weights"])
        chosen = {**self.best["metrics"], "epoch": self.best["epoch"], "chosen_by": self.task.metric}
        return Checkpoint(
            architecture=self.recipe.model.architecture,
            config=self.config,
            module=module,
            labels=self.recipe.corpus.labels,
            features=self.spec,
            recipe=self.recipe,
            metrics={"validation": chosen},
            provenance=self.provenance,
            history=self.history,
        )


def _fresh_module(recipe: Recipe, config: dict[str, Any]) -> StreamingModule:
    """Module with weights from the recipe's seed; the global generator of torch is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build_module(recipe.model.architecture, config)


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; only convolution weights decay."""
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.training.learning_rate)
