"""The integer graph: operations on ``[N, T, F, C]`` tensors, their quantization and state explicit.

Lowering produces it, targets re-express it, the numpy engine runs it. ``T`` of every tensor is the length for one
network step; the numpy engine also runs any whole number of steps in one call, so no operation may name an absolute
time index from the front (``slice`` counts from the end).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import REQUANTIZATIONS, QuantParams
from edgeaudio_runtime.record import Record

KINDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # kind: names of its attributes
        "conv": frozenset({"stride", "dilation", "groups", "pad_f", "relu"}),
        "fully_connected": frozenset({"relu"}),
        "add": frozenset({"relu"}),
        "sub": frozenset({"relu"}),
        "mul": frozenset({"relu"}),
        "mean_frequency": frozenset(),
        "merge_frequency": frozenset(),
        "concat": frozenset({"axis"}),
        "slice": frozenset({"axis", "start", "stop"}),
        "relu": frozenset(),
        "clamp": frozenset({"low", "high"}),
        "sigmoid": frozenset(),
        "tanh": frozenset(),
        "softmax": frozenset(),
        "quantize": frozenset(),
        "dequantize": frozenset(),
        "requantize": frozenset(),
    }
)
"""Operations of the integer graph.

``conv``: inputs x ``[N,T,F,C]``, weight ``[O,KT,KF,C/groups]``, bias int32 ``[O]``; ``stride`` and ``dilation`` are
``(t, f)``; time is never padded (FIFOs are explicit), frequency is padded by ``pad_f = (low, high)`` with the zero
point; output channel ``o`` reads the input channels of group ``o // (O // groups)`` (depthwise: ``groups == C``).
``fully_connected``: x ``[N,T,F,C]``, weight ``[O,C]``, bias int32 ``[O]``, on the last axis.
``add``, ``sub``, ``mul``: two tensors of one shape, or with sizes of 1 where the other has more: a bin for all bins, a
channel for all channels, a frame for all frames of its step (a constant's: of every step).
``mean_frequency``: ``[N,T,F,C] -> [N,T,1,C]``. ``merge_frequency``: ``[N,T,F,C] -> [N,T,1,F*C]``, F major.
``concat``, ``slice``: ``axis`` 1 (time), 2 (frequency) or 3 (channels), all tensors share quantization; on time
``start`` and ``stop`` count from the end: ``start < 0`` and ``stop`` is ``<= 0`` with 0 meaning the end; on the others
they are plain indices.
``relu``, ``clamp``: ``low``/``high`` are codes; input and output share quantization. ``relu: true`` on another
operation clamps at the output's zero point.
``sigmoid``, ``tanh``, ``softmax`` (last axis): codes to codes. ``quantize``: float32 to codes; ``dequantize``: codes
or a float16 constant to float32; ``requantize``: codes to codes of other parameters.
Codes are int8, or int16 with zero point 0. A conv, fully_connected, add, sub, mul, mean_frequency, merge_frequency,
concat, slice, relu, sigmoid, tanh or softmax whose tensors are float32 is a float island; its weights and biases are
float32 constants, or constants of int8, int32 or float16 widened by ``dequantize`` (per channel where they are).
"""

DTYPES = ("int8", "int16", "int32", "float16", "float32")
"""Types of tensors; float16 is for stored constants, nothing computes in it."""

_REALS = frozenset({"float16", "float32"})


class Tensor(Record):
    """One edge of the graph."""

    name: str
    """Unique in the graph."""
    shape: tuple[int, ...]
    """``(N, T, F, C)`` for activations and states (N is 1); as listed in :data:`KINDS` for constants."""
    dtype: str
    """One of :data:`DTYPES`."""
    quant: QuantParams | None = None
    """None exactly when ``dtype`` is "float32" or "float16"."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError(f"tensor {self.name!r}: dtype={self.dtype!r} must be one of {list(DTYPES)}")
        if (self.quant is None) != (self.dtype in _REALS):
            raise SpecError(
                f"tensor {self.name!r}: dtype={self.dtype!r} and quant={self.quant};"
                " integer tensors have one, float32 and float16 have none"
            )
        if self.quant is not None and self.quant.dtype != self.dtype:
            raise SpecError(
                f"tensor {self.name!r}: dtype={self.dtype!r} but its quantization says {self.quant.dtype!r}"
            )
        if any(size < 1 for size in self.shape):
            raise SpecError(f"tensor {self.name!r}: shape={self.shape} must have sizes >= 1")

    @property
    def zero_code(self) -> int:
        """The code (or value) that stands for real 0."""
        return 0 if self.quant is None else self.quant.zero_point


class Op(Record):
    """One operation; ``kind`` and ``attrs`` as in :data:`KINDS`."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    """Where it came from, for reports; need not be unique."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"operation kind={self.kind!r} is not in the integer graph; it has {sorted(KINDS)}")
        unknown = sorted(set(self.attrs) - KINDS[self.kind])
        if unknown:
            raise SpecError(f"operation {self.kind!r}: unknown attributes {unknown}; it has {sorted(KINDS[self.kind])}")
        frozen = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in self.attrs.items()}
        object.__setattr__(self, "attrs", MappingProxyType(frozen))


class StateSpec(Record):
    """A tensor carried from step to step: written by ``output``, read as ``input`` one step later."""

    name: str
    input: str
    """Tensor that holds the state when a step begins; same shape, dtype and quantization as ``output``."""
    output: str
    """Tensor that holds it when the step ends."""
    initial: int | float
    """Value that fills it after a reset: the zero point (real 0 for float32)."""


class IntegerGraph(Record):
    """A validated graph: one feature input, one logits output, any number of states."""

    name: str
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, npt.NDArray[Any]]
    """Data of the tensors that are weights, biases or other constants."""
    ops: tuple[Op, ...]
    """In an order in which they can run."""
    input: str
    """Features, ``[1, step_frames, F, C]``."""
    output: str
    """Logits, ``[1, outputs_per_step, 1, n_labels]``."""
    states: tuple[StateSpec, ...] = ()
    requantization: str = "fp32"

    def __post_init__(self) -> None:
        if self.requantization not in REQUANTIZATIONS:
            raise SpecError(f"requantization={self.requantization!r} must be one of {list(REQUANTIZATIONS)}")
        self._check_constants()
        self._check_order()
        self._check_states()

    def _check_constants(self) -> None:
        for name, data in self.constants.items():
            tensor = self._tensor(name, "a constant")
            if tuple(data.shape) != tensor.shape or data.dtype != np.dtype(tensor.dtype):
                have, wanted = f"{data.dtype}{list(data.shape)}", f"{tensor.dtype}{list(tensor.shape)}"
                raise SpecError(f"constant {name!r}: data is {have}, the tensor {wanted}")
        computed = [t.name for t in self.tensors.values() if t.dtype == "float16" and t.name not in self.constants]
        if computed:
            raise SpecError(f"tensors {computed} are float16 and no constants; compute in float32 and store in float16")

    def _check_order(self) -> None:
        known = {self.input, *self.constants, *(s.input for s in self.states)}
        for op in self.ops:
            for name in op.inputs:
                self._tensor(name, f"operation {op.kind!r}")
                if name not in known:
                    raise SpecError(f"operation {op.kind!r} reads {name!r} before anything wrote it")
            for name in op.outputs:
                self._tensor(name, f"operation {op.kind!r}")
                if name in known:
                    raise SpecError(f"tensor {name!r} is written twice")
                known.add(name)
        for name in (self.output, *(state.output for state in self.states)):
            if name not in known:
                raise SpecError(f"output {name!r} is written by no operation")

    def _check_states(self) -> None:
        for state in self.states:
            before, after = self._tensor(state.input, "a state"), self._tensor(state.output, "a state")
            if (before.shape, before.dtype, before.quant) != (after.shape, after.dtype, after.quant):
                raise SpecError(
                    f"state {state.name!r}: {state.input!r} and {state.output!r}"
                    " must share shape, dtype and quantization"
                )
            if state.initial != before.zero_code:
                zero_code = before.zero_code
                raise SpecError(f"state {state.name!r}: initial={state.initial} must be the zero point {zero_code}")

    def _tensor(self, name: str, who: str) -> Tensor:
        if name not in self.tensors:
            raise SpecError(f"{who} names tensor {name!r}, which the graph does not have")
        return self.tensors[name]

    @property
    def input_tensor(self) -> Tensor:
        """Feature input."""
        return self.tensors[self.input]

    @property
    def output_tensor(self) -> Tensor:
        """Logits output."""
        return self.tensors[self.output]

    @property
    def step_frames(self) -> int:
        """Feature frames one network step consumes."""
        return self.input_tensor.shape[1]

    @property
    def outputs_per_step(self) -> int:
        """Logit vectors one network step yields."""
        return self.output_tensor.shape[1]
