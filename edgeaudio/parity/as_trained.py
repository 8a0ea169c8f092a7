"""Whether a bundle still says what its checkpoint was trained with: features, labels, detector settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgeaudio.parity.stages import Stage
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.detector_config import DetectorConfig

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint

NOT_TRAINED = ("tuned",)
"""Settings that only say how others were found."""


def compare_with_training(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[Stage]:
    """Stages that hold a bundle's words about itself against the checkpoint's.

    A front end that is a little other than the trained one costs accuracy that no comparison of the bundle with itself
    can show. A detector that was tuned is not held to the recipe.
    """
    yield compare_settings("feature specification", checkpoint.features.to_dict(), bundle.features.to_dict())
    labels = (dict(enumerate(entry.labels)) for entry in (checkpoint, bundle))
    yield compare_settings("labels", *labels)
    if bundle.task == "keyword" and bundle.detector_config.tuned is None:
        recipe = DetectorConfig.from_dict({"schema_version": 1, **checkpoint.recipe.detector})
        yield compare_settings("detector settings", recipe.to_dict(), bundle.detector_config.to_dict())


def compare_settings(
    name: str,
    trained: Mapping[Any, Any],
    given: Mapping[Any, Any],
    *,
    ends: tuple[str, str] = ("checkpoint", "bundle"),
    rule: str = "as trained",
) -> Stage:
    """A stage that passes if both say the same under every key; its rule names the keys that differ."""
    keys = [key for key in {**trained, **given} if key not in NOT_TRAINED]
    different = [str(key) for key in keys if trained.get(key) != given.get(key)]
    said = f"; different: {', '.join(different)}" if different else ""
    return Stage(
        name=name,
        reference=ends[0],
        candidate=ends[1],
        compared=len(keys),
        mismatches=len(different),
        tolerance=f"{rule}{said}",
        passed=not different,
        culprits=tuple(different),
    )
