"""Both networks rolled out side by side, step by step, with every inner tensor in sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.kernels import kernel
from edgeaudio_runtime.quantization import quantize

Probes = npt.NDArray[np.float32]
"""Features ``[N, T, n_features]`` of N streams of one length, T a multiple of the step."""
Array = npt.NDArray[Any]
Change = Callable[[Tensor], Tensor]


def check_probes(step: StepGraph, probes: Probes) -> None:
    """Raise ExportError unless there is a stream to look at and it fits the network."""
    network = step.network
    if probes.ndim != 3 or 0 in probes.shape:
        raise ExportError(
            f"probes have shape {list(probes.shape)}, must be [N >= 1, T >= 1, n_features={network.n_features}]; "
            "give at least one clip that did not calibrate"
        )
    if probes.shape[1] % network.step_frames or probes.shape[2] != network.n_features:
        raise ExportError(
            f"probes have shape {list(probes.shape)}, must be [N, a multiple of step_frames={network.step_frames}, "
            f"n_features={network.n_features}]; compute them with the features of the network"
        )
    if not np.isfinite(probes).all():
        raise ExportError("probes hold NaN or infinite features; check the recordings and the front end")


def float_steps(
    step: StepGraph, probes: Probes, changes: Mapping[str, Change] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Every node's value at every step, by node name; ``changes`` replace the values of the nodes they name."""
    recorder = _Recorder(step, changes or {})
    state = step.network.initial_state(len(probes))
    n_frames = step.network.step_frames
    for begin in range(0, probes.shape[1], n_frames):
        with torch.no_grad():
            _, state = recorder.run(torch.from_numpy(probes[:, begin : begin + n_frames]), state)
        yield recorder.values


def float_logits(step: StepGraph, probes: Probes, changes: Mapping[str, Change] | None = None) -> Probes:
    """Logits ``[N, T_out, n_labels]`` of the float network, with some values changed on the way."""
    name = step.outputs[0]
    return np.concatenate([values[name].numpy() for values in float_steps(step, probes, changes)], axis=1)


def integer_steps(graph: IntegerGraph, probes: Probes) -> Iterator[dict[str, Array]]:
    """Every tensor at every step, ``[N, T, F, C]`` codes, by name; the streams run side by side."""
    step = IntegerStep(graph)
    tensors = graph.tensors
    states = {
        s.input: np.full((len(probes), *tensors[s.input].shape[1:]), s.initial, tensors[s.input].dtype)
        for s in graph.states
    }
    for begin in range(0, probes.shape[1], graph.step_frames):
        values = step.run(probes[:, begin : begin + graph.step_frames], states)
        states = {s.input: values[s.output] for s in graph.states}
        yield values


class IntegerStep:
    """One step of an integer graph, with every tensor in sight."""

    def __init__(self, graph: IntegerGraph) -> None:
        self._graph = graph
        self._kernels = [(op, kernel(graph, op)) for op in graph.ops]

    def run(self, features: Probes, states: Mapping[str, Array]) -> dict[str, Array]:
        """Every tensor by its name, from features ``[N, step_frames, n_features]`` and states by their input."""
        graph, quant = self._graph, self._graph.input_tensor.quant
        values: dict[str, Array] = {**graph.constants, **states}
        part = features.reshape(len(features), *graph.input_tensor.shape[1:])
        values[graph.input] = part if quant is None else quantize(part, quant)
        for op, compute in self._kernels:
            values[op.outputs[0]] = compute([values[name] for name in op.inputs], 1)
        return values


class _Recorder(Interpreter):
    """Runs the step node by node and keeps what each yields."""

    def __init__(self, step: StepGraph, changes: Mapping[str, Change]) -> None:
        super().__init__(step.module, garbage_collect_values=False)
        self.values: dict[str, Tensor] = {}
        self._changes = changes

    def run_node(self, n: Node) -> Any:
        """Run one node, change its value where asked to, remember it."""
        if n.op == "call_module":  # the guards on argument shapes that torch.export leaves behind
            return None
        value = super().run_node(n)
        if n.name in self._changes:
            value = self._changes[n.name](value)
        if isinstance(value, Tensor):
            self.values[n.name] = value
        return value
