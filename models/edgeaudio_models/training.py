"""Train a recipe on plain arrays: fixed seeds, averaged weights, best epoch by validation, resume after a kill."""

from __future__ import annotations

from pathlib import Path

from edgeaudio_models.checkpoint import Checkpoint, save_checkpoint
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.training_run import Progress, TrainingProgress, TrainingRun
from edgeaudio_models.training_state import load_state, save_state
from edgeaudio_models.workers import ALONE, Workers
from edgeaudio_runtime.staging import refuse_overwrite

__all__ = ["CHECKPOINT_FOLDER", "STATE_FILE", "Progress", "TrainingProgress", "train"]

STATE_FILE = "training_state.pt"
CHECKPOINT_FOLDER = "checkpoint"


def train(
    recipe: Recipe,
    data: TrainingData,
    output_dir: str | Path,
    *,
    resume: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    start: StreamingModule | None = None,
    workers: Workers = ALONE,
) -> Checkpoint:
    """Train ``recipe`` on ``data`` and leave ``output_dir/checkpoint``.

    Every epoch ends with an atomic write of ``output_dir/training_state.pt``. A run that is killed and started again
    goes on after its last whole epoch and ends with the same weights, bit for bit, on the same machine and number of
    threads and processes.

    Args:
        recipe: What to train.
        data: Clips to learn from and clips to choose the best epoch by.
        output_dir: Made if missing.
        resume: Go on from the state of an earlier run of the same recipe on the same data.
        force: Replace an existing checkpoint.
        progress: Called after every step, and after the last step of an epoch with the validation figure.
        start: Network of the same shape whose weights the training begins with; None draws them.
        workers: This process among those that train together, and its device; the leader alone writes.

    Returns:
        The checkpoint with the averaged weights of the best epoch, or of the last ones, as written.

    Raises:
        SpecError: The data do not fit the recipe.
        TrainingError: A state of another run stands in the way, or the loss is no longer a number.
        OutputError: ``output_dir`` holds a finished checkpoint already and ``force`` is false, or cannot be written.
    """
    folder = Path(output_dir)
    refuse_overwrite(folder / CHECKPOINT_FOLDER, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(recipe, data, start=start, workers=workers)
    saved = load_state(folder / STATE_FILE, run=run.identity) if resume else None
    if saved is not None:
        run.restore(saved)
    workers.wait()  # nobody writes before all have read
    while not run.finished:
        run.train_epoch(progress)
        if workers.leads:
            save_state(folder / STATE_FILE, run.state())
    checkpoint = run.checkpoint()
    if workers.leads:
        save_checkpoint(checkpoint, folder / CHECKPOINT_FOLDER, force=force)
    return checkpoint
