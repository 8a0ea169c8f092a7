"""Show a training on the terminal: a bar for the whole run, a line for each epoch, all on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edgeaudio_models.training import TrainingProgress


class TrainingDisplay:
    """Context that is itself the ``progress`` argument of :func:`edgeaudio_models.training.train`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task("training", total=None)

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, now: TrainingProgress) -> None:
        """Move the bar; print a line when an epoch is over."""
        description = f"epoch {now.epoch}/{now.epochs} loss {now.loss:.3f}"
        self.bar.update(self.task, completed=now.step, total=now.steps, description=description)
        if now.score is not None:
            figures = f"loss {now.loss:.4f}  validation {now.score:.4f}  best {now.best:.4f}"
            self.console.print(f"epoch {now.epoch}/{now.epochs}  {figures}  {now.seconds:.0f} s")
