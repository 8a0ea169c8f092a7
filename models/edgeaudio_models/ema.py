"""Exponential moving average of weights: the network that is evaluated and kept."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class ExponentialAverage(Generic[Module]):
    """Averages every weight and batch norm statistic: ``average += (1 - decay) * (value - average)``.

    The decay grows as ``(1 + n) / (10 + n)`` over the first updates n, so that the start is forgotten.
    """

    def __init__(self, module: Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).eval()

    @torch.no_grad()
    def update(self, module: Module) -> None:
        """Move the average towards ``module``; counters are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)
