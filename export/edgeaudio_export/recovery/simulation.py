"""A step graph run on whole clips, in float or with every activation rounded to its code; differentiable.

The simulation of a quantization path says what comes out at the end; recovery has to look at every layer on the way,
with some layers quantized and others not, which a converted graph cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgeaudio_export.calibration.calibrate import calibrate
from edgeaudio_export.checks import check_stream
from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantization_plan import QuantizationPlan, plan_quantization
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.layers import layers_of, nearest, with_weights
from edgeaudio_export.step_graph import Features, StepGraph
from edgeaudio_runtime.quantization import QuantParams

Visit = Callable[[Node, Tensor, Tensor], None]
"""Called with every activation: its node, its value as computed, and as its readers see it."""
WHOLE_TOLERANCE = 1e-4
"""Largest relative difference between a step graph called on several steps at once and step by step: float rounding."""


class _Unguarded(Interpreter):
    """A step graph without the guards of torch.export, which would insist on single steps."""

    def run_node(self, n: Node) -> Any:
        return None if n.op == "call_module" and not n.users else super().run_node(n)


class Simulation(_Unguarded):
    """Runs a step graph from reset on clips of any number of steps."""

    def __init__(self, step: StepGraph, activations: Mapping[str, QuantParams] | None = None) -> None:
        """``activations`` maps nodes to the parameters their values are rounded with; None is the float graph."""
        super().__init__(step.module)
        self._step = step
        self._activations = activations or {}
        self._visit: Visit | None = None
        self._whole = _runs_whole(step)

    def logits(self, features: Tensor, visit: Visit | None = None) -> Tensor:
        """Features ``[N, T, n_features]`` to logits ``[N, T_out, n_labels]``, from reset."""
        network, self._visit = self._step.network, visit
        parts, state = [], network.initial_state(len(features))
        for part in [features] if self._whole else torch.split(features, network.step_frames, dim=1):
            logits, state = self.run(part, state)
            parts.append(logits)
        return torch.cat(parts, dim=1)

    def run_node(self, n: Node) -> Any:
        """Round the value of an activation and show it to the visitor."""
        computed = super().run_node(n)
        rounded = round_to_codes(computed, self._activations[n.name]) if n.name in self._activations else computed
        if self._visit is not None and n.op in ("placeholder", "call_function"):
            self._visit(n, computed, rounded)
        return rounded


def round_to_codes(values: Tensor, params: QuantParams) -> Tensor:
    """What codes give back of ``values``; the gradient is that of the identity, and 0 where clipped."""
    return torch.fake_quantize_per_tensor_affine(values, params.scale[0], params.zero_point, params.low, params.high)


def _runs_whole(step: StepGraph) -> bool:
    """Whether the traced step can be called on several steps at once, as its network can: then it is much faster."""
    network = step.network
    features = torch.rand(1, 3 * network.step_frames, network.n_features, generator=torch.Generator().manual_seed(0))
    runner = _Unguarded(step.module)
    state, parts = network.initial_state(1), []
    with torch.no_grad():
        for part in torch.split(features, network.step_frames, dim=1):
            logits, state = runner.run(part, state)
            parts.append(logits)
        stepped = torch.cat(parts, dim=1)
        try:
            whole, _ = runner.run(features, network.initial_state(1))
        except RuntimeError:
            return False
    if whole.shape != stepped.shape:
        return False
    return bool((whole - stepped).abs().max() <= WHOLE_TOLERANCE * max(float(stepped.abs().max()), 1.0))


def clip_batches(step: StepGraph, streams: Sequence[Features], batch: int) -> Iterator[Tensor]:
    """Streams of one length side by side, ``[N, T, n_features]`` with N up to ``batch``; shortest first."""
    for index, stream in enumerate(streams):
        check_stream(step.network, stream, index)
    for _, same in groupby(sorted(streams, key=len), key=len):
        group = list(same)
        for start in range(0, len(group), batch):
            yield torch.from_numpy(np.stack(group[start : start + batch]))


def plan_for(step: StepGraph, streams: Sequence[Features], recipe: QuantizationRecipe) -> QuantizationPlan:
    """What quantization by this recipe would give every tensor of ``step``."""
    return plan_quantization(step, calibrate(step, streams, recipe.calibration), recipe)


def with_nearest_weights(step: StepGraph, plan: QuantizationPlan) -> StepGraph:
    """A copy in which the weights that will be int8 are what their codes give back."""
    layers = {name: layer for name, layer in layers_of(step).items() if name in plan.int8_weights}
    per_channel = plan.recipe.per_channel
    return with_weights(
        step, {name: (nearest(layer.weight, per_channel=per_channel), layer.bias) for name, layer in layers.items()}
    )


def check_same_layers(step: StepGraph, reference: StepGraph) -> None:
    """Both graphs have the same operations in the same places."""
    own, other = ([n.name for n in s.module.graph.nodes if n.op == "call_function"] for s in (step, reference))
    if own != other:
        raise ExportError("reference is another network than step; take both from one export_step")
