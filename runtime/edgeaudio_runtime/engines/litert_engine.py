"""LiteRT (``ai_edge_litert``, else the older ``tflite_runtime``): one interpreter for each stream."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np

from edgeaudio_runtime.engines.base import BoundStep, Codes, NetworkSignature, Numerics, Session
from edgeaudio_runtime.engines.boundary import check_codes, check_initial_states
from edgeaudio_runtime.engines.litert_memory import ConvertingMemory, CopyingMemory, InPlaceMemory, TensorMemory
from edgeaudio_runtime.errors import EngineError, SpecError

KernelSet = Literal["default", "builtin", "reference"]
"""Which kernels compute: LiteRT's default delegate XNNPACK, the built-in ones without it, or the C++ references."""

_RESOLVERS = {"default": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
_FP32_MACHINES = frozenset({"x86_64", "AMD64", "aarch64", "arm64"})
"""Where the default kernels were found to follow rule "fp32" bit for bit."""
_INT16_MACHINES = frozenset({"x86_64", "AMD64"})
"""Where the built-in kernels, which the delegate leaves int16 codes to, were found to follow the rules of int16."""


class LiteRtProgram:
    """A ``.tflite`` model with inputs ``features``, ``state_<i>_in`` and outputs ``logits``, ``state_<i>_out``.

    Args:
        model_bytes: The ``.tflite`` file.
        signature: Shapes and quantization at the boundary.
        initial_states: The value that fills each state after a reset, in order.
        exact: Whether all of the model computes on codes, in operations known to follow the graph's rule.
        kernels: Which kernels compute; all but "default" make ``numerics`` "unspecified".
        in_place: Exchange tensors through their addresses; False copies through the public calls instead.
        tensors: Names in the model that are not those above, by these; features and logits may then be float32 or
            uint8, which codes of the signature stand for.
        hidden_state: Whether the model keeps state in variables of its own; every reset then loads it anew.

    Raises:
        EngineError: neither package is installed, or the model cannot be loaded.
        SpecError: ``kernels`` is unknown, or ``initial_states`` does not fit the model's states.
    """

    def __init__(
        self,
        model_bytes: bytes,
        signature: NetworkSignature,
        initial_states: tuple[int | float, ...] = (),
        *,
        exact: bool = True,
        kernels: KernelSet = "default",
        in_place: bool = True,
        tensors: Mapping[str, str] | None = None,
        hidden_state: bool = False,
    ) -> None:
        if kernels not in _RESOLVERS:
            raise SpecError(f"kernels={kernels!r} must be one of {list(get_args(KernelSet))}")
        self._module = _import_interpreter()
        self._model = model_bytes
        self._signature = signature
        self._initial_states = initial_states
        self.kernels = kernels
        self._exact = exact
        self._memory: Callable[..., TensorMemory] = InPlaceMemory if in_place else CopyingMemory
        self._tensors, self._hidden_state = dict(tensors or {}), hidden_state
        interpreter = self.interpreter()
        try:
            names = [detail["name"] for detail in interpreter.get_input_details()]
            interpreter.get_output_details()  # for their names
            self._has_int16 = any(detail["dtype"] is np.int16 for detail in interpreter.get_tensor_details())
        except UnicodeDecodeError as error:
            raise EngineError("a tensor of the model has a name that is no UTF-8; export the bundle again") from error
        check_initial_states(initial_states, tuple(name for name in names if name != self._name("features")))

    @property
    def engine(self) -> str:
        """Always "litert"."""
        return "litert"

    @property
    def numerics(self) -> Numerics:
        """Numerics "fp32" for exact models and the default kernels of ai_edge_litert, else "unspecified"."""
        machines = _INT16_MACHINES if self._has_int16 else _FP32_MACHINES
        known = self._module.__name__.startswith("ai_edge_litert") and platform.machine() in machines
        return "fp32" if self._exact and known and self.kernels == "default" else "unspecified"

    @property
    def version(self) -> str:
        """Package name and version, with the kernels where they are not the default."""
        from importlib import metadata

        package = "ai-edge-litert" if self._module.__name__.startswith("ai_edge_litert") else "tflite-runtime"
        suffix = "" if self.kernels == "default" else f" ({self.kernels} kernels)"
        return f"{package} {metadata.version(package)}{suffix}"

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        return self._signature

    def session(self) -> Session:
        """Open a stream in its initial state, on an interpreter of its own."""
        reopen = self._open if self._hidden_state else None
        return LiteRtSession(self._open(), self._signature, self._initial_states, reopen=reopen)

    def _open(self) -> TensorMemory:
        interpreter = self.interpreter()
        inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        try:
            features, logits = inputs[self._name("features")], outputs[self._name("logits")]
            pairs = tuple(
                (inputs[self._name(f"state_{i}_in")]["index"], outputs[self._name(f"state_{i}_out")]["index"])
                for i in range(len(self._initial_states))
            )
        except KeyError as error:
            raise EngineError(f"the model has no tensor {error.args[0]!r}; export the bundle again") from error
        if not self._hidden_state:  # what cannot run says so when it does; states are filled after this
            self._run_once(interpreter)
        memory = self._memory(interpreter, features["index"], logits["index"], pairs, self._signature)
        dtypes = (features["dtype"], logits["dtype"])
        if {np.float32, np.uint8}.isdisjoint(dtypes):
            return memory
        return ConvertingMemory(memory, self._signature, dtypes)

    def _run_once(self, interpreter: Any) -> None:
        try:
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"litert cannot run the model: {str(error).splitlines()[0]}") from error

    def _name(self, role: str) -> str:
        return self._tensors.get(role, role)

    def interpreter(self) -> Any:
        """A new interpreter with its tensors allocated, on one thread."""
        resolver = getattr(self._module.OpResolverType, _RESOLVERS[self.kernels])
        try:
            interpreter = self._module.Interpreter(
                model_content=self._model, num_threads=1, experimental_op_resolver_type=resolver
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"litert cannot load the model: {str(error).splitlines()[0]}") from error
        return interpreter


class LiteRtSession:
    """One stream on an interpreter that nobody else has."""

    def __init__(
        self,
        memory: TensorMemory,
        signature: NetworkSignature,
        initial_states: tuple[int | float, ...],
        *,
        reopen: Callable[[], TensorMemory] | None = None,
    ) -> None:
        self._memory, self._signature, self._reopen = memory, signature, reopen
        self._step = memory.step  # bound once
        self._initial_states = initial_states
        self._logits_dtype = np.dtype(signature.output_quant.dtype)
        self._memory.fill_states(initial_states)

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logits ``[k * outputs_per_step, n_labels]``, k >= 0."""
        signature = self._signature
        n_steps, n_frames, n_outputs = check_codes(codes, signature), signature.step_frames, signature.outputs_per_step
        logits = np.empty((n_steps * n_outputs, signature.n_labels), self._logits_dtype)
        if n_steps == 1:  # the usual call, without slices
            self._step(codes, logits)
            return logits
        for i in range(n_steps):
            self._step(codes[i * n_frames : (i + 1) * n_frames], logits[i * n_outputs : (i + 1) * n_outputs])
        return logits

    def reset(self) -> None:
        """Set every state to its initial value."""
        if self._reopen is not None:
            self._memory = self._reopen()
            self._step = self._memory.step
        self._memory.fill_states(self._initial_states)

    def bound_step(self) -> BoundStep | None:
        """Where a step reads and writes, or None where that is not int8 or moves."""
        return self._memory.bound() if self._reopen is None else None


def _import_interpreter() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter
        except ImportError as error:
            raise EngineError(
                "neither ai_edge_litert nor tflite_runtime is installed; run: pip install 'edgeaudio-runtime[litert]'"
            ) from error
    return interpreter
