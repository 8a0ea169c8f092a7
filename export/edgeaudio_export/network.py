"""What export needs to know of a streaming network, as a structural protocol: it never imports the architectures."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

States = tuple[Tensor, ...]


class SteppedNetwork(Protocol):
    """What rolling out streams needs to know of a step, whoever computes it."""

    @property
    def step_frames(self) -> int:
        """Feature frames one step consumes."""
        ...

    @property
    def n_features(self) -> int:
        """Values in a frame."""
        ...

    @property
    def n_labels(self) -> int:
        """Values in a logit vector."""
        ...

    def initial_state(self, batch: int = 1) -> States:
        """Zeros, one tensor for each state."""
        ...


@runtime_checkable
class StreamingNetwork(Protocol):
    """A torch module that is a pure function ``(features, state) -> (logits, state)``."""

    step_frames: int
    """Feature frames one step consumes."""
    n_features: int
    """Values in a frame."""
    n_labels: int
    """Values in a logit vector."""
    outputs_per_step: int
    """Logit vectors one step yields."""
    state_names: tuple[str, ...]
    """A name for each state, in order."""

    def initial_state(self, batch: int = 1) -> States:
        """Zeros, one tensor ``[batch, C, K]`` or ``[batch, C, K, F]`` for each state."""
        ...

    def __call__(self, features: Tensor, state: States) -> tuple[Tensor, States]:
        """Features ``[N, T, n_features]`` to logits ``[N, T // step_frames * outputs_per_step, n_labels]``, states."""
        ...


def as_module(network: StreamingNetwork) -> torch.nn.Module:
    """The same object, for calls that need a module."""
    assert isinstance(network, torch.nn.Module)
    return network


def frozen_copy(network: StreamingNetwork) -> StreamingNetwork:
    """A deep copy in evaluation mode, without gradients."""
    module = copy.deepcopy(as_module(network)).eval().requires_grad_(False)
    assert isinstance(module, StreamingNetwork)
    return module
