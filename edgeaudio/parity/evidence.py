"""What failed stages of the ladder say of the parts of the pipeline: which part each speaks of, and what it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("front end", "weights", "activations", "runtime", "streaming", "labels", "threshold")
"""What may be to blame, in the order in which it is swapped in."""

_SPEAKS_OF = {
    "feature specification": "front end",
    "labels": "labels",
    "detector settings": "threshold",
    "promises": "runtime",
    "frame count": "front end",
    "front end": "front end",
    "native front end": "front end",
    "native feature codes": "front end",
    "training front end": "front end",
    "float streaming": "streaming",
    "float export": "weights",
    "stored weights": "weights",
    "layers": "activations",
    "states": "streaming",
    "lowering": "activations",
    "quantization": "activations",
    "engine": "runtime",
    "streaming": "streaming",
    "reset": "streaming",
    "events": "threshold",
    "decisions": "threshold",
    "tflite-micro": "runtime",
    "golden features": "front end",
    "golden codes": "activations",
    "golden logits": "runtime",
    "golden events": "threshold",
    "golden data": "runtime",
}


def part_of_stage(name: str) -> str:
    """The part that a stage speaks of: "engine litert" of the runtime; one that is not known is the runtime's too."""
    return _SPEAKS_OF.get(name) or _SPEAKS_OF.get(name.partition(",")[0]) or _SPEAKS_OF.get(name.split()[0], "runtime")


def evidence(stages: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Failed stages by the part they speak of, each with what it names: ``{"weights": ("stored weights: conv1d_6",)}``.

    Args:
        stages: In JSON form, in the order of the ladder.
    """
    found: dict[str, tuple[str, ...]] = {}
    for stage in stages:
        if not stage["passed"]:
            part = part_of_stage(stage["name"])
            found[part] = (*found.get(part, ()), sentence(stage))
    return found


def sentence(stage: Mapping[str, Any]) -> str:
    """A failed stage and what it names: ``"stored weights: conv1d_6"``."""
    culprits = ", ".join(stage.get("culprits", ()))
    return f"{stage['name']}: {culprits}" if culprits else str(stage["name"])


def first_failure(stages: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The first stage that failed, as :func:`sentence`, and its part.

    The ladder climbs from PCM to events, so what comes after may fail for no reason of its own.
    """
    failed = next((stage for stage in stages if not stage["passed"]), None)
    return None if failed is None else (sentence(failed), part_of_stage(failed["name"]))
