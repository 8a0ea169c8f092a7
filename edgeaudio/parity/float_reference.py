"""The float reference of a bundle: ``model.float.onnx``, stepped with its state from reset, or what it was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.front_end import compute_features

if TYPE_CHECKING:
    from edgeaudio_models.streaming import StreamingModule

Float32 = npt.NDArray[np.float32]
FloatNetwork = Callable[[Float32], Float32]
"""Logits ``[T_out, n_labels]`` of features ``[T, n_features]`` from reset."""
FloatSteps = Callable[[], FloatNetwork]
"""Begins a stream: what it returns gives the logits of the next features, whole steps, and keeps the state."""

FILE = "model.float.onnx"


class FloatReference:
    """Runs the float network over whole streams, each from real zeros."""

    def __init__(self, bundle: Bundle, *, network: FloatNetwork | None = None) -> None:
        """Take the file of the bundle; where it travels without one, ``network``.

        Raises:
            ParityError: There is neither.
        """
        self.name = "float ONNX" if has_float_file(bundle) else "torch"
        """What answers."""
        if self.name == "float ONNX":
            self._run: FloatNetwork = _OnnxSteps(bundle).run
        elif network is not None:
            self._run = network
        else:
            rule = f"bundle={bundle.name!r} has no {FILE} to compare with"
            raise ParityError(f"{rule}; give the checkpoint or the zoo entry it was made from, with --checkpoint")

    def run(self, features: Float32) -> Float32:
        """Logits ``[T_out, n_labels]`` of features ``[T, n_features]``, T a multiple of the step."""
        return self._run(features)


def has_float_file(bundle: Bundle) -> bool:
    """Whether the float network travels in the bundle."""
    return any(artifact.path == FILE for artifact in bundle.manifest.artifacts)


def float_steps(bundle: Bundle, module: StreamingModule | None = None) -> FloatSteps:
    """Streams of a bundle's float network: of the file in it; where it travels without one, of ``module``.

    Raises:
        ParityError: There is neither.
    """
    if has_float_file(bundle):
        return _OnnxSteps(bundle).start
    if module is None:
        rule = f"bundle={bundle.name!r} has no {FILE} to compare with"
        raise ParityError(f"{rule}; give the checkpoint or the zoo entry it was made from, with --checkpoint")
    return module_steps(module)


def module_steps(module: StreamingModule) -> FloatSteps:
    """Streams of a network in torch."""
    import torch

    module.eval()

    def start() -> FloatNetwork:
        state = module.initial_state(1)

        def run(features: Float32) -> Float32:
            nonlocal state
            with torch.no_grad():
                logits, state = module(torch.from_numpy(features)[None], state)
            answer: Float32 = logits[0].numpy()
            return answer

        return run

    return start


class _OnnxSteps:
    """A float step model in ONNX Runtime."""

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            bundle.read(FILE), options, providers=["CPUExecutionProvider"]
        )
        self._states = [entry for entry in self._session.get_inputs() if entry.name != "features"]
        self._outputs = ["logits", *(entry.name.removesuffix("_in") + "_out" for entry in self._states)]
        self._step_frames = bundle.manifest.network.step_frames
        self._whole = bundle.manifest.mode == "whole"
        self._window = bundle.manifest.network.input_frames
        self._silence = np.empty((0, bundle.features.n_features), np.float32)
        if self._window is not None:
            n_kept = self._window + bundle.manifest.network.latency_frames - self._step_frames
            frame = compute_features(bundle.features, np.zeros(bundle.features.win_length, np.int16))[:1]
            self._silence = np.repeat(frame, n_kept, axis=0)

    def run(self, features: Float32) -> Float32:
        """See :meth:`FloatReference.run`."""
        return self.start()(features)

    def start(self) -> FloatNetwork:
        """Begin a stream, see :data:`FloatSteps`; of a network that hears whole recordings each call is one."""
        if self._whole:
            return self._recording
        return self._stepped() if self._window is None else self._windowed(self._window)

    def _recording(self, features: Float32) -> Float32:
        answer: Float32 = self._session.run(["logits"], {"features": features[None]})[0][0]
        return answer

    def _stepped(self) -> FloatNetwork:
        state = {entry.name: np.zeros(entry.shape, dtype=np.float32) for entry in self._states}

        def run(features: Float32) -> Float32:
            nonlocal state
            logits = []
            for i in range(0, len(features), self._step_frames):
                step = {"features": features[None, i : i + self._step_frames], **state}
                answer, *after = self._session.run(self._outputs, step)
                state = dict(zip(state, after, strict=True))
                logits.append(answer[0])
            return np.concatenate(logits)

        return run

    def _windowed(self, window: int) -> FloatNetwork:
        kept = self._silence

        def run(features: Float32) -> Float32:
            nonlocal kept
            frames = np.concatenate((kept, features))
            cut = (frames[None, start : start + window] for start in range(0, len(features), self._step_frames))
            kept = frames[len(features) :]
            return np.concatenate([self._session.run(["logits"], {"features": part})[0][0] for part in cut])

        return run
