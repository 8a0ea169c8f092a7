"""What the commands that take a model of elsewhere have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import Command, PathType
from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from edgeaudio.onnx_exporting import ForeignModel
    from edgeaudio_export.foreign.module import UserModule
    from edgeaudio_export.quantization_recipe import QuantizationRecipe


FOREIGN_FORMS = "a file that ends in .onnx, .pt2 or .tflite, package.module:callable, or a Hugging Face directory"


def foreign_options(command: Command) -> Command:
    """``--front-end``, ``--labels``, ``--task`` and ``--step-frames``: what a foreign model does not say of itself."""
    decorators = (
        click.option(
            "--front-end", help="For a foreign model: name of a preset, or a JSON file with a feature specification."
        ),
        click.option(
            "--labels", type=PathType, help="For a foreign model: text file, one label a line in the order of logits."
        ),
        click.option("--task", type=click.Choice(["keyword", "ctc"]), help="For a foreign model; default: keyword."),
        click.option(
            "--step-frames", type=click.IntRange(min=1), help="For a foreign model that leaves its frames open."
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def refuse_for_checkpoint(model: Path, foreign: Mapping[str, object]) -> None:
    """Raise SpecError if an option of ``foreign``, by parameter name, was given with a checkpoint."""
    given = [f"--{name.replace('_', '-')}" for name, value in foreign.items() if value is not None]
    if given:
        raise SpecError(f"{model}: {given} are for a foreign model ({FOREIGN_FORMS}); leave them out")


def read_foreign(
    model: Path,
    *,
    sources: Mapping[str, Path | None],
    front_end: str | None,
    labels: Path | None,
    task: str | None,
    step_frames: int | None,
    window_frames: int | None = None,
    hop_frames: int | None = None,
    licence: str | None = None,
    seconds: float | None = None,
    as_is: bool = False,
) -> ForeignModel:
    """A foreign model with what was said of it; ``sources`` are the options that calibrate, one of which must be given,
    or with ``as_is``, none.

    What the callable of a module says stands where no option says otherwise.

    Raises:
        SpecError: Something is not said, or cannot be read.
        ExportError: A module cannot be imported.
    """
    from edgeaudio.loading.kinds import kind_of
    from edgeaudio.onnx_exporting import ForeignModel, check_labels, read_front_end, read_labels

    kind = kind_of(model)
    if seconds is not None and kind != "huggingface":
        raise SpecError(f"{model}: --seconds is for a Hugging Face directory; say --step-frames")
    if kind == "huggingface":
        given = {"front_end": front_end, "labels": labels, "task": task, "step_frames": step_frames}
        _check_huggingface(model, sources, given | {"window_frames": window_frames})
        return _read_huggingface(model, seconds=seconds, hop_frames=hop_frames, licence=licence)
    module = _load_module(str(model)) if kind == "module" else None
    facts = dict(module.facts) if module is not None else {}
    front_end = front_end or facts.get("front_end")
    named = labels or facts.get("labels")
    if front_end is None or named is None or sum(path is not None for path in sources.values()) != (not as_is):
        one_of = "one of " * (len(sources) > 1) + " and ".join(sources)
        article = {"onnx": "an ONNX model", "pt2": "a torch program"}.get(kind, "a module")
        raise SpecError(f"{model}: {article} needs --front-end, --labels, and {one_of}")
    return ForeignModel(
        path=model,
        features=read_front_end(front_end),
        labels=read_labels(named) if isinstance(named, Path) else check_labels(str(model), named),
        task=task or facts.get("task") or "keyword",
        step_frames=step_frames,
        window_frames=window_frames or facts.get("window_frames"),
        hop_frames=hop_frames,
        licence=licence,
        module=module,
    )


def _load_module(reference: str) -> UserModule:
    from edgeaudio_export.foreign.module import load_module

    return load_module(reference)


def _check_huggingface(model: Path, sources: Mapping[str, Path | None], given: Mapping[str, object]) -> None:
    refused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if refused:
        raise SpecError(f"{model}: a Hugging Face directory says {refused} itself; leave them out")
    if sources.get("--data") is None or any(path for name, path in sources.items() if name != "--data"):
        raise SpecError(f"{model}: a Hugging Face directory needs --data, recordings that calibrate its boundary")


def _read_huggingface(
    model: Path, *, seconds: float | None, hop_frames: int | None, licence: str | None
) -> ForeignModel:
    from edgeaudio.onnx_exporting import ForeignModel, check_labels
    from edgeaudio_export.foreign.huggingface import read_huggingface

    found = read_huggingface(model, **({} if seconds is None else {"seconds": seconds}))
    return ForeignModel(
        path=model,
        features=found.features,
        labels=check_labels(str(model), found.labels),
        task=found.task,
        hop_frames=hop_frames,
        licence=licence,
        huggingface=found,
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
