"""Which kind of model a command was given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from edgeaudio_runtime.errors import SpecError

Kind = Literal["checkpoint", "onnx", "pt2", "tflite", "module", "huggingface"]

_SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".pt2": "pt2", ".tflite": "tflite"}
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def kind_of(model: Path) -> Kind:
    """What MODEL is, by its suffix, by the files of a directory, or by the form ``package.module:callable``.

    Whatever is none of the others counts as a checkpoint, whose loader says what is wrong with it.

    Raises:
        SpecError: ``config.json`` of a directory cannot be read.
    """
    if model.is_dir():
        return "huggingface" if _is_huggingface(model) else "checkpoint"
    if model.suffix in _SUFFIXES:
        return _SUFFIXES[model.suffix]
    return "module" if _REFERENCE.fullmatch(str(model)) and not model.exists() else "checkpoint"


def _is_huggingface(folder: Path) -> bool:
    """A ``config.json`` that names architectures or a model type; our checkpoints have none."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SpecError(f"{path}: not JSON: {error}") from error
    return isinstance(config, dict) and not {"architectures", "model_type"}.isdisjoint(config)
