"""Batch norm over the batch of all processes, so that the number of processes changes no figure but by rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

AddUp = Callable[[Tensor], Tensor]
"""Sum of a tensor over all processes."""


class _Total(torch.autograd.Function):
    """Sum over processes. Each has its own part of the loss, so the gradients of the parts are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, add_up: AddUp) -> Tensor:
        ctx.add_up = add_up
        return add_up(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.add_up(gradients[0].contiguous()), None


class SyncedBatchNorm(TorchFunctionMode):
    """Context in which batch norms in training mode take mean and variance over the batches of all processes.

    torch.nn.SyncBatchNorm does the same on GPUs alone. Variances come from centred values, as in one process.
    """

    def __init__(self, add_up: AddUp) -> None:
        super().__init__()
        self._add_up = add_up

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
    ) -> Any:
        """Run ``func``, or the synchronized form of ``batch_norm``; the mode itself is off inside."""
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        over = [axis for axis in range(x.ndim) if axis != 1]
        values = x.float()
        count = float(self._add_up(values.new_tensor([x.numel() / x.shape[1]])))
        mean = self._total(values.sum(over, keepdim=True)) / count
        centred = values - mean
        variance = self._total(centred.square().sum(over, keepdim=True)) / count
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.detach().flatten(), momentum)
            running_var.lerp_(variance.detach().flatten() * (count / (count - 1.0)), momentum)
        scale, offset = (None if value is None else value.view(variance.shape) for value in (weight, bias))
        y = centred * torch.rsqrt(variance + eps) * (1.0 if scale is None else scale)
        return (y if offset is None else y + offset).to(x.dtype)

    def _total(self, values: Tensor) -> Tensor:
        total: Tensor = _Total.apply(values, self._add_up)  # type: ignore[no-untyped-call]
        return total
