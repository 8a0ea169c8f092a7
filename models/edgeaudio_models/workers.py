"""Processes that train one network together: each takes its share of every batch, one of them writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """This process among those that train together; the default is one process alone, for which nothing is sent."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Processes in all."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def leads(self) -> bool:
        """Whether this is the one process that judges, writes and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of ``n`` examples are this process's: shares differ by at most one, in the order of the ranks.

        Raises:
            SpecError: There are fewer examples than processes.
        """
        if n < self.size:
            raise SpecError(f"batch of {n} examples must be >= {self.size} processes; start fewer processes")
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add_up(self, values: Tensor) -> Tensor:
        """Sum over all processes, the same bits in each; alone, ``values`` itself."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def tell(self, value: Any) -> Any:
        """What the leader holds, in every process."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0, device=self.device)
        return told[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            self.add_up(torch.zeros(1, device=self.device))

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader do the body alone and the others after it, so that they find what it left in a cache."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


ALONE = Workers()


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device ``name`` means: "auto" takes a GPU where there is one, "cuda" the GPU of the process's number.

    Raises:
        SpecError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"device={name!r} is not available here; take cpu, or auto for what there is") from error
    return device


@contextmanager
def join_workers(device: str = "auto") -> Iterator[Workers]:
    """Join the processes that ``torchrun`` started; without it, this process alone.

    Args:
        device: As :func:`choose_device` takes it. GPUs talk by nccl, processors by gloo.

    Raises:
        SpecError: There is no such device, or the processes do not find each other.
    """
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    chosen = choose_device(device, local_rank=local)
    if size == 1:
        yield Workers(device=chosen)
        return
    try:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise SpecError(f"WORLD_SIZE={size} processes do not meet ({error}); start them with torchrun") from error
    try:
        yield Workers(rank=rank, size=size, device=chosen)
    finally:
        distributed.destroy_process_group()


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
