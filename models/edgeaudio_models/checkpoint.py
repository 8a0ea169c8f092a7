"""Checkpoints: a directory with ``checkpoint.json``, ``weights.safetensors`` and ``recipe.toml``, written whole.

A network that was trained here has its ``history.json`` beside them; older checkpoints have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from edgeaudio_models.architectures import build_module
from edgeaudio_models.history import History, format_history, parse_history
from edgeaudio_models.recipe import Recipe, parse_recipe
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.zoo_entries import checkpoint_folder
from edgeaudio_runtime.errors import EdgeAudioError, SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.staging import recover, staged_directory

SCHEMA_VERSION = 1
DESCRIPTION, WEIGHTS, RECIPE = "checkpoint.json", "weights.safetensors", "recipe.toml"
HISTORY = "history.json"
_FIELDS = frozenset(
    {
        "schema_version",
        "name",
        "task",
        "architecture",
        "config",
        "labels",
        "features",
        "features_hash",
        "window_frames",
        "metrics",
        "provenance",
    }
)


class CheckpointError(EdgeAudioError):
    """A checkpoint is missing, incomplete, altered or newer than this version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A trained network and everything needed to use, judge or repeat it."""

    architecture: str
    """Name in the registry of architectures."""
    config: Mapping[str, Any]
    """Its configuration as plain values."""
    module: StreamingModule
    """The network with its weights, in evaluation mode."""
    labels: tuple[str, ...]
    """Labels in the order of the outputs."""
    features: FeatureSpec
    """What the network hears."""
    recipe: Recipe
    """How it was trained."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Figures by split, JSON-ready."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Data sources with their licences, and what else the caller of the training said of them."""
    history: History = ()
    """One row an epoch of the training; empty if nobody kept it."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.recipe.name

    @property
    def task(self) -> str:
        """Either "keyword" or "ctc"."""
        return self.recipe.task

    @property
    def window_frames(self) -> int | None:
        """Feature frames averaged before the classifier; None for CTC."""
        window = self.config.get("window_frames", getattr(self.module, "window_frames", None))
        return None if window is None else int(window)


def save_checkpoint(checkpoint: Checkpoint, path: str | Path, *, force: bool = False) -> None:
    """Write a checkpoint directory under a temporary name and rename it.

    Raises:
        OutputError: ``path`` exists and ``force`` is false.
    """
    description = {
        "schema_version": SCHEMA_VERSION,
        "name": checkpoint.name,
        "task": checkpoint.task,
        "architecture": checkpoint.architecture,
        "config": dict(checkpoint.config),
        "labels": list(checkpoint.labels),
        "features": checkpoint.features.to_dict(),
        "features_hash": checkpoint.features.hash,
        "window_frames": checkpoint.window_frames,
        "metrics": dict(checkpoint.metrics),
        "provenance": dict(checkpoint.provenance),
    }
    weights = {name: tensor.detach().contiguous() for name, tensor in checkpoint.module.state_dict().items()}
    with staged_directory(Path(path), force=force) as staged:
        # Written here, not by save_file: that one makes the file readable by its owner alone.
        (staged / WEIGHTS).write_bytes(save(weights))
        (staged / RECIPE).write_text(format_recipe(checkpoint.recipe), "utf-8")
        (staged / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
        if checkpoint.history:
            (staged / HISTORY).write_text(format_history(checkpoint.history), "utf-8")


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint directory, or an entry of the zoo by its name.

    Raises:
        CheckpointError: A file is missing or unreadable, the schema is newer, the feature specification does not fit
            its hash, or the weights do not fit the architecture; one line with the path.
    """
    folder = checkpoint_folder(path)
    recover(folder)
    description = _description(folder)
    try:
        features = FeatureSpec.from_dict(description["features"])
        recipe = parse_recipe(_read(folder / RECIPE))
        module = build_module(description["architecture"], description["config"])
        history = parse_history(_read(folder / HISTORY)) if (folder / HISTORY).exists() else ()
    except SpecError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (TypeError, AttributeError) as error:
        reason = f"features or config is no table of values ({error}); fetch or train the checkpoint again"
        raise CheckpointError(f"{folder / DESCRIPTION}: {reason}") from error
    if features.hash != description["features_hash"]:
        stated = f"features_hash={description['features_hash']!r} is not the hash of features, {features.hash!r}"
        raise CheckpointError(f"{folder}: {stated}; the checkpoint was altered, train or fetch it again")
    _load_weights(module, folder / WEIGHTS)
    return Checkpoint(
        architecture=description["architecture"],
        config=description["config"],
        module=module.eval(),
        labels=tuple(description["labels"]),
        features=features,
        recipe=recipe,
        metrics=description["metrics"],
        provenance=description["provenance"],
        history=history,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        rule = f"a checkpoint has {[DESCRIPTION, WEIGHTS, RECIPE]}"
        raise CheckpointError(f"{path} is missing or unreadable; {rule}") from error


def _description(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read(folder / DESCRIPTION))
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error}); fetch or train the checkpoint again"
        raise CheckpointError(f"{folder / DESCRIPTION}: {reason}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        rule = f"this version reads up to {SCHEMA_VERSION}; run: pip install --upgrade edgeaudio"
        raise CheckpointError(f"{folder}: schema_version={version!r}, {rule}")
    missing, unknown = sorted(_FIELDS - set(values)), sorted(set(values) - _FIELDS)
    if missing or unknown:
        raise CheckpointError(f"{folder / DESCRIPTION}: fields {missing} are missing, fields {unknown} are unknown")
    return dict(values)


def _load_weights(module: StreamingModule, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or unreadable; fetch or train the checkpoint again") from error
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    wrong = sorted(
        {
            name
            for name in {*expected, *weights}
            if name not in weights or name not in expected or weights[name].shape != expected[name]
        }
    )
    if wrong:
        raise CheckpointError(f"{path}: tensors {wrong[:3]} are missing, unknown or of another shape than config says")
    module.load_state_dict(weights)
