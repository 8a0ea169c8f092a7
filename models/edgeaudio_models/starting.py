"""Begin a training with the weights of a network that has learned something like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from edgeaudio_models.checkpoint import Checkpoint, load_checkpoint
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset


def begin_with(module: StreamingModule, recipe: Recipe) -> Checkpoint | None:
    """Give ``module`` the weights of ``recipe.model.start`` wherever their shapes fit; the others stay as drawn.

    Other labels fit everywhere but at the outputs, which are drawn and learned anew. Kernels over time that reach
    farther back begin with zeros there, so the network computes what the shorter ones did.

    Returns:
        What was begun with; None if the recipe names nothing.

    Raises:
        CheckpointError: No such checkpoint or entry of the zoo, or it cannot be read.
        SpecError: It is of another architecture or hears other features, or differs in more than its outputs.
    """
    if not recipe.model.start:
        return None
    start = load_checkpoint(recipe.model.start)
    known, wanted = start.module.state_dict(), module.state_dict()
    known = {name: _reaching_back(value, wanted.get(name, value)) for name, value in known.items()}
    strangers = {name for name in wanted if name not in known or known[name].shape != wanted[name].shape}
    others = strangers - {name for name in wanted if len(wanted[name].shape) and len(wanted[name]) == module.n_labels}
    if others or start.features.hash != preset(recipe.features.preset).hash or not set(known) <= set(wanted):
        rule = "it must have the architecture, parameters and features of the recipe, labels apart"
        raise SpecError(f"model.start={recipe.model.start!r} does not fit, {rule}; train from drawn weights without it")
    module.load_state_dict({**wanted, **{name: known[name] for name in wanted if name not in strangers}})
    return start


def _reaching_back(weight: Tensor, wanted: Tensor) -> Tensor:
    """Weights ``[outputs, inputs, taps]`` with zeros before the first tap, as many as ``wanted`` has taps more."""
    if weight.ndim != 3 or wanted.ndim != 3:
        return weight
    return functional.pad(weight, (max(0, wanted.shape[2] - weight.shape[2]), 0))


def joined_lineage(provenance: Mapping[str, Any], start: Checkpoint | None) -> dict[str, Any]:
    """Provenance of a network that began with the weights of ``start``: what that one has heard, it has heard too."""
    if start is None:
        return dict(provenance)
    own = list(provenance.get("sources", []))
    earlier = [source for source in start.provenance.get("sources", []) if source not in own]
    return {**provenance, "sources": own + earlier, "started_from": start.recipe.name}
