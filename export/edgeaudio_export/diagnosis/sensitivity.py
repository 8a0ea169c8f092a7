"""Layer by layer: what the logits lose when one layer alone is quantized, and when all but that layer are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeaudio_export.diagnosis.activations import FEATURES, Ratio, stored_constants, through_codes
from edgeaudio_export.diagnosis.layers import Layer, pair_layers
from edgeaudio_export.diagnosis.rollout import Change, Probes, float_logits
from edgeaudio_export.step_graph import Progress, StepGraph
from edgeaudio_runtime.graph import IntegerGraph

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDistance:
    """How far candidate logits are from reference logits."""

    sqnr_db: float | None
    """Signal to error in dB; None where they are equal."""
    kl_nats: float
    """Mean Kullback-Leibler divergence of the softmax of the candidate from that of the reference."""
    agreement: float
    """Share of the decisions (largest logit) that are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What one layer does to the logits."""

    layer: str
    """Name of the layer, or :data:`FEATURES`."""
    alone: LogitDistance
    """This layer's weights and output quantized, all others float."""
    rest: LogitDistance
    """All others quantized, this layer float."""


def logit_distance(reference: Logits, candidate: Logits, *, last_only: bool) -> LogitDistance:
    """Compare logits ``[N, T_out, n_labels]``; ``last_only`` looks at the last output of each stream, which scores it.

    KL is ``sum(p * (log p - log q))`` with p of the reference.
    """
    if last_only:
        reference, candidate = reference[:, -1:], candidate[:, -1:]
    ratio = Ratio()
    ratio.add(reference, candidate)
    log_p, log_q = _log_softmax(reference), _log_softmax(candidate)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=2)
    same = reference.argmax(axis=2) == candidate.argmax(axis=2)
    return LogitDistance(sqnr_db=ratio.db, kl_nats=max(0.0, float(divergence.mean())), agreement=float(same.mean()))


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=2, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    return result


def report_sensitivity(
    step: StepGraph,
    graph: IntegerGraph,
    layers: Sequence[Layer],
    probes: Probes,
    *,
    last_only: bool,
    progress: Progress | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure the input and every layer on ``probes [N, T, n_features]``, in running order.

    The layers are quantized with the parameters of ``graph`` inside the float network (weight, bias and output
    through their codes and back), so that any of them can be left out.
    """
    changes = layer_changes(step, graph, layers)
    reference = float_logits(step, probes)

    def distance(chosen: Iterable[str]) -> LogitDistance:
        made = float_logits(step, probes, merged(changes[name] for name in chosen))
        return logit_distance(reference, made, last_only=last_only)

    found = []
    for done, name in enumerate(changes, start=1):
        rest = [other for other in changes if other != name]
        found.append(Sensitivity(layer=name, alone=distance([name]), rest=distance(rest)))
        if progress is not None:
            progress(done, len(changes))
    return tuple(found)


def layer_changes(step: StepGraph, graph: IntegerGraph, layers: Sequence[Layer]) -> dict[str, dict[str, Change]]:
    """For the input and every layer, the float nodes whose values its quantization changes, and how."""
    found = {FEATURES: _through(graph, graph.input, step.inputs[0])}
    for layer in layers:
        own = _through(graph, layer.tensor, layer.value.name)
        own |= {node: _constant(value) for node, value in stored_constants(step, graph, layer).items()}
        found[layer.name] = own
    return found


def through_group(step: StepGraph, graph: IntegerGraph, members: Sequence[str]) -> dict[str, Change]:
    """Changes that put the activations of one group, and nothing else, through the codes of ``graph``.

    ``members`` are nodes of the step; those that only move values, and float tensors, need no change.
    """
    values = {step.inputs[0]: graph.input} | {layer.value.name: layer.tensor for layer in pair_layers(step, graph)}
    return merged(_through(graph, values[member], member) for member in members if member in values)


def merged(parts: Iterable[Mapping[str, Change]]) -> dict[str, Change]:
    """All changes in one table; no two layers change one node."""
    return {name: change for part in parts for name, change in part.items()}


def _through(graph: IntegerGraph, tensor: str, node: str) -> dict[str, Change]:
    quant = graph.tensors[tensor].quant
    return {} if quant is None else {node: lambda value: through_codes(value, quant)}


def _constant(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda _: weight
