"""What the commands that take an ONNX model have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import Command, PathType
from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from edgeaudio.onnx_exporting import ForeignModel
    from edgeaudio_export.quantization_recipe import QuantizationRecipe


def foreign_options(command: Command) -> Command:
    """``--front-end``, ``--labels``, ``--task`` and ``--step-frames``: what an ONNX file does not say of itself."""
    decorators = (
        click.option(
            "--front-end", help="For an ONNX model: name of a preset, or a JSON file with a feature specification."
        ),
        click.option(
            "--labels", type=PathType, help="For an ONNX model: text file, one label a line in the order of logits."
        ),
        click.option("--task", type=click.Choice(["keyword", "ctc"]), help="For an ONNX model; default: keyword."),
        click.option(
            "--step-frames", type=click.IntRange(min=1), help="For an ONNX model that leaves its frames open."
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def refuse_for_checkpoint(model: Path, foreign: Mapping[str, object]) -> None:
    """Raise SpecError if an option of ``foreign``, by parameter name, was given with a checkpoint."""
    given = [f"--{name.replace('_', '-')}" for name, value in foreign.items() if value is not None]
    if given:
        raise SpecError(f"{model}: {given} are for an ONNX model, whose file ends in .onnx; leave them out")


def read_foreign(
    model: Path,
    *,
    sources: Mapping[str, Path | None],
    front_end: str | None,
    labels: Path | None,
    task: str | None,
    step_frames: int | None,
    window_frames: int | None = None,
) -> ForeignModel:
    """An ONNX model with what was said of it; ``sources`` are the options that calibrate, one of which must be given.

    Raises:
        SpecError: Something is not said, or cannot be read.
    """
    from edgeaudio.onnx_exporting import ForeignModel, read_front_end, read_labels

    if front_end is None or labels is None or sum(path is not None for path in sources.values()) != 1:
        one_of = "one of " * (len(sources) > 1) + " and ".join(sources)
        raise SpecError(f"{model}: an ONNX model needs --front-end, --labels, and {one_of}")
    return ForeignModel(
        path=model,
        features=read_front_end(front_end),
        labels=read_labels(labels),
        task=task or "keyword",
        step_frames=step_frames,
        window_frames=window_frames,
    )


def with_backend(choices: dict[str, Any], quantization: QuantizationRecipe | None, *, default: str) -> dict[str, Any]:
    """The choices with the backend that their method has, where none is chosen."""
    from edgeaudio_export.quantization_recipe import QuantizationRecipe, decode

    recipe = quantization or QuantizationRecipe()
    mode = decode(choices.get("method") or recipe.method).mode
    if mode == "dynamic":
        default = "onnxruntime"
    elif mode != "static":
        default = "pt2e"
    if mode == "dynamic" and choices.get("backend") == "pt2e":
        raise SpecError("backend='pt2e' has no dynamic method; leave it out, ONNX Runtime computes dynamic_w8")
    return {**choices, "backend": choices.get("backend") or default}
