"""Cross-layer equalization: channels that share one activation scale are brought to comparable ranges.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019 (arXiv:1906.04721), section 4.1: a factor taken out of channel i of one layer and put into the
next leaves the function alone, because relu is positively homogeneous. Three things differ here:

- A factor belongs to a whole :class:`~edgeaudio_export.recovery.channel_groups.ChannelGroup`, so that residual streams
  and states are equalized too: the FIFO of a causal convolution starts at 0, which every factor leaves alone.
- Weights have one scale for each output channel, so a producer's weights and those of a depthwise consumer do not
  care; what suffers is the activation, per tensor, and the weights of a dense consumer along its inputs. The factor is
  ``s[i] = a[i]**alpha / w[i]**(1 - alpha)`` (the balance of SmoothQuant, arXiv:2211.10438, equation 4), ``a`` the
  channel's peak or root mean square on the streams, ``w`` the largest weight that reads it relative to its row.
- ``alpha`` and the kind of ``a`` are chosen group by group by the noise that they leave at the consumers' outputs, and
  a group is left alone where nothing lowers it.

Factors are powers of two: the float network then computes the same bits as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.calibration.statistics import ActivationStatistics
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.channel_groups import ChannelGroup, channel_groups
from edgeaudio_export.recovery.layers import Layer, layers_of, nearest, per_output, spread_inputs, with_weights
from edgeaudio_export.recovery.observation import Observation, observe
from edgeaudio_export.recovery.simulation import round_to_codes
from edgeaudio_export.step_graph import Features, Progress, StepGraph

ALPHAS = (0.5, 0.75, 1.0)
"""Shares of the activation in the balance: Nagel's square root, everything for the activation, and between."""
MAX_EXPONENT = 7
"""Factors lie within 2**-7 and 2**7 of the group's middle one: beyond, a weight scale would reach its lower limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualizedGroup:
    """What was done to one group of channels."""

    producers: tuple[str, ...]
    """Layers whose output channels were divided."""
    consumers: tuple[str, ...]
    """Layers whose input channels were multiplied."""
    rule: str
    """"peak" or "rms" and alpha, or "none" where every factor is 1."""
    smallest: float
    """Smallest factor."""
    largest: float
    """Largest factor."""
    noise_before: float
    """Share of int8 noise in the consumers' outputs, 0 to 1, mean over their channels."""
    noise_after: float
    """The same with the factors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualizationFacts:
    """What a manifest says about equalization."""

    groups: tuple[EqualizedGroup, ...]
    """Every group that may be rescaled, in order of execution."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def equalize(
    step: StepGraph,
    streams: Sequence[Features],
    *,
    recipe: QuantizationRecipe | None = None,
    progress: Progress | None = None,
) -> tuple[StepGraph, EqualizationFacts]:
    """Rescale every group of channels so that int8 loses least; the float function stays the same to the bit.

    Args:
        step: Float step graph; it is left as it was.
        streams: Features ``[T, n_features]`` whose activations are measured, each from reset.
        recipe: How the network will be quantized afterwards; None means the defaults.
        progress: Called with (groups done, groups in all).

    Returns:
        A graph with other weights, and what was done.

    Raises:
        ExportError: A stream does not fit the network.
    """
    recipe = recipe or QuantizationRecipe()
    groups, facts = channel_groups(step), []
    seen, layers = observe(step, streams, groups, batch=recipe.calibration.batch), layers_of(step)
    for done, group in enumerate(groups, start=1):
        rule, factors, noise = _best(group, layers, seen, recipe)
        before = _noise(torch.ones(group.channels), group, layers, seen, recipe)
        step = rescale(step, group, factors)
        facts.append(
            EqualizedGroup(
                producers=group.producers,
                consumers=group.consumers,
                rule=rule,
                smallest=float(factors.min()),
                largest=float(factors.max()),
                noise_before=before,
                noise_after=noise,
            )
        )
        if progress is not None:
            progress(done, len(groups))
    return step, EqualizationFacts(groups=tuple(facts))


def rescale(step: StepGraph, group: ChannelGroup, factors: Tensor) -> StepGraph:
    """Divide the group's activations by ``factors [channels]``, all > 0: producers by them, consumers times them."""
    layers = layers_of(step)
    weights = {name: (layers[name].weight, layers[name].bias) for name in (*group.producers, *group.consumers)}
    for name in group.producers:
        weight, bias = weights[name]
        weights[name] = weight / per_output(factors, weight), bias / factors
    for name in group.consumers:
        weight, bias = weights[name]
        weights[name] = weight * spread_inputs(factors, layers[name]), bias
    return with_weights(step, weights)


def _best(
    group: ChannelGroup, layers: dict[str, Layer], seen: Observation, recipe: QuantizationRecipe
) -> tuple[str, Tensor, float]:
    """Name, factors and noise of the candidate that leaves least noise."""
    candidates = {"none": torch.ones(group.channels), **_candidates(group, layers, seen)}
    noises = {name: _noise(factors, group, layers, seen, recipe) for name, factors in candidates.items()}
    rule = min(noises, key=lambda name: noises[name])
    return rule, candidates[rule], noises[rule]


def _candidates(group: ChannelGroup, layers: dict[str, Layer], seen: Observation) -> dict[str, Tensor]:
    rows = seen.samples[group.name]
    amplitudes = {"peak": rows.abs().amax(dim=0), "rms": rows.square().mean(dim=0).sqrt()}
    columns = torch.stack([_columns(layers[name]) for name in group.consumers]).amax(dim=0)
    return {
        f"{kind}, alpha {alpha:g}": _powers_of_two(amplitude**alpha / columns ** (1.0 - alpha))
        for kind, amplitude in amplitudes.items()
        for alpha in ALPHAS
    }


def _columns(layer: Layer) -> Tensor:
    """Largest weight that reads each input channel, relative to the largest of its row, ``[I]``, each in [0, 1]."""
    largest = layer.weight.abs().reshape(*layer.weight.shape[:2], -1).amax(dim=2)
    relative = largest / largest.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return relative.reshape(layer.groups, -1, relative.shape[1]).amax(dim=1).reshape(-1)


def _powers_of_two(factors: Tensor) -> Tensor:
    """Factors relative to their median, rounded to powers of two; 1 for channels that are never used."""
    used = torch.isfinite(factors) & (factors > 0)
    if not bool(used.any()):
        return torch.ones_like(factors)
    exponents = torch.log2(factors.double().where(used, 1.0))
    relative = torch.round(exponents - exponents[used].median()).clamp(-MAX_EXPONENT, MAX_EXPONENT)
    return torch.exp2(relative.where(used, 0.0)).float()


def _noise(
    factors: Tensor, group: ChannelGroup, layers: dict[str, Layer], seen: Observation, recipe: QuantizationRecipe
) -> float:
    """Mean share of noise in the consumers' outputs: rounding of the group's activations and of all weights around."""
    error = _activation_error(seen.samples[group.name] / factors, recipe) * factors.square()
    for name in group.producers:
        spread = 1.0 / per_output(factors, layers[name].weight)
        error = error + _weight_error(layers[name], spread, seen, recipe) / len(group.producers)
    return float(torch.cat([_shares(layers[name], factors, error, seen, recipe) for name in group.consumers]).mean())


def _activation_error(rows: Tensor, recipe: QuantizationRecipe) -> Tensor:
    """Mean squared error of each channel when all share one range, ``[channels]``."""
    if not bool(rows.any()):
        return torch.zeros(rows.shape[1])
    kind = recipe.scheme.activations
    statistics, symmetric = ActivationStatistics("group", recipe.calibration), recipe.symmetric(kind)
    statistics.histogram.observe(rows.numpy())
    statistics.end_stream(float(rows.min()), float(rows.max()))
    params = statistics.choose(recipe.calibration, kind, symmetric=symmetric).params(kind, symmetric=symmetric)
    return (rows - round_to_codes(rows, params)).square().mean(dim=0)


def _weight_error(layer: Layer, spread: Tensor, seen: Observation, recipe: QuantizationRecipe) -> Tensor:
    """Noise power that rounding the weights times ``spread`` leaves in each output, ``[O]``, before scaling."""
    error = layer.weight - nearest(layer.weight * spread, per_channel=recipe.per_channel) / spread
    return _summed(error.square() * spread_inputs(seen.power[layer.name], layer))


def _shares(layer: Layer, factors: Tensor, error: Tensor, seen: Observation, recipe: QuantizationRecipe) -> Tensor:
    """Noise over noise and signal of each output, ``[O]``; ``error [I]`` is the noise power of each input."""
    noise = _summed(layer.weight.square() * spread_inputs(error, layer))
    noise = noise + _weight_error(layer, spread_inputs(factors, layer), seen, recipe)
    return noise / (noise + seen.variance[layer.name]).clamp_min(torch.finfo(torch.float32).tiny)


def _summed(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(dim=1)
