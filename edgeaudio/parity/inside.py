"""Rungs inside the network: stored weights, single layers and single states, each held against the float network.

Each is given true float values, so errors do not add up on the way: what is off is what is wrong, and it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.stages import Stage
from edgeaudio_runtime.quantization import dequantize, quantize

if TYPE_CHECKING:
    from edgeaudio_export.diagnosis.activations import Ratio
    from edgeaudio_export.diagnosis.layers import Layer
    from edgeaudio_export.step_graph import StepGraph
    from edgeaudio_runtime.graph import IntegerGraph

Float32 = npt.NDArray[np.float32]

STREAMS, STEPS = 8, 30
"""Streams of the probe audio that are looked at side by side, and network steps of each."""
LAYER_DB = 10.0
"""Signal to error of a layer that is fed true inputs: 21 dB and more were measured in the zoo, a layer with another
weight, bias, relu or multiplier has 6 dB or less."""
STATE_DB = 9.0
"""Change of a state over a step to the error of that change: 18 dB and more were measured in the zoo, a state that is
a frame late has 5 dB or less."""
STEP_SHARE = 0.501
"""A weight is stored within half a step of its channel; the rest is rounding of the scale to float32."""
SOFT_STEP_SHARE = 1.001
"""The same where rounding was learnt: it goes to either neighbour."""
BIAS_RELATIVE = 1e-6
"""Biases are int32 made from float32, whose last bit is larger than a step where they are large."""
FLOAT16_RELATIVE = 2.0**-11
"""Rounding of a float16."""
WEIGHT_LEVELS = 127
"""Steps on either side of 0."""
SMALLEST_SCALE = 2.0**-10
"""A channel's step is at least this share of the largest channel's, so that no bias leaves int32."""


def inside_stages(
    step: StepGraph,
    graph: IntegerGraph,
    features: Float32,
    *,
    per_channel: bool = True,
    soft_rounding: bool = False,
    biases: bool = True,
) -> Iterator[Stage]:
    """Compare an integer graph with the float step it was made from, part by part.

    Args:
        step: The float network, batch normalizations folded.
        graph: What was made from it.
        features: ``[T, n_features]``, one stream; pieces of it are probed side by side.
        per_channel: Whether each output channel of a weight has a step of its own.
        soft_rounding: Whether weights may be rounded to either neighbour.
        biases: Whether the biases are those of ``step``; a recovery step may have corrected them.

    Raises:
        ExportError: The graph has other operations than the network.
    """
    from edgeaudio_export.diagnosis.layers import pair_layers

    layers = pair_layers(step, graph)
    share = SOFT_STEP_SHARE if soft_rounding else STEP_SHARE
    yield _weights(step, graph, layers, share=share, per_channel=per_channel, biases=biases)
    length = STEPS * graph.step_frames
    count = min(STREAMS, len(features) // length)
    probes = features[: count * length].reshape(count, length, -1)
    yield from _layers_and_states(step, graph, layers, probes)


def _weights(
    step: StepGraph, graph: IntegerGraph, layers: Sequence[Layer], *, share: float, per_channel: bool, biases: bool
) -> Stage:
    from edgeaudio_export.diagnosis.layers import float_bias, float_weight, is_weighted, quantized_bias

    compared, mismatches, worst, culprits = 0, 0, 0.0, []
    for layer in filter(is_weighted, layers):
        real = float_weight(step, layer)
        errors = [_weight_error(graph, layer, real, per_channel=per_channel) / share]
        bias = float_bias(step, layer) if biases else None
        if bias is not None:
            errors.append(np.abs(quantized_bias(graph, layer) - bias) / _bias_step(graph, layer, bias))
        off = sum(int((error > 1).sum()) for error in errors)
        compared, mismatches = compared + sum(error.size for error in errors), mismatches + off
        worst = max(worst, *(float(error.max()) * share for error in errors))
        culprits += [layer.name] if off else []
    return Stage(
        name="stored weights", reference="torch", candidate="integer graph", compared=compared, mismatches=mismatches,
        max_abs_error=worst, tolerance=f"within {share:.1g} step of a channel", passed=not mismatches,
        culprits=tuple(culprits),
    )  # fmt: skip


def _weight_error(graph: IntegerGraph, layer: Layer, real: Float32, *, per_channel: bool) -> npt.NDArray[np.float64]:
    """Distance of stored weights from the float ones ``[O, ...]``, in steps that ``max |w|`` of a channel asks for."""
    from edgeaudio_export.diagnosis.layers import quantized_weight

    rows = np.abs(real.astype(np.float64)).reshape(len(real), -1)
    peaks = rows.max(axis=1) if per_channel else np.full(len(real), rows.max())
    steps = np.maximum(np.maximum(peaks, peaks.max() * SMALLEST_SCALE), np.finfo(np.float32).tiny) / WEIGHT_LEVELS
    error = np.abs(quantized_weight(graph, layer, real.shape).astype(np.float64) - real)
    return np.asarray(error.reshape(len(real), -1) / steps[:, None])


def _bias_step(graph: IntegerGraph, layer: Layer, bias: Float32) -> npt.NDArray[np.float64]:
    """The step that an int32 bias must have: that of the sums it is added to. Float biases may be stored in float16."""
    inputs, weights = (graph.tensors[name].quant for name in layer.op.inputs[:2])
    if inputs is None or weights is None:
        return np.asarray(FLOAT16_RELATIVE * np.abs(bias) + np.finfo(np.float16).tiny)
    product = inputs.scale[0] * np.asarray(weights.scale, dtype=np.float64)
    return np.asarray(product + BIAS_RELATIVE * np.abs(bias))


def _layers_and_states(
    step: StepGraph, graph: IntegerGraph, layers: Sequence[Layer], probes: Float32
) -> Iterator[Stage]:
    from edgeaudio_export.diagnosis.activations import OwnError
    from edgeaudio_export.diagnosis.rollout import IntegerStep, float_steps
    from edgeaudio_export.node_axes import node_axes

    axes = node_axes(step.module, step.inputs)
    own = {layer.name: OwnError(graph, _with_relu(layer, graph), axes) for layer in layers}
    states, integer = _States(step, graph, axes), IntegerStep(graph)
    n_frames = graph.step_frames
    for i, real in enumerate(float_steps(step, probes)):
        values = integer.run(probes[:, i * n_frames : (i + 1) * n_frames], states.before(real))
        for meter in own.values():
            meter.observe(real, values)
        states.observe(real, values)
    size = probes.shape[0] * probes.shape[1]
    yield _ratios("layers", {name: meter.ratio for name, meter in own.items()}, LAYER_DB, size, "layer by layer")
    if graph.states:
        yield _ratios("states", states.ratios, STATE_DB, size, "state by state")


def _with_relu(layer: Layer, graph: IntegerGraph) -> Layer:
    """The layer, held to the relu behind it unless the integer graph has that as an operation of its own.

    Whether the integer layer says that it took the relu in does not count: it may have lost it.
    """
    from edgeaudio_export.operations import RELU

    users = list(layer.node.users)
    apart = any(op.kind in ("relu", "clamp") and layer.tensor in op.inputs for op in graph.ops)
    if apart or not users or any(str(user.target) != RELU for user in users):
        return layer
    return replace(layer, value=users[0])


class _States:
    """What one step of the integer graph makes of true states, against what the float step makes of them."""

    def __init__(self, step: StepGraph, graph: IntegerGraph, axes: dict[str, str]) -> None:
        from edgeaudio_export.diagnosis.activations import Ratio

        order = [step.network.state_names.index(state.name) for state in graph.states]
        self._pairs = [(step.inputs[1 + i], step.outputs[1 + i]) for i in order]
        self._graph, self._axes = graph, axes
        self.ratios = {state.name: Ratio() for state in graph.states}

    def before(self, real: Any) -> dict[str, npt.NDArray[Any]]:
        """Codes of the float states that a step begins with, by the tensor they are read from."""
        found = {}
        for state, (node, _) in zip(self._graph.states, self._pairs, strict=True):
            quant, value = self._graph.tensors[state.input].quant, self._laid_out(node, real)
            found[state.input] = value if quant is None else quantize(value, quant)
        return found

    def observe(self, real: Any, values: Any) -> None:
        """Float values and codes of one step, both begun with the same states."""
        for state, (first, last) in zip(self._graph.states, self._pairs, strict=True):
            quant, after = self._graph.tensors[state.output].quant, self._laid_out(last, real)
            made = values[state.output] if quant is None else dequantize(values[state.output], quant)
            # Held against the change: what only moved along is right in any case.
            ratio = self.ratios[state.name]
            ratio.signal += float(np.square(after.astype(np.float64) - self._laid_out(first, real)).sum())
            ratio.noise += float(np.square(made.astype(np.float64) - after).sum())

    def _laid_out(self, node: str, real: Any) -> Float32:
        from edgeaudio_export.diagnosis.layers import in_graph_layout

        return in_graph_layout(self._axes[node], real[node])


def _ratios(name: str, ratios: dict[str, Ratio], at_least_db: float, frames: int, how: str) -> Stage:
    decibels = {part: ratio.db for part, ratio in ratios.items()}
    culprits = tuple(part for part, db in decibels.items() if db is not None and db < at_least_db)
    known = [db for db in decibels.values() if db is not None]
    return Stage(
        name=name, reference="torch", candidate=f"integer graph, {how}", compared=frames * len(ratios),
        mismatches=frames * len(culprits), sqnr_db=min(known) if known else None,
        tolerance=f"at least {at_least_db:g} dB in each", passed=not culprits, culprits=culprits,
    )  # fmt: skip
