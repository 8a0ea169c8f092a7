"""ONNX Runtime: one shared inference session, and per stream two bindings between which the states change sides."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeaudio_runtime.engines.base import BoundStep, Codes, NetworkSignature, Numerics, Session
from edgeaudio_runtime.engines.boundary import check_codes, check_initial_states, check_sizes
from edgeaudio_runtime.errors import EngineError

_ELEMENT_TYPES = {"tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(float)": np.float32}


class OnnxRuntimeProgram:
    """An ONNX model with inputs ``features``, ``state_<i>_in`` and outputs ``logits``, ``state_<i>_out``.

    Args:
        model_bytes: The ``.onnx`` file.
        signature: Shapes and quantization at the boundary.
        initial_states: The value that fills each state after a reset, in order.
        exact: Whether all of the model computes on int8 codes, in operations known to follow rule "fp32".
        optimize: Let ONNX Runtime rewrite the graph; False runs it as it is written.

    Raises:
        EngineError: onnxruntime is not installed, or cannot load the model.
        SpecError: ``initial_states`` does not fit the model's states.
    """

    def __init__(
        self,
        model_bytes: bytes,
        signature: NetworkSignature,
        initial_states: tuple[int | float, ...] = (),
        *,
        exact: bool = True,
        optimize: bool = True,
    ) -> None:
        runtime = _import_onnxruntime()
        self._signature = signature
        self._initial_states = initial_states
        self._exact = exact
        self._version = f"onnxruntime {runtime.__version__}"
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # session.x64quantprecision stays unset: it makes weights unsigned, and signed activations then find no kernel.
        try:
            self._session = runtime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise EngineError(f"onnxruntime cannot load the model: {str(error).splitlines()[0]}") from error
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        check_initial_states(initial_states, tuple(name for name in self._inputs if name.startswith("state_")))

    @property
    def engine(self) -> str:
        """Always "onnxruntime"."""
        return "onnxruntime"

    @property
    def numerics(self) -> Numerics:
        """Numerics "fp32" where the model is exact, else "unspecified": what is float here has no rule."""
        return "fp32" if self._exact else "unspecified"

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return self._version

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        return self._signature

    def session(self) -> Session:
        """Open a stream in its initial state."""
        if self._signature.whole:
            return WholeSession(self._session, self._signature)
        return OnnxRuntimeSession(self._session, self._signature, self._initial_states)


class OnnxRuntimeSession:
    """One stream. Binding addresses once spares the 1.3 us that each tensor costs in ``run()``."""

    def __init__(self, session: Any, signature: NetworkSignature, initial_states: tuple[int | float, ...]) -> None:
        self._session, self._signature, self._initial_states = session, signature, initial_states
        nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        self._side = 0
        self._features = _buffer(nodes["features"])
        self._logits = _buffer(nodes["logits"])
        check_sizes(signature, self._features.size, self._logits.size)
        n_states = len(initial_states)
        self._sides = tuple([_buffer(nodes[f"state_{i}_in"]) for i in range(n_states)] for _ in range(2))
        self._bindings = (self._bind(*self._sides), self._bind(*reversed(self._sides)))
        self.reset()

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logits ``[k * outputs_per_step, n_labels]``, k >= 0."""
        steps = check_codes(codes, self._signature)
        parts = codes.reshape(steps, *self._features.shape)
        logits = np.empty((steps, *self._logits.shape), self._logits.dtype)
        for i in range(steps):
            np.copyto(self._features, parts[i])
            self._invoke()
            logits[i] = self._logits
        return logits.reshape(-1, self._signature.n_labels)

    def reset(self) -> None:
        """Set every state to its initial value."""
        self._side = 0
        for buffer, value in zip(self._sides[0], self._initial_states, strict=True):
            buffer.fill(value)

    def bound_step(self) -> BoundStep | None:
        """Where a step reads and writes; the states change sides by themselves."""
        features, logits = self._features.ctypes.data, self._logits.ctypes.data
        return BoundStep(features=features, logits=logits, carried=(), invoke=self._invoke)

    def _invoke(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._side])
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise EngineError(f"onnxruntime cannot run the model: {str(error).splitlines()[0]}") from error
        self._side = 1 - self._side

    def _bind(self, before: list[Codes], after: list[Codes]) -> Any:
        binding = self._session.io_binding()
        inputs = {"features": self._features, **{f"state_{i}_in": state for i, state in enumerate(before)}}
        outputs = {"logits": self._logits, **{f"state_{i}_out": state for i, state in enumerate(after)}}
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return binding


class WholeSession:
    """Whole recordings, each in one call, through a model that takes any number of steps and has no state."""

    def __init__(self, session: Any, signature: NetworkSignature) -> None:
        self._session, self._signature = session, signature

    def run(self, codes: Codes, /) -> Codes:
        """Codes ``[k * step_frames, n_features]`` of a recording to logits ``[k * outputs_per_step, n_labels]``."""
        signature = self._signature
        n_outputs = check_codes(codes, signature) * signature.outputs_per_step
        if not n_outputs:
            return np.empty((0, signature.n_labels), signature.output_quant.dtype)
        (logits,) = self._session.run(["logits"], {"features": codes[None, :, None]})
        if logits.shape != (1, n_outputs, 1, signature.n_labels):
            found = f"logits of {len(codes)} frames have shape {list(logits.shape)}"
            raise EngineError(f"{found}, must be [1, {n_outputs}, 1, {signature.n_labels}]; export the bundle again")
        answer: Codes = logits[0, :, 0]
        return answer

    def reset(self) -> None:
        """Nothing is kept between recordings."""


def _buffer(node: Any) -> Codes:
    if not all(type(size) is int for size in node.shape):
        raise EngineError(
            f"{node.name!r} of the model has shape {node.shape}, a step needs fixed sizes; export it again"
        )
    return np.zeros(node.shape, _ELEMENT_TYPES[node.type])


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("onnxruntime is not installed; run: pip install 'edgeaudio-runtime[onnxruntime]'") from error
    return onnxruntime
