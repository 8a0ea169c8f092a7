"""The microcontroller's interpreter, ``tflite-micro``, on the ``.tflite`` artifact: codes of its own rounding rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.stages import Stage, compare_tolerant
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Codes, NetworkSignature, Numerics, Session
from edgeaudio_runtime.engines.boundary import check_codes, check_initial_states
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import EngineError
from edgeaudio_runtime.programs import artifact_signature, load_integer_graph
from edgeaudio_runtime.tolerances import EXACT, OTHER_NUMERICS_CODES, OTHER_NUMERICS_LSB, CodeTolerance

NAME = "tflite-micro"
RULE = 'integer graph, rule "tflm"'
MICRO_STEPS = 500
"""Chained steps that are compared; a step of a small keyword network takes it a millisecond on a desktop CPU."""
ARENA_BYTES_PER_MODEL_BYTE, MIN_ARENA_BYTES = 10, 1 << 20
"""Room for tensors: what the package itself assumes, and enough for small models with long states."""
NOT_EXACT = CodeTolerance(lsb=OTHER_NUMERICS_LSB, share=OTHER_NUMERICS_CODES)
"""Where the graph has operations that engines do not round alike."""
OTHER_ROUNDING = CodeTolerance(lsb=16, share=1.0)
"""Against the certified codes: every layer rounds by another rule, so what it says is recorded and held to be the same
network, no more. 34 to 44 % of the logits of the zoo were measured off, by up to 5 codes."""


class MicroProgram:
    """A ``.tflite`` model with inputs ``features``, ``state_<i>_in`` and outputs ``logits``, ``state_<i>_out``.

    Args:
        model_bytes: The ``.tflite`` file.
        signature: Shapes and quantization at the boundary.
        initial_states: The code that fills each state after a reset, in order.

    Raises:
        EngineError: tflite-micro is not installed, or has no kernel for an operation of the model.
        SpecError: ``initial_states`` does not fit the model's states.
    """

    engine = NAME
    numerics: Numerics = "tflm"

    def __init__(
        self, model_bytes: bytes, signature: NetworkSignature, initial_states: tuple[int | float, ...] = ()
    ) -> None:
        self._model, self.signature, self._initial_states = model_bytes, signature, initial_states
        self.inputs, self.outputs = boundary_names(model_bytes)
        check_initial_states(initial_states, tuple(name for name in self.inputs if name != "features"))
        self.interpreter()

    @property
    def version(self) -> str:
        """Package name and version."""
        from importlib import metadata

        return f"{NAME} {metadata.version(NAME)}"

    def session(self) -> Session:
        """Open a stream in its initial state, on an interpreter of its own."""
        return MicroSession(self, self._initial_states)

    def interpreter(self) -> Any:
        """A new interpreter with its arena."""
        try:
            from tflite_micro import runtime
        except ImportError as error:
            raise EngineError(f"{NAME} is not installed; run: pip install 'edgeaudio[micro]'") from error
        arena = max(ARENA_BYTES_PER_MODEL_BYTE * len(self._model), MIN_ARENA_BYTES)
        try:
            return runtime.Interpreter.from_bytes(self._model, arena_size=arena)
        except RuntimeError as error:
            raise EngineError(f"{NAME} cannot load the model: {str(error).splitlines()[0]}") from error


class MicroSession:
    """One stream on an interpreter that nobody else has; tensors go in and out by their place in the file."""

    def __init__(self, program: MicroProgram, initial_states: tuple[int | float, ...]) -> None:
        self._signature, self._interpreter = program.signature, program.interpreter()
        self._features, self._logits = program.inputs.index("features"), program.outputs.index("logits")
        self._states = [
            (program.inputs.index(f"state_{i}_in"), program.outputs.index(f"state_{i}_out"), value)
            for i, value in enumerate(initial_states)
        ]
        self._shape = self._interpreter.get_input_details(self._features)["shape"]
        self.reset()

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logits ``[k * outputs_per_step, n_labels]``, k >= 0."""
        signature = self._signature
        n_steps = check_codes(codes, signature)
        logits = np.empty((n_steps, signature.outputs_per_step, signature.n_labels), signature.output_quant.dtype)
        for i, step in enumerate(codes.reshape(n_steps, *self._shape)):
            logits[i] = self._step(step).reshape(logits.shape[1:])
        return logits.reshape(-1, signature.n_labels)

    def reset(self) -> None:
        """Set every state to its initial value."""
        details = [self._interpreter.get_input_details(before) for before, _, _ in self._states]
        self._held = [
            np.full(detail["shape"], value, detail["dtype"])
            for detail, (_, _, value) in zip(details, self._states, strict=True)
        ]

    def _step(self, codes: Codes) -> npt.NDArray[Any]:
        # Inputs lie in the arena, where later tensors overwrite them: each is set again before every step.
        self._interpreter.set_input(codes, self._features)
        for (before, _, _), held in zip(self._states, self._held, strict=True):
            self._interpreter.set_input(held, before)
        self._interpreter.invoke()
        self._held = [self._interpreter.get_output(after) for _, after, _ in self._states]
        logits: npt.NDArray[Any] = self._interpreter.get_output(self._logits)
        return logits


def boundary_names(model_bytes: bytes) -> tuple[list[str], list[str]]:
    """Names of a ``.tflite`` file's inputs and of its outputs, in order; the interpreter knows only places."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(model_bytes, 0).Subgraphs(0)
    places = graph.InputsAsNumpy(), graph.OutputsAsNumpy()
    inputs, outputs = ([graph.Tensors(int(place)).Name().decode() for place in each] for each in places)
    return inputs, outputs


def missing_micro(bundle: Bundle) -> str | None:
    """Why ``tflite-micro`` cannot run the bundle's model, in a line; None where it can or nobody asks it to.

    It is asked for streaming int8 networks that have an integer graph and a ``model.tflite``.
    """
    if not _has_micro_rung(bundle):
        return None
    try:
        _micro_program(bundle)
    except EngineError as error:
        return str(error)
    return None


def micro_stages(bundle: Bundle, codes: Codes, logits: Codes) -> Iterator[Stage]:
    """The microcontroller's interpreter against the integer graph, by its own rounding rule and by the certified one.

    Args:
        bundle: What to prove; nothing is compared where :func:`missing_micro` has a reason.
        codes: Feature codes ``[k * step_frames, n_features]`` of a stream.
        logits: What the integer graph answers ``[k * outputs_per_step, n_labels]``.
    """
    if not _has_micro_rung(bundle):
        return
    try:
        program = _micro_program(bundle)
    except EngineError:
        return
    codes = codes[: MICRO_STEPS * program.signature.step_frames]
    answered = f"{NAME}, chained steps", program.session().run(codes)
    by_its_rule = NumpyProgram(replace(load_integer_graph(bundle), requantization="tflm")).session().run(codes)
    tolerance = EXACT if "litert" in bundle.manifest.quantization.exact_engines else NOT_EXACT
    yield compare_tolerant(NAME, (RULE, by_its_rule), answered, tolerance)
    certified = f"integer graph, rule {bundle.manifest.quantization.requantization!r}", logits[: len(answered[1])]
    yield compare_tolerant(f"{NAME}, rounding", certified, answered, OTHER_ROUNDING)


def _has_micro_rung(bundle: Bundle) -> bool:
    manifest = bundle.manifest
    int8_steps = manifest.mode == "streaming" and manifest.quantization.method == "static_w8a8"
    return int8_steps and {"numpy", "litert"} <= set(manifest.engines) and manifest.network.input_frames is None


def _micro_program(bundle: Bundle) -> MicroProgram:
    initial = tuple(state.initial for state in bundle.manifest.network.states)
    return MicroProgram(bundle.read("model.tflite"), artifact_signature(bundle), initial)
