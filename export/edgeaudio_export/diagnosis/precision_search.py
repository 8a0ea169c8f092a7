"""Mixed precision: raise the fewest layers to 16 bits, then to float, until a stated accuracy is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgeaudio_export.calibration.calibrate import Calibration
from edgeaudio_export.diagnosis.diagnosis import integer_logits
from edgeaudio_export.diagnosis.rollout import Probes, check_probes, float_logits
from edgeaudio_export.diagnosis.sensitivity import Logits, logit_distance, through_group
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import StreamingNetwork, frozen_copy
from edgeaudio_export.quantization_recipe import Activations, LayerRule, QuantizationRecipe
from edgeaudio_export.quantize import Backend, QuantizedNetwork, quantize_network
from edgeaudio_export.step_graph import Features, Progress, StepGraph, export_step
from edgeaudio_runtime.graph import IntegerGraph

Score = Callable[[Logits], float]
"""Logits ``[N, T_out, n_labels]`` of the probes to the share of right answers, 0 to 1."""

RANKING_STREAMS = 64
"""Probes that the groups are ranked on; all of them judge."""
BATCH = 256
"""Probes that run side by side."""
_TOLERANCE = 1e-9
"""Points of accuracy that are rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One choice of precision."""

    raised: tuple[LayerRule, ...]
    """Groups above what the recipe says."""
    score: float
    """Share of right answers of the integer graph."""
    drop: float
    """Percentage points below the float network; negative where it is better."""
    agreement: float
    """Share of the decisions that are those of the float network."""
    bytes: int
    """Of all constants of the graph."""
    met: bool
    """Whether the drop is within the goal."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionSearch:
    """What was found and how."""

    recipe: QuantizationRecipe
    """The recipe with the rules that were found; the goal is met if ``met``."""
    reference: float
    """Share of right answers of the float network."""
    max_drop: float
    """The goal, percentage points."""
    ranking: tuple[tuple[str, float | None], ...]
    """Groups by what 8-bit activations in them alone do to the logits: dB, worst first, None without any error."""
    way: tuple[Trial, ...]
    """Every choice that was tried, in order."""
    met: bool
    """Whether the recipe keeps the goal."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "reference": self.reference,
            "max_drop": self.max_drop,
            "met": self.met,
            "ranking": [list(entry) for entry in self.ranking],
            "way": [trial.to_dict() for trial in self.way],
            "recipe": self.recipe.to_dict(),
        }


def search_precision(
    network: StreamingNetwork,
    streams: Sequence[Features],
    score: Score,
    *,
    probes: Probes,
    max_drop: float,
    last_only: bool,
    backend: Backend = "pt2e",
    recipe: QuantizationRecipe | None = None,
    progress: Progress | None = None,
    tried: Callable[[Trial], None] | None = None,
) -> PrecisionSearch:
    """Find a recipe that loses at most ``max_drop`` points, with as few layers above 8 bits as the ranking allows.

    Groups of activations are ranked by the error that each alone causes at the logits. In this order they are raised to
    int16, one more at a time, until the goal is met; if all of them do not suffice, to float32. Then every raised group
    but the last is lowered again if the goal holds without it.

    Args:
        network: Float network.
        streams: Calibration features, observed once.
        score: Judges the logits of all probes.
        probes: Features ``[N, T, n_features]`` of labelled streams that did not calibrate.
        max_drop: Percentage points below the float network, >= 0.
        last_only: Whether a stream's last output alone decides.
        backend: Who quantizes.
        recipe: Where to start; None means static int8.
        progress: Called with (streams, streams in all) while calibrating.
        tried: Called after every trial.

    Raises:
        ExportError: ``max_drop`` is negative, the recipe computes in float anyway, or network or data do not fit.
    """
    recipe = recipe or QuantizationRecipe()
    if not max_drop >= 0.0:
        raise ExportError(f"max_drop={max_drop} must be >= 0 percentage points; 0.2 is a strict goal")
    if recipe.scheme.mode != "static":
        raise ExportError(f"max_drop does not go with method={recipe.method!r}, which has no layers to raise; leave it")
    step = export_step(frozen_copy(network))
    check_probes(step, probes)
    judge = _Judge(step=step, probes=probes, score=score, max_drop=max_drop, last_only=last_only)
    first = quantize_network(network, streams, backend=backend, recipe=recipe, name="search", progress=progress)
    make = _Maker(network=network, streams=streams, backend=backend, recipe=recipe, calibration=first.calibration)
    way: list[Trial] = []

    def attempt(rules: tuple[LayerRule, ...], graph: IntegerGraph) -> bool:
        way.append(judge.trial(rules, graph))
        if tried is not None:
            tried(way[-1])
        return way[-1].met

    ranking = (
        () if attempt((), first.graph) else rank_groups(step, first, probes[:RANKING_STREAMS], last_only=last_only)
    )
    rules: tuple[LayerRule, ...] = ()
    for rules in _more_and_more([name for name, _ in ranking]):
        if attempt(rules, make(rules).graph):
            break
    if way[-1].met:
        rules = _fewer(rules, lambda fewer: attempt(fewer, make(fewer).graph))
    return PrecisionSearch(
        recipe=replace(recipe, layers=(*recipe.layers, *rules)),
        reference=judge.reference,
        max_drop=max_drop,
        ranking=ranking,
        way=tuple(way),
        met=any(trial.met and trial.raised == rules for trial in way),
    )


def rank_groups(
    step: StepGraph, quantized: QuantizedNetwork, probes: Probes, *, last_only: bool
) -> tuple[tuple[str, float | None], ...]:
    """Groups of int8 activations and the dB at the logits with that group alone in codes, worst first.

    Groups whose parameters are fixed (sigmoid, tanh, softmax) are ranked too: 16 bits help them as well.
    """
    reference = float_logits(step, probes)
    found: list[tuple[str, float | None]] = []
    for group in quantized.calibration.groups:
        changes = through_group(step, quantized.graph, group.members)
        if changes:
            distance = logit_distance(reference, float_logits(step, probes, changes), last_only=last_only)
            found.append((group.name, distance.sqnr_db))
    return tuple(sorted(found, key=lambda entry: float("inf") if entry[1] is None else entry[1]))


def _more_and_more(ranked: Sequence[str]) -> Iterator[tuple[LayerRule, ...]]:
    """The first group in 16 bits, the first two, ... all; then the first in float, ..."""
    kinds: tuple[Activations, ...] = ("int16", "float32")
    lower: list[LayerRule] = []
    for kind in kinds:
        raised = [LayerRule(name=name, activations=kind) for name in ranked]
        for count in range(1, len(ranked) + 1):
            yield (*raised[:count], *lower[count:])
        lower = raised


def _fewer(rules: tuple[LayerRule, ...], is_enough: Callable[[tuple[LayerRule, ...]], bool]) -> tuple[LayerRule, ...]:
    """Leave out every rule but the last whose absence the goal survives, the least important first."""
    kept = rules
    for rule in reversed(rules[:-1]):
        fewer = tuple(other for other in kept if other is not rule)
        if is_enough(fewer):
            kept = fewer
    return kept


@dataclass(kw_only=True)
class _Maker:
    """Quantizes again with other rules and the ranges that are known."""

    network: StreamingNetwork
    streams: Sequence[Features]
    backend: Backend
    recipe: QuantizationRecipe
    calibration: Calibration

    def __call__(self, rules: tuple[LayerRule, ...]) -> QuantizedNetwork:
        recipe = replace(self.recipe, layers=(*self.recipe.layers, *rules))
        return quantize_network(
            self.network,
            self.streams,
            backend=self.backend,
            recipe=recipe,
            calibration=self.calibration,
            name="search",
        )


class _Judge:
    """Scores integer graphs against the float network on the same probes."""

    def __init__(self, *, step: StepGraph, probes: Probes, score: Score, max_drop: float, last_only: bool) -> None:
        self._probes, self._score, self._max_drop, self._last_only = probes, score, max_drop, last_only
        parts = np.array_split(probes, -(-len(probes) // BATCH))
        self._float = np.concatenate([float_logits(step, part) for part in parts])
        self.reference = score(self._float)

    def trial(self, rules: tuple[LayerRule, ...], graph: IntegerGraph) -> Trial:
        """Run all probes through a graph."""
        parts = np.array_split(self._probes, -(-len(self._probes) // BATCH))
        logits = np.concatenate([integer_logits(graph, part) for part in parts])
        score = self._score(logits)
        drop = 100 * (self.reference - score)
        return Trial(
            raised=rules,
            score=score,
            drop=drop,
            agreement=logit_distance(self._float, logits, last_only=self._last_only).agreement,
            bytes=sum(data.nbytes for data in graph.constants.values()),
            met=drop <= self._max_drop + _TOLERANCE,
        )
