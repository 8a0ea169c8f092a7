"""The narrow place through which ``transformers`` is called: local directories only, in float32, quietly."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeaudio_export.errors import ExportError
from edgeaudio_export.quiet import quiet_torch

_MAY_BE_MISSING = ("masked_spec_embed",)
"""Weights that training alone uses."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a directory holds."""

    folder: Path
    """Where."""
    architecture: str
    """Class of transformers."""
    config: Any
    """Its configuration."""
    model: Any
    """The network, float32, in evaluation mode."""
    extractor: Any
    """Its feature extractor."""

    def tokenizer_facts(self) -> dict[str, Any]:
        """``tokenizer_config.json``, empty where there is none."""
        path = self.folder / "tokenizer_config.json"
        return read_json(path) if path.is_file() else {}


def load_parts(folder: Path, architecture: str) -> Parts:
    """Load network and feature extractor of a directory.

    Raises:
        ExportError: transformers is not installed, a file is missing or broken, or the weights are not all there.
    """
    transformers = _import_transformers()
    # Files first: transformers answers a missing one with advice about its hub.
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise ExportError(f"lacks {name}; copy all files of the model")
    try:
        with quiet_torch():
            extractor = transformers.AutoFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
            model, loading = getattr(transformers, architecture).from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, attn_implementation="eager",
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # a dozen types for files that are missing or do not fit
        raise ExportError(f"transformers cannot load it: {_first_line(error)}") from error
    missing = sorted(name for name in loading["missing_keys"] if not name.endswith(_MAY_BE_MISSING))
    if missing:
        raise ExportError(
            f"its weights lack {missing[:3]}{' and more' if len(missing) > 3 else ''}; {architecture} needs a model "
            "that was trained for its task, not a pretrained body"
        )
    return Parts(
        folder=folder, architecture=architecture, config=model.config, model=model.eval().requires_grad_(False),
        extractor=extractor,
    )  # fmt: skip


def _import_transformers() -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ExportError("transformers is not installed; run: pip install 'edgeaudio[huggingface]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; raises ExportError by its name for anything else."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"lacks {path.name}; copy all files of the model") from error
    except ValueError as error:
        raise ExportError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ExportError(f"{path.name} must hold a JSON object")
    return values


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
