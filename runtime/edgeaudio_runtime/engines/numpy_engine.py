"""The reference engine: the integer graph in numpy, any number of steps in one call."""

from __future__ import annotations

import math

import numpy as np

from edgeaudio_runtime.engines.base import Codes, NetworkSignature, Numerics, Session
from edgeaudio_runtime.engines.boundary import check_codes, signature_of
from edgeaudio_runtime.engines.time_plan import time_plan
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_constants import with_widened_constants
from edgeaudio_runtime.graph_shapes import check_shapes
from edgeaudio_runtime.kernel import Array, Kernel
from edgeaudio_runtime.kernels import kernel
from edgeaudio_runtime.record import Record

MAX_STEPS_PER_PASS = 1024
"""Steps whose intermediate tensors are held at once (41 s of 40 ms steps); longer runs take several passes."""

MAX_ELEMENTS_PER_PASS = 2**24
"""Values of all its tensors that a pass may compute; larger networks take fewer steps at once."""


class _Instruction(Record):
    kernel: Kernel
    inputs: tuple[str, ...]
    output: str
    dead: tuple[str, ...]
    """Tensors nothing reads after this; dropped so that long runs stay small."""


class NumpyProgram:
    """An integer graph bound to numpy kernels; its numerics are the graph's requantization rule."""

    def __init__(self, graph: IntegerGraph) -> None:
        check_shapes(graph)
        self._graph = graph = with_widened_constants(graph)
        plan = time_plan(graph)
        self.steps_per_pass = 1 if plan is None else _steps_per_pass(graph)
        growth = {} if plan is None else {name: entry.per_step for name, entry in plan.items()}
        self._instructions = _instructions(graph, growth)

    @property
    def engine(self) -> str:
        """Always "numpy"."""
        return "numpy"

    @property
    def numerics(self) -> Numerics:
        """The graph's requantization rule."""
        rules: dict[str, Numerics] = {"fp32": "fp32", "tflm": "tflm", "single": "single"}
        return rules[self._graph.requantization]

    @property
    def version(self) -> str:
        """Version of numpy."""
        return f"numpy {np.__version__}"

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        return signature_of(self._graph)

    def session(self) -> Session:
        """Open a stream in its initial state."""
        return NumpySession(self)

    def initial_states(self) -> dict[str, Array]:
        """Fresh state tensors, by the name of the tensor a step reads them from."""
        tensors = self._graph.tensors
        return {s.input: np.full(tensors[s.input].shape, s.initial, tensors[s.input].dtype) for s in self._graph.states}

    def run_pass(self, features: Array, states: dict[str, Array], steps: int) -> tuple[Array, dict[str, Array]]:
        """Run ``steps`` at once: features ``[1, T, F, C]`` and states to logits ``[1, T', 1, L]`` and new states."""
        values = {**self._graph.constants, **states, self._graph.input: features}
        for instruction in self._instructions:
            values[instruction.output] = instruction.kernel([values[name] for name in instruction.inputs], steps)
            for name in instruction.dead:
                del values[name]
        return values[self._graph.output], {
            s.input: self._last_frames(s.input, values[s.output]) for s in self._graph.states
        }

    def _last_frames(self, name: str, array: Array) -> Array:
        """The state's own length from the end, copied so that the tensor it was cut from can go."""
        return array[:, -self._graph.tensors[name].shape[1] :].copy()

    def feature_shape(self, steps: int) -> tuple[int, ...]:
        """Shape of the feature input for ``steps`` steps."""
        shape = self._graph.input_tensor.shape
        return (1, steps * shape[1], *shape[2:])


class NumpySession:
    """One stream on a :class:`NumpyProgram`."""

    def __init__(self, program: NumpyProgram) -> None:
        self._program = program
        self._signature = program.signature
        self._states = program.initial_states()

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logits ``[k * outputs_per_step, n_labels]``, k >= 0."""
        total = check_codes(codes, self._signature)
        step_frames, per_pass = self._signature.step_frames, self._program.steps_per_pass
        logits = [np.empty((0, self._signature.n_labels), self._signature.output_quant.dtype)]
        for first in range(0, total, per_pass):
            steps = min(per_pass, total - first)
            part = codes[first * step_frames : (first + steps) * step_frames].reshape(
                self._program.feature_shape(steps)
            )
            result, self._states = self._program.run_pass(part, self._states, steps)
            logits.append(result.reshape(-1, self._signature.n_labels))
        return np.concatenate(logits)

    def reset(self) -> None:
        """Set every state to its initial value."""
        self._states = self._program.initial_states()


def _steps_per_pass(graph: IntegerGraph) -> int:
    sizes = (math.prod(tensor.shape) for name, tensor in graph.tensors.items() if name not in graph.constants)
    return min(MAX_STEPS_PER_PASS, max(1, MAX_ELEMENTS_PER_PASS // sum(sizes)))


def _instructions(graph: IntegerGraph, growth: dict[str, int]) -> tuple[_Instruction, ...]:
    kept = {graph.output, *graph.constants, *(state.output for state in graph.states)}
    instructions: list[_Instruction] = []
    for op in reversed(graph.ops):
        dead = tuple(sorted(set(op.inputs) - kept))
        kept.update(op.inputs)
        bound = kernel(graph, op, growth.get(op.outputs[0], 0))
        instructions.append(_Instruction(kernel=bound, inputs=op.inputs, output=op.outputs[0], dead=dead))
    return tuple(reversed(instructions))
