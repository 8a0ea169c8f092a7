"""The float reference of a bundle: ``model.float.onnx``, stepped with its state from reset."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle

Float32 = npt.NDArray[np.float32]


class FloatReference:
    """Runs a float step model over whole streams, each from real zeros."""

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        data = bundle.read("model.float.onnx")
        self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._states = [entry for entry in self._session.get_inputs() if entry.name != "features"]
        self._outputs = ["logits", *(entry.name.removesuffix("_in") + "_out" for entry in self._states)]
        self._step_frames = bundle.manifest.network.step_frames

    def run(self, features: Float32) -> Float32:
        """Logits ``[T_out, n_labels]`` of features ``[T, n_features]``, T a multiple of the step."""
        state = {entry.name: np.zeros(entry.shape, dtype=np.float32) for entry in self._states}
        logits = []
        for i in range(0, len(features), self._step_frames):
            step = {"features": features[None, i : i + self._step_frames], **state}
            answer, *after = self._session.run(self._outputs, step)
            state = dict(zip(state, after, strict=True))
            logits.append(answer[0])
        return np.concatenate(logits)
