"""The integer graph with its activations left real: what the quantized weights alone cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.quantization import dequantize

Float32 = npt.NDArray[np.float32]


def float_view(graph: IntegerGraph) -> IntegerGraph:
    """The same graph in float32: constants are what their codes stand for, activations are not rounded at all.

    Raises:
        ParityError: An operation has no meaning without codes (``clamp``, whose ends are codes).
    """
    renamed: dict[str, str] = {}
    ops = []
    for op in graph.ops:
        if op.kind == "clamp":
            raise ParityError(f"operation {op.name or op.kind!r} clamps at codes, it cannot be run on reals")
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        if op.kind in ("requantize", "quantize", "dequantize"):  # nothing to change between reals
            renamed[op.outputs[0]] = inputs[0]
        else:
            ops.append(replace(op, inputs=inputs))
    states = tuple(
        replace(state, output=renamed.get(state.output, state.output), initial=0.0) for state in graph.states
    )
    return IntegerGraph(
        name=graph.name,
        tensors={name: _real(tensor) for name, tensor in graph.tensors.items()},
        constants={name: _values(data, graph.tensors[name]) for name, data in graph.constants.items()},
        ops=tuple(ops),
        input=graph.input,
        output=renamed.get(graph.output, graph.output),
        states=states,
        requantization=graph.requantization,
    )


def _real(tensor: Tensor) -> Tensor:
    return replace(tensor, dtype="float32", quant=None)


def _values(data: npt.NDArray[np.generic], tensor: Tensor) -> Float32:
    if tensor.quant is None:
        return data.astype(np.float32)
    return np.ascontiguousarray(dequantize(data, tensor.quant))


class FloatView:
    """Runs a :func:`float_view` over whole streams, each from zeros."""

    def __init__(self, graph: IntegerGraph) -> None:
        self._graph = float_view(graph)
        self._program = NumpyProgram(self._graph)

    def __call__(self, features: Float32) -> Float32:
        """Logits ``[T_out, n_labels]`` of features ``[T, n_features]``, T a multiple of the step."""
        program, step = self._program, self._graph.step_frames
        states: dict[str, npt.NDArray[np.generic]] = program.initial_states()
        logits = []
        for first in range(0, len(features), program.steps_per_pass * step):
            part = features[first : first + program.steps_per_pass * step]
            n_steps = len(part) // step
            said, states = program.run_pass(part.reshape(program.feature_shape(n_steps)), states, n_steps)
            logits.append(said.reshape(-1, said.shape[-1]))
        joined: Float32 = np.concatenate(logits)
        return joined
