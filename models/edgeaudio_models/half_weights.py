"""Weights rounded to float16, as the zoo keeps them: half the bytes, and still the network that is quantized."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from edgeaudio_models.checkpoint import WEIGHTS, Checkpoint, CheckpointError, save_checkpoint


def round_weights(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with every float tensor rounded to the nearest float16 value, still held in float32.

    Raises:
        CheckpointError: A value is beyond the largest float16, 65504.
    """
    module = copy.deepcopy(checkpoint.module)
    module.load_state_dict({name: _half(name, tensor).to(tensor.dtype) for name, tensor in module.state_dict().items()})
    return replace(checkpoint, module=module.eval())


def save_half_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a new checkpoint directory whose float tensors are float16; ``load_checkpoint`` reads them as float32.

    Raises:
        CheckpointError: As :func:`round_weights`.
        OutputError: ``path`` exists.
    """
    weights = {name: _half(name, tensor).contiguous() for name, tensor in checkpoint.module.state_dict().items()}
    save_checkpoint(checkpoint, path)
    (path / WEIGHTS).write_bytes(save(weights))


def _half(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.detach().to(torch.float16)
    if not bool(torch.isfinite(rounded).all()):
        largest = float(tensor.abs().max())
        raise CheckpointError(f"{name}: a value of {largest:g} does not fit float16, up to 65504; train it anew")
    return rounded
