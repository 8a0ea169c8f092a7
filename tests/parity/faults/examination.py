"""What the ladder finds in a bundle, stage by stage until the first that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.exporting import torch_side
from edgeaudio.parity import inside, ladder
from edgeaudio.parity.as_trained import compare_with_training
from edgeaudio.parity.ladder import TorchSide, one_torch_thread
from edgeaudio.parity.stages import Stage
from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.front_end import front_end_in_use
from edgeaudio_runtime.presets import preset
from tests.parity.faults.planting import Fault

IN_C = {"native front end", "engine native", "streaming native"}
"""Stages that are only there where the C core was built."""
Int16 = np.ndarray[Any, np.dtype[np.int16]]


@dataclass(frozen=True, kw_only=True)
class Original:
    """What the bundles are made from."""

    checkpoint: Checkpoint
    """The trained network."""
    side: TorchSide
    """Its float side, the exported step kept."""


def original(checkpoint: Checkpoint) -> Original:
    """Export the step of a checkpoint once, for all bundles."""
    side = torch_side(checkpoint)
    assert side.step is not None
    with one_torch_thread():
        step = side.step()
    return Original(checkpoint=checkpoint, side=replace(side, step=lambda: step))


def applies(fault: Fault) -> bool:
    """Whether the fault can be planted here: some are in the C core, which may not have been built."""
    return fault.caught not in IN_C or front_end_in_use(preset("log_mel")) == "native"


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Every rung, on a few seconds of audio."""
    for module, name, value in (
        (ladder, "MIN_CODES", 600), (ladder, "FRONT_END_SECONDS", 2), (ladder, "TORCH_STEPS", 10),
        (inside, "STREAMS", 1), (inside, "STEPS", 40),
    ):  # fmt: skip
        patch.setattr(module, name, value)


def stages(folder: Path, made_from: Original, *, clips: list[Int16] | None = None, seed: int = 0) -> Iterator[Stage]:
    """All stages of ``edgeaudio parity --checkpoint`` on the bundle in a folder, as they come."""
    bundle = open_bundle(folder)
    yield from compare_with_training(bundle, made_from.checkpoint)
    with one_torch_thread():
        yield from ladder._Ladder(bundle, clips or [], seed=seed).stages(made_from.side)


def first_failed(folder: Path, made_from: Original) -> Stage | None:
    """The first stage that fails; the rest is not run."""
    return next((stage for stage in stages(folder, made_from) if not stage.passed), None)
