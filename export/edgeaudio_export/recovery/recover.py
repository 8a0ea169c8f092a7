"""The recovery steps of a recipe that rewrite the float network, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantization_recipe import RECOVERY_STEPS, QuantizationRecipe
from edgeaudio_export.recovery.bias_correction import correct_biases
from edgeaudio_export.recovery.equalization import equalize
from edgeaudio_export.recovery.qat import Batch, Loss, TrainingSpec, train_quantized
from edgeaudio_export.recovery.rounding import RoundingSpec, round_weights
from edgeaudio_export.recovery.simulation import clip_batches
from edgeaudio_export.step_graph import Features, StepGraph

StepProgress = Callable[[str, int, int], None]
"""Called with (name of the recovery step, done, total)."""


class Facts(Protocol):
    """What every recovery step says of itself."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryFacts:
    """What a manifest says about recovery."""

    steps: tuple[tuple[str, Facts], ...]
    """Name and facts of each step, in the order they ran."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"steps": [{"step": name, **facts.to_dict()} for name, facts in self.steps]}


def recover(
    step: StepGraph,
    streams: Sequence[Features],
    recipe: QuantizationRecipe,
    *,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    rounding: RoundingSpec | None = None,
    training: TrainingSpec | None = None,
    progress: StepProgress | None = None,
) -> tuple[StepGraph, RecoveryFacts]:
    """Run ``recipe.recovery`` on a float step graph; quantize what comes back, by either path.

    All steps but "ranges", which changes no weight and has its turn when the result has been calibrated.

    Args:
        step: Float step graph; it is left as it was. The float reference of a bundle is to be made from this one.
        streams: Features ``[T, n_features]`` that all steps measure on, each from reset.
        recipe: The steps, and how the network will be quantized after them.
        batches: Clips and targets for "qat"; None distills on ``streams``.
        loss: For "qat"; None is distillation.
        rounding: For "adaround"; None means the defaults.
        training: For "qat"; None means the defaults.
        progress: Called while a step runs.

    Raises:
        ExportError: Steps in an order in which a later one undoes an earlier, or a stream that does not fit.
    """
    _check_order(recipe.recovery)
    reference, facts = step, []
    for name in recipe.rewrites:
        report = partial(progress, name) if progress is not None else None
        found: Facts
        if name == "equalize":
            step, found = equalize(step, streams, recipe=recipe, progress=report)
            reference = step
        elif name == "adaround":
            step, found = round_weights(step, streams, spec=rounding, recipe=recipe, progress=report)
        elif name == "bias_correction":
            step, found = correct_biases(step, streams, reference=reference, recipe=recipe, progress=report)
        else:
            own = batches if batches is not None else _unlabelled(step, streams, recipe)
            step, found = train_quantized(step, own, streams, loss, spec=training, recipe=recipe, progress=report)
        facts.append((name, found))
    return step, RecoveryFacts(steps=tuple(facts))


def _check_order(names: Sequence[str]) -> None:
    """Equalization would take weights off their grid, and training has moved biases by itself."""
    wanted = [name for name in RECOVERY_STEPS if name in names]
    if list(names) != wanted:
        raise ExportError(
            f"recovery={list(names)} must be in the order {wanted}, each once; otherwise a step undoes an earlier one"
        )


def _unlabelled(step: StepGraph, streams: Sequence[Features], recipe: QuantizationRecipe) -> list[Batch]:
    return [(features, None) for features in clip_batches(step, streams, recipe.calibration.batch)]
