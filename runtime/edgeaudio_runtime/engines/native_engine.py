"""The native engine: the integer graph in C, in one block of memory for each stream; needs nothing but numpy."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.base import BoundStep, Codes, NetworkSignature, Numerics, Session
from edgeaudio_runtime.engines.boundary import check_codes, signature_of
from edgeaudio_runtime.engines.native_plan import BLOCK, NativePlan, Operation
from edgeaudio_runtime.errors import EngineError
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.native import LIBRARY, CopyStruct, aligned_zeros, load_library

_OP_NUMBERS = (
    "kind", "n_out", "n_in", "bins", "channels", "out_t", "out_f", "kernel_t", "kernel_f", "stride_t", "stride_f",
    "dilation_t", "dilation_f", "pad_low", "is_contiguous", "x_zero", "y_zero",
)  # fmt: skip
_OP_FLOATS = ("low", "high", "zero", "x_ratio", "y_ratio")
_OP_POINTERS = ("x", "y", "out", "weights", "pairs", "bias", "bias_unsigned", "multiplier", "room", "sums")


class _OpStruct(ctypes.Structure):
    """``edgeaudio_op`` of the C source."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _OP_NUMBERS),
        *((name, ctypes.c_float) for name in _OP_FLOATS),
        *((name, ctypes.c_void_p) for name in _OP_POINTERS),
    )


class _NetworkStruct(ctypes.Structure):
    """``edgeaudio_network`` of the C source."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("n_ops", "n_carried", "level", "reserved")),
        *((name, ctypes.c_void_p) for name in ("ops", "carried")),
    )


class NativeProgram:
    """An integer graph bound to the C core; its codes are those of ``NumpyProgram``, bit for bit.

    Args:
        graph: Of rule "fp32", int8 throughout.
        level: Most vectors to use: 0 none but the compiler's, 1 AVX2, 2 AVX-512 with VNNI; None takes the CPU's.

    Raises:
        EngineError: the library was not built with this installation.
        SpecError: the graph has something that the C core does not compute.
    """

    def __init__(self, graph: IntegerGraph, *, level: int | None = None) -> None:
        library = load_library()
        if library is None:
            raise EngineError(
                f"{os.path.basename(LIBRARY)} was not built with this installation; install with a C compiler at hand"
            )
        self.library, self.plan, self._signature = library, NativePlan(graph), signature_of(graph)
        most: int = library.edgeaudio_level()
        self.level = most if level is None else min(level, most)

    @property
    def engine(self) -> str:
        """Always "native"."""
        return "native"

    @property
    def numerics(self) -> Numerics:
        """Always "fp32"."""
        return "fp32"

    @property
    def version(self) -> str:
        """Version of this package, and the vectors in use."""
        from edgeaudio_runtime import __version__

        return f"edgeaudio-runtime {__version__} ({('plain C', 'AVX2', 'AVX-512 VNNI')[self.level]})"

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        return self._signature

    def session(self) -> Session:
        """Open a stream in its initial state."""
        return NativeSession(self)


class NativeSession:
    """One stream: its tensors, and the operations with their addresses."""

    def __init__(self, program: NativeProgram) -> None:
        plan, signature = program.plan, program.signature
        self._program, self._plan, self._signature = program, plan, signature
        self._block = aligned_zeros(plan.n_bytes // 8 + 8).view(np.int8)
        numbers = [operation.numbers for operation in plan.operations]
        n_in, n_out = (max((int(n.get(name, 0)) for n in numbers), default=0) for name in ("n_in", "n_out"))
        self._room = np.zeros(2 * (n_in + 8), dtype=np.int8)
        self._sums = np.zeros(2 * (n_out + BLOCK), dtype=np.int32)
        self._ops = (_OpStruct * len(plan.operations))(*map(self._op, plan.operations))
        base = self._block.ctypes.data
        carried = [CopyStruct(base + source, base + target, n) for source, target, n in plan.carried]
        self._carried = (CopyStruct * len(carried))(*carried)
        self._network = _NetworkStruct(
            n_ops=len(self._ops),
            n_carried=len(carried),
            level=program.level,
            ops=ctypes.addressof(self._ops),
            carried=ctypes.addressof(self._carried),
        )
        self._run, self._place = program.library.edgeaudio_run, ctypes.addressof(self._network)
        self._address = ctypes.c_void_p(self._place)
        self._features = self._view(plan.features, signature.step_frames, signature.n_features)
        self._logits = self._view(plan.logits, signature.outputs_per_step, signature.n_labels)
        self.reset()

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logits ``[k * outputs_per_step, n_labels]``, k >= 0."""
        signature = self._signature
        n_steps, n_frames, n_outputs = check_codes(codes, signature), signature.step_frames, signature.outputs_per_step
        logits = np.empty((n_steps * n_outputs, signature.n_labels), np.int8)
        for i in range(n_steps):
            self._features[...] = codes[i * n_frames : (i + 1) * n_frames]
            self._run(self._address)
            logits[i * n_outputs : (i + 1) * n_outputs] = self._logits
        return logits

    def reset(self) -> None:
        """Set every state to its initial value."""
        for place, n, value in self._plan.states:
            self._block[place : place + n] = value

    def bound_step(self) -> BoundStep:
        """Where a step reads and writes."""
        return BoundStep(
            features=self._features.ctypes.data,
            logits=self._logits.ctypes.data,
            carried=(),
            invoke=lambda: self._run(self._address),
            network=self._place,
        )

    def _view(self, place: int, rows: int, columns: int) -> npt.NDArray[np.int8]:
        return self._block[place : place + rows * columns].reshape(rows, columns)

    def _op(self, operation: Operation) -> Any:
        base = self._block.ctypes.data
        places = {name: base + getattr(operation, name) for name in ("x", "y", "out")}
        # The program keeps the constants as long as this session lives.
        constants = {name: array.ctypes.data for name, array in operation.constants.items()}
        numbers = {name: (float if name in _OP_FLOATS else int)(value) for name, value in operation.numbers.items()}
        rooms = {"room": self._room.ctypes.data, "sums": self._sums.ctypes.data}
        return _OpStruct(**numbers, **places, **constants, **rooms)
