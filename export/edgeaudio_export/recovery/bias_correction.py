"""Bias correction: what int8 does to the mean of a layer's output goes back into its bias.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019
(arXiv:1906.04721), section 4.2. Means are measured on calibration streams instead of being derived from batch norms:

- "analytic": the error of the weights alone, ``E[W x] - E[Wq x] = (W - Wq) E[x]`` with float inputs;
- "empirical" (their appendix D): layer by layer from the first to the last, the mean that is missing in the int8
  simulation in which all layers before are corrected already. It also catches rounding and clipping of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantization_plan import QuantizationPlan
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.layers import Layer, layers_of, spread_inputs, with_weights
from edgeaudio_export.recovery.observation import Observation, observe
from edgeaudio_export.recovery.simulation import Simulation, check_same_layers, plan_for, with_nearest_weights
from edgeaudio_export.step_graph import Features, Progress, StepGraph

Correction = Literal["empirical", "analytic"]
"""Where the missing mean comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectedLayer:
    """What was done to one layer."""

    name: str
    """Its node in the step graph."""
    shift_before: float
    """Error of the mean output in the int8 simulation, relative to the deviation of the float output; root mean square
    over the channels."""
    shift_after: float
    """The same with all biases corrected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasFacts:
    """What a manifest says about bias correction."""

    method: Correction
    """"empirical" or "analytic"."""
    clips: int
    """Streams that means were measured on."""
    layers: tuple[CorrectedLayer, ...]
    """Every layer, in order of execution."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def correct_biases(
    step: StepGraph,
    streams: Sequence[Features],
    *,
    reference: StepGraph | None = None,
    method: Correction = "empirical",
    recipe: QuantizationRecipe | None = None,
    progress: Progress | None = None,
) -> tuple[StepGraph, BiasFacts]:
    """Change biases so that the int8 network's layers have the means of the float network's.

    Args:
        step: Step graph whose weights will be quantized; it is left as it was.
        streams: Features ``[T, n_features]`` that means are measured on, each from reset.
        reference: The float graph whose means count; None is ``step`` itself. Give the graph from before its weights
            were rounded or trained.
        method: "empirical" or "analytic".
        recipe: How the network will be quantized afterwards; None means the defaults.
        progress: Called with (layers done, layers in all).

    Returns:
        A graph with other biases: as a float network it is no longer what it was, as an int8 network it is closer.

    Raises:
        ExportError: Unknown method, a stream that does not fit, or a reference that is another network.
    """
    if method not in get_args(Correction):
        raise ExportError(f"method={method!r} must be one of {list(get_args(Correction))}")
    reference = reference or step
    check_same_layers(step, reference)
    plan = plan_for(step, streams, recipe or QuantizationRecipe())
    wanted = observe(reference, streams, batch=plan.recipe.calibration.batch)
    before = _simulated(step, plan, streams)
    correct = _empirical if method == "empirical" else _analytic
    corrected = correct(step, reference, wanted, plan, streams, progress)
    after = _simulated(corrected, plan, streams)
    layers = tuple(
        CorrectedLayer(name=name, shift_before=_shift(name, before, wanted), shift_after=_shift(name, after, wanted))
        for name in layers_of(step)
    )
    return corrected, BiasFacts(method=method, clips=len(streams), layers=layers)


def missing_mean(reference: Layer, weight: Tensor, mean: Tensor) -> Tensor:
    """``(W - Wq) E[x]`` of every output channel, ``[O]``, for the weights ``Wq`` and input means ``[I]``."""
    missing = (reference.weight - weight) * spread_inputs(mean, reference)
    return missing.reshape(len(missing), -1).sum(dim=1)


def _analytic(
    step: StepGraph,
    reference: StepGraph,
    wanted: Observation,
    plan: QuantizationPlan,
    streams: Sequence[Features],
    progress: Progress | None,
) -> StepGraph:
    old, rounded = layers_of(reference), layers_of(with_nearest_weights(step, plan))
    changes = {
        name: (layer.weight, layer.bias + missing_mean(old[name], rounded[name].weight, wanted.mean[name]))
        for name, layer in layers_of(step).items()
    }
    if progress is not None:
        progress(len(changes), len(changes))
    return with_weights(step, changes)


def _empirical(
    step: StepGraph,
    reference: StepGraph,
    wanted: Observation,
    plan: QuantizationPlan,
    streams: Sequence[Features],
    progress: Progress | None,
) -> StepGraph:
    layers = layers_of(step)
    for done, (name, layer) in enumerate(layers.items(), start=1):
        seen = _simulated(step, plan, streams)
        bias = layer.bias + wanted.output_mean[name] - seen.output_mean[name]
        step = with_weights(step, {name: (layer.weight, bias)})
        if progress is not None:
            progress(done, len(layers))
    return step


def _simulated(step: StepGraph, plan: QuantizationPlan, streams: Sequence[Features]) -> Observation:
    """What the layers say with weights and activations rounded to codes."""
    rounded = with_nearest_weights(step, plan)
    simulation = Simulation(rounded, plan.params)
    return observe(rounded, streams, batch=plan.recipe.calibration.batch, simulation=simulation)


def _shift(name: str, seen: Observation, wanted: Observation) -> float:
    deviation = wanted.variance[name].sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    used = wanted.variance[name] > 0
    relative = (seen.output_mean[name] - wanted.output_mean[name])[used] / deviation[used]
    return float(relative.square().mean().sqrt()) if bool(used.any()) else 0.0
