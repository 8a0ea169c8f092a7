"""One step of the optimizer: gradients summed over processes, unscaled, clipped, applied."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from edgeaudio_models.recipe import TrainingRecipe
from edgeaudio_models.training_state import TrainingError
from edgeaudio_models.workers import Workers

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def reduced_precision(recipe: TrainingRecipe, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which products are computed as ``recipe.mixed_precision`` says (torch.autocast)."""
    if recipe.mixed_precision == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[recipe.mixed_precision])


class WeightUpdates:
    """AdamW on the weights of a module; only convolution weights decay, float16 gradients are scaled."""

    def __init__(self, module: nn.Module, recipe: TrainingRecipe, workers: Workers) -> None:
        self._parameters = list(module.parameters())
        self._recipe = recipe
        self._workers = workers
        self.optimizer = torch.optim.AdamW(_groups(self._parameters, recipe), lr=recipe.learning_rate)
        self.scaler = torch.amp.GradScaler(workers.device.type, enabled=recipe.mixed_precision == "float16")

    def apply(self, loss: Tensor, *, step: int, learning_rate: float) -> float:
        """Take one step against the gradient of ``loss``, this process's part of a sum; return that sum.

        Raises:
            TrainingError: The loss of ``step`` is no number.
        """
        value = float(self._workers.add_up(loss.detach()))
        if not math.isfinite(value):
            where = f"loss={value} at step {step}"
            raise TrainingError(f"{where}; lower training.learning_rate={self._recipe.learning_rate}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _add_up_gradients(self) -> None:
        if self._workers.size == 1:
            return
        trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        total = self._workers.add_up(torch.cat([torch.flatten(p.grad) for p in trained if p.grad is not None]))
        for parameter, part in zip(trained, torch.split(total, [p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs, as tensors and plain values."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; one without "scaler" is of an earlier version."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])


def _groups(parameters: list[nn.Parameter], recipe: TrainingRecipe) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
