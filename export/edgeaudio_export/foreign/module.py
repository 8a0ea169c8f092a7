"""A user's ``nn.Module`` by ``package.module:callable``, with the facts that it gives of itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.torch_program import step_of_program, trace_module
from edgeaudio_export.network import StreamingNetwork

FACTS = ("front_end", "labels", "task", "step_frames", "window_frames", "states")
"""What a callable may say beside its module. ``states`` maps the name of each state to its shape."""


@dataclass(frozen=True, kw_only=True)
class UserModule:
    """What the callable returned."""

    name: str
    """Of the callable, for people."""
    module: nn.Module
    """In evaluation mode."""
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Some of :data:`FACTS`."""

    @property
    def network(self) -> StreamingNetwork | None:
        """The module, if it follows the protocol of streaming networks."""
        return self.module if isinstance(self.module, StreamingNetwork) else None

    def step_model(self, *, n_features: int, n_labels: int, step_frames: int | None) -> StepModel:
        """One step, traced.

        Raises:
            ExportError: It cannot be traced, does not fit the front end and the labels, or leaves its step open.
        """
        network = self.network
        states = [torch.zeros(shape) for shape in dict(self.facts.get("states", {})).values()]
        try:
            program = trace_module(
                self.module,
                step_frames=self._step_frames(step_frames),
                n_features=n_features,
                states=states if network is None else network.initial_state(1),
                as_tuple=network is not None,
            )
            return step_of_program(program, n_features=n_features, n_labels=n_labels)
        except ExportError as error:
            raise ExportError(f"{self.name}: {error}") from error

    def _step_frames(self, wanted: int | None) -> int:
        own = getattr(self.module, "step_frames", None) or self.facts.get("step_frames")
        if own is not None and wanted not in (None, own):
            raise ExportError(f"step_frames={wanted} must be {own}, which the module says; leave it out")
        frames = own or wanted
        if type(frames) is not int or frames < 1:
            raise ExportError(
                f"step_frames={frames!r} must be an integer >= 1; say how many feature frames a call of "
                f"{type(self.module).__name__} takes by --step-frames"
            )
        return frames


def load_module(reference: str) -> UserModule:
    """Import ``package.module:callable`` and call it; the current directory is searched first.

    Args:
        reference: The callable takes nothing and returns a module, or ``(module, facts)``.

    Raises:
        ExportError: It cannot be imported or called, or returns something else; one line.
    """
    path, _, attribute = reference.partition(":")
    try:
        with _current_directory_first():
            target: Any = importlib.import_module(path)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:  # whatever the user's module does on import
        raise ExportError(f"model={reference!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(target) or isinstance(target, nn.Module):
        raise ExportError(
            f"model={reference!r} is a {type(target).__name__}, must be a function or class that returns a torch module"
        )
    try:
        result = target()
    except Exception as error:
        raise ExportError(f"model={reference!r} cannot be called: {type(error).__name__}: {error}") from error
    return _checked(reference, result)


def _checked(reference: str, result: Any) -> UserModule:
    module, facts = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"model={reference!r} returned {type(module).__name__}, must return a torch module or (module, facts)"
        )
    if not isinstance(facts, Mapping):
        raise ExportError(f"model={reference!r} returned facts of type {type(facts).__name__}, must be a dict")
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise ExportError(f"model={reference!r} returned unknown facts {unknown}; known are {list(FACTS)}")
    return UserModule(name=reference.partition(":")[2], module=module.eval(), facts=facts)


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """As ``python -m`` does it; whatever the module imports later from there, it has imported by then."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
