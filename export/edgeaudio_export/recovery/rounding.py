"""AdaRound: every weight is rounded up or down as the layer's output wants it, not as the weight alone would have it.

M. Nagel, R. A. Amjad, M. van Baalen, C. Louizos, T. Blankevoort, "Up or Down? Adaptive Rounding for Post-Training
Quantization", ICML 2020 (arXiv:2004.10568): equations 21 to 25. Layers are taken in order of execution; each is shown
what the int8 network so far feeds it (activations rounded, weights before it on the grid already) and shall say what
the float layer says of the float input, including a relu that follows (their "asymmetric reconstruction").

What differs, and why:

- The error of each output channel is measured relative to what rounding to nearest leaves on the same data, so that one
  weight of the regularizer suits every layer and no channel counts more because its scale is larger.
- The mean of the error is left out: a bias takes it (:mod:`edgeaudio_export.recovery.bias_correction`).
- Channels for which nearest rounding is better after all keep it, so that no channel gets worse on the data.

The result holds whole codes: the largest weight of a channel stays what it is, and with it the channel's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.layers import Layer, layers_of, per_output, with_weights
from edgeaudio_export.recovery.simulation import Simulation, clip_batches, plan_for
from edgeaudio_export.recovery.soft_rounding import SoftRounding
from edgeaudio_export.step_graph import Features, Progress, StepGraph
from edgeaudio_runtime.quantization import QuantParams

BETA_START, BETA_END = 20.0, 2.0
"""The regularizer's exponent is annealed from the first, which leaves weights free, to the second."""
WARM_UP = 0.2
"""Share of the iterations without regularizer."""
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingSpec:
    """How rounding is optimized."""

    iterations: int = 1000
    """Steps of Adam for each layer, >= 1."""
    batch: int = 16
    """Clips in a step, >= 1."""
    learning_rate: float = 0.01
    """Of Adam, > 0."""
    regularization: float = 0.01
    """Weight of the term that drives every weight to one side, relative to the error of nearest rounding; > 0."""
    seed: int = 0
    """Of the order of the clips."""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch"):
            if getattr(self, name) < 1:
                raise ExportError(f"{name}={getattr(self, name)} must be >= 1")
        for name in ("learning_rate", "regularization"):
            if not getattr(self, name) > 0.0:
                raise ExportError(f"{name}={getattr(self, name)} must be > 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedLayer:
    """What was done to one layer."""

    name: str
    """Its node in the step graph."""
    weights: int
    """Weights it has."""
    moved: int
    """Weights that were not rounded to nearest."""
    error_nearest: float
    """Error of the output with weights rounded to nearest, relative to the power of the float output's deviation."""
    error_after: float
    """The same with the chosen rounding; never larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingFacts:
    """What a manifest says about rounding."""

    paper: str
    """Where the method is from."""
    iterations: int
    """Steps for each layer."""
    seed: int
    """Of the order of the clips."""
    clips: int
    """Streams that outputs were compared on."""
    layers: tuple[RoundedLayer, ...]
    """Every layer, in order of execution."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def round_weights(
    step: StepGraph,
    streams: Sequence[Features],
    *,
    spec: RoundingSpec | None = None,
    recipe: QuantizationRecipe | None = None,
    progress: Progress | None = None,
) -> tuple[StepGraph, RoundingFacts]:
    """Move every weight onto the int8 grid, up or down as the layer's output is closest to float.

    Args:
        step: Float step graph; it is left as it was.
        streams: Features ``[T, n_features]`` on which outputs are compared, each from reset.
        spec: Iterations, learning rate, seed; None means the defaults.
        recipe: How the network will be quantized afterwards; None means the defaults.
        progress: Called with (layers done, layers in all).

    Returns:
        A graph whose weights are whole multiples of their scales, and what was done. Deterministic on one thread.

    Raises:
        ExportError: A stream does not fit the network.
    """
    spec = spec or RoundingSpec()
    plan = plan_for(step, streams, recipe or QuantizationRecipe())
    layers = {name: layer for name, layer in layers_of(step).items() if name in plan.int8_weights}
    facts, so_far = [], step
    generator = torch.Generator().manual_seed(spec.seed)
    for done, (name, layer) in enumerate(layers.items(), start=1):
        float_inputs = layer_inputs(step, layer, streams, batch=spec.batch)
        inputs = layer_inputs(so_far, layer, streams, batch=spec.batch, params=plan.params)
        soft = SoftRounding(layer.weight, per_channel=plan.recipe.per_channel)
        weight, fact = round_layer(layer, soft, inputs, _outputs(layer, float_inputs), spec, generator)
        so_far = with_weights(so_far, {name: (weight, layer.bias)})
        facts.append(fact)
        if progress is not None:
            progress(done, len(layers))
    return so_far, RoundingFacts(
        paper="arXiv:2004.10568",
        iterations=spec.iterations,
        seed=spec.seed,
        clips=len(streams),
        layers=tuple(facts),
    )


def layer_inputs(
    step: StepGraph,
    layer: Layer,
    streams: Sequence[Features],
    *,
    batch: int,
    params: Mapping[str, QuantParams] | None = None,
) -> list[Tensor]:
    """What a layer reads, one tensor for each batch of streams; as int8 codes have it where ``params`` are given."""
    source, found = layer.node.args[0], []
    assert isinstance(source, Node)

    def visit(node: Node, computed: Tensor, rounded: Tensor) -> None:
        if node.name == source.name:
            found.append(rounded)

    simulation = Simulation(step, params)
    with torch.no_grad():
        for features in clip_batches(step, streams, batch):
            simulation.logits(features, visit)
    return found


def round_layer(
    layer: Layer,
    soft: SoftRounding,
    inputs: list[Tensor],
    targets: list[Tensor],
    spec: RoundingSpec,
    generator: torch.Generator,
) -> tuple[Tensor, RoundedLayer]:
    """Choose the rounding of one layer.

    Args:
        layer: The float layer.
        soft: Its weights, before optimization.
        inputs: What it will read, one tensor for each batch.
        targets: What it shall say to each of them, after a relu that follows.
        spec: How to optimize.
        generator: Order of the batches.

    Returns:
        Weights on the grid, and what was done.
    """
    with torch.no_grad():
        baseline = _errors(layer, soft.nearest(), inputs, targets)
    _optimize(soft, layer, inputs, targets, spec, generator, baseline)
    with torch.no_grad():
        chosen = soft.hard()
        better = _errors(layer, chosen, inputs, targets) < baseline
        weight = torch.where(per_output(better, chosen), chosen, soft.nearest())
        power = _variance(layer, targets).sum().clamp_min(TINY)
        error = _errors(layer, weight, inputs, targets)
    fact = RoundedLayer(
        name=layer.name,
        weights=weight.numel(),
        moved=int((weight != soft.nearest()).sum()),
        error_nearest=float(baseline.sum() / power),
        error_after=float(error.sum() / power),
    )
    return weight, fact


def _optimize(
    soft: SoftRounding,
    layer: Layer,
    inputs: list[Tensor],
    targets: list[Tensor],
    spec: RoundingSpec,
    generator: torch.Generator,
    baseline: Tensor,
) -> None:
    optimizer = torch.optim.Adam([soft.variable], lr=spec.learning_rate)
    weight = torch.where(baseline > 0, 1.0 / baseline.clamp_min(TINY), 0.0)
    for iteration in range(spec.iterations):
        pick = int(torch.randint(len(inputs), (), generator=generator))
        loss = (_error(layer, soft.soft(), inputs[pick], targets[pick]) * weight).sum()
        beta = _beta(iteration / spec.iterations)
        if beta is not None:
            loss = loss + spec.regularization * soft.regularizer(beta)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _beta(progress: float) -> float | None:
    """The exponent at a share of the iterations; None while warming up."""
    if progress < WARM_UP:
        return None
    relative = (progress - WARM_UP) / (1.0 - WARM_UP)
    return BETA_END + 0.5 * (BETA_START - BETA_END) * (1.0 + math.cos(relative * math.pi))


def _outputs(layer: Layer, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [_after_relu(layer, layer.run(x, layer.weight, layer.bias)) for x in inputs]


def _after_relu(layer: Layer, values: Tensor) -> Tensor:
    return torch.relu(values) if layer.relu else values


def _error(layer: Layer, weight: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """Variance of the error of each output channel, ``[O]``."""
    error = _after_relu(layer, layer.run(x, weight, layer.bias)) - target
    return error.var(dim=_others(layer), correction=0)


def _errors(layer: Layer, weight: Tensor, inputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """:func:`_error`, mean over all batches by their frames."""
    frames = torch.tensor([float(t.numel()) for t in targets])
    errors = torch.stack([_error(layer, weight, x, t) for x, t in zip(inputs, targets, strict=True)])
    result: Tensor = (errors * frames[:, None]).sum(dim=0) / frames.sum()
    return result


def _variance(layer: Layer, targets: list[Tensor]) -> Tensor:
    """Variance of each output channel, ``[O]``, mean over the batches."""
    return torch.stack([target.var(dim=_others(layer), correction=0) for target in targets]).mean(dim=0)


def _others(layer: Layer) -> list[int]:
    n_axes = max(3, layer.weight.ndim)
    return [axis for axis in range(n_axes) if axis != layer.channel_axis]
