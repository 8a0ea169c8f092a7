"""The protocol of an engine: an immutable, shareable program, and a session a stream that owns buffers and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.record import Record

Numerics = Literal["fp32", "tflm", "single", "unspecified"]
"""The requantization rule an engine follows; "unspecified" where its kernels promise none."""

Codes = npt.NDArray[np.integer[Any]]


class NetworkSignature(Record):
    """What goes into a network step and what comes out."""

    step_frames: int
    """Feature frames a step consumes."""
    n_features: int
    """Values in a frame."""
    outputs_per_step: int
    """Logit vectors a step yields."""
    n_labels: int
    """Values in a logit vector."""
    input_quant: QuantParams
    """Quantization of the feature codes."""
    output_quant: QuantParams
    """Quantization of the logit codes."""
    whole: bool = False
    """Whether all steps of a recording belong into one call, which begins and ends it."""


class BoundStep(Record):
    """The memory of a session, for who writes and reads int8 codes there and runs one step at a time.

    A session that offers it has a method ``bound_step() -> BoundStep | None``; all addresses hold while it lives.
    """

    features: int
    """Address of the feature codes ``[step_frames, n_features]``."""
    logits: int
    """Address of the logit codes ``[outputs_per_step, n_labels]``."""
    carried: tuple[tuple[int, int, int], ...]
    """Address a state lies at after a step, address it is read from in the next, and its bytes."""
    invoke: Callable[[], object]
    """Computes one step."""
    network: int = 0
    """Address of the C core's network where it computes the step, which it can do by itself then."""


class Session(Protocol):
    """One stream's run of a program. Not to be shared between threads or streams."""

    def run(self, codes: Codes, /) -> Codes:
        """Feature codes ``[k * step_frames, n_features]`` to logit codes ``[k * outputs_per_step, n_labels]``, k >= 0.

        State is carried on; the result is a new array. Raises SpecError for another shape or dtype.
        """
        ...

    def reset(self) -> None:
        """Set every state to its initial value."""
        ...


class Program(Protocol):
    """A loaded artifact. Immutable; any number of sessions may be opened from it, from any thread."""

    @property
    def engine(self) -> str:
        """One of "numpy", "onnxruntime" and "litert"."""
        ...

    @property
    def numerics(self) -> Numerics:
        """The rule this engine follows here."""
        ...

    @property
    def version(self) -> str:
        """Package name and version that computes."""
        ...

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        ...

    def session(self) -> Session:
        """Open a stream in its initial state."""
        ...
