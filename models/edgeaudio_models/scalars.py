"""The figures of a running training as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeaudio_models.training_run import Progress, TrainingProgress


@contextmanager
def tensorboard_scalars(log_dir: Path) -> Iterator[Progress]:
    """Yield a progress callable that writes to ``log_dir``; steps of a killed run that are done again replace theirs.

    Scalars by step: "training/loss" (mean of the epoch so far), "training/learning_rate" and, once an epoch,
    "validation/score".
    """
    from torch.utils.tensorboard import SummaryWriter

    writers: list[Any] = []

    def write(now: TrainingProgress) -> None:
        if not writers:
            writers.append(SummaryWriter(str(log_dir), purge_step=now.step))
        writers[0].add_scalar("training/loss", now.loss, now.step)
        writers[0].add_scalar("training/learning_rate", now.learning_rate, now.step)
        if now.score is not None:
            writers[0].add_scalar("validation/score", now.score, now.step)
            writers[0].flush()

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()
