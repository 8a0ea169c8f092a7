"""``edgeaudio export --max-drop``: mixed precision judged by the decisions on validation clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import calibration_streams
from edgeaudio.diagnosing import clip_features
from edgeaudio.diagnosis_report import Listing, render_listing
from edgeaudio.exporting import ExportChoices, quantization_recipe
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from edgeaudio_export.diagnosis.precision_search import PrecisionSearch, Score, Trial
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.training_data import TrainingData

MAX_JUDGES = 1024
"""Validation clips that judge a choice, at most, spread over all of them."""


def choose_precision(
    checkpoint: Checkpoint, data: TrainingData, choices: ExportChoices, *, max_drop: float
) -> tuple[ExportChoices, PrecisionSearch]:
    """Raise the fewest layers until int8 loses at most ``max_drop`` points of accuracy on validation clips.

    Returns:
        The choices with the recipe that was found, and how it was found; every choice tried is a line on stderr.

    Raises:
        SpecError: The task has no accuracy on clips.
        ExportError: ``max_drop`` or the recipe do not fit.
    """
    from edgeaudio_export.diagnosis.precision_search import search_precision

    if checkpoint.task != "keyword":
        raise SpecError(f"task={checkpoint.task!r} has no accuracy on clips; export it without --max-drop")
    recipe, step_frames = quantization_recipe(checkpoint.recipe.calibration, choices), checkpoint.module.step_frames
    chosen = _judges(len(data.validation))
    streams = calibration_streams(
        checkpoint.features,
        data.train.waveforms,
        n_clips=choices.clips or checkpoint.recipe.calibration.clips,
        step_frames=step_frames,
    )
    say(f"searching for at most {max_drop:g} points below float on {len(chosen)} validation clips")
    with one_torch_thread(), progress_bar("calibrating") as progress:
        found = search_precision(
            checkpoint.module,
            streams,
            accuracy_of(data.validation.label_indices[chosen]),
            probes=clip_features(checkpoint.features, data.validation.waveforms[chosen], step_frames=step_frames),
            max_drop=max_drop,
            last_only=True,
            backend=choices.backend,
            recipe=recipe,
            progress=progress,
            tried=lambda trial: say(_line(trial)),
        )
    say("\n".join(way_lines(found)))
    return replace(choices, quantization=found.recipe), found


def accuracy_of(truth: npt.NDArray[np.int64]) -> Score:
    """The share of clips whose last logits ``[N, T_out, n_labels]`` are largest at the right label ``[N]``."""
    return lambda logits: float((logits[:, -1].argmax(axis=1) == truth).mean())


def way_lines(found: PrecisionSearch) -> Iterator[str]:
    """The table of the way and the verdict."""
    rows = tuple(
        (f"{trial.score:.2%}", f"{trial.drop:+.2f}", f"{trial.agreement:.2%}", f"{trial.bytes:,}", _raised(trial))
        for trial in found.way
    )
    yield from render_listing(
        Listing(
            title="", caption="", columns=("accuracy", "drop", "agreement", "bytes", "layers above 8 bits"), rows=rows
        )
    )
    verdict = "kept" if found.met else "cannot be kept, not even in float on these clips"
    yield f"float {found.reference:.2%}; the goal of {found.max_drop:g} points is {verdict}"


def _line(trial: Trial) -> str:
    return f"{trial.drop:+.2f} points, agreement {trial.agreement:.2%}: {_raised(trial)}"


def _raised(trial: Trial) -> str:
    return ", ".join(f"{rule.name} {rule.activations}" for rule in trial.raised) or "none"


def _judges(n_clips: int) -> npt.NDArray[np.intp]:
    return np.linspace(0, n_clips - 1, min(n_clips, MAX_JUDGES)).astype(np.intp)
