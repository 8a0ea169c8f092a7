"""A float or QDQ step model, run stream by stream in ONNX Runtime exactly as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgeaudio_export.network import SteppedNetwork
from edgeaudio_export.step_graph import Features


class OnnxRunner:
    """A step model with explicit states, without graph optimizations, on one thread.

    With ``whole`` a stream goes through in one call.
    """

    def __init__(self, model: onnx.ModelProto, network: SteppedNetwork, *, whole: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._network, self._whole = network, whole
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def step(self, features: Features, states: Sequence[Features]) -> list[Features]:
        """One step: features ``[step_frames, n_features]`` and states ``[1, C, K(, F)]`` to all outputs."""
        results: list[Features] = self._session.run(
            None, dict(zip(self.inputs, [features[None], *states], strict=True))
        )
        return results

    def steps(self, features: Features) -> Iterator[dict[str, Any]]:
        """Every input and output of every step of one stream ``[T, n_features]`` from reset, by name."""
        states = self.initial_states()
        for part in [features] if self._whole else split_steps(features, self._network.step_frames):
            results = self.step(part, states)
            yield dict(zip((*self.inputs, *self.outputs), (part[None], *states, *results), strict=True))
            states = results[1 : len(states) + 1]

    def run_stream(self, features: Features) -> Features:
        """Logits ``[T_out, n_labels]`` of one stream from reset."""
        parts = [values["logits"][0] for values in self.steps(features)]
        return np.concatenate(parts) if parts else np.zeros((0, self._network.n_labels), dtype=np.float32)

    def initial_states(self) -> list[Features]:
        """Zeros ``[1, C, K(, F)]``."""
        return [state.numpy() for state in self._network.initial_state(1)]


def split_steps(stream: Features, step_frames: int) -> list[Features]:
    """A stream ``[T, n_features]`` cut into steps ``[step_frames, n_features]``."""
    return [stream[begin : begin + step_frames] for begin in range(0, len(stream), step_frames)]
