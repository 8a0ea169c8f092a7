"""From samples to events with the C core: a call or two for each network step, and rarely more.

``native/stream.c`` frames the samples, computes features, writes their codes into the network's own input, runs the
network or carries its states, and watches the logits. Steps in which no keyword can reach its threshold wait in memory,
and the listener hears them later, many in one call: how its outputs are cut into calls changes none of its events.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.base import BoundStep, NetworkSignature, Session
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.front_end import FrontEnd, Implementation, choose_implementation
from edgeaudio_runtime.listener import Listener
from edgeaudio_runtime.native import CopyStruct, NativeTransform, load_library
from edgeaudio_runtime.probabilities import Watch, softmax_table
from edgeaudio_runtime.samples import INT16_SCALE, Samples, checked_scale
from edgeaudio_runtime.whole_recording import end_of_frames, padded_frames

_STEP, _LOOK = 1, 2

_MOST_WAITING = 64
"""Steps that may wait to be heard; as many as the detector looks at together."""
_MOST_WAITING_VALUES = 2**18
"""Feature values that may wait; 1 MB."""
_LONGEST_PIECE = 4096
"""Samples pushed in one call, at most; longer chunks are cut."""
_BOUND_MARGIN = 1e-9
"""Sums of probabilities are compared this much on the safe side; rounding is a million times smaller."""

_ARRAY, _INT16 = np.ndarray, np.dtype(np.int16)

_FIELDS: tuple[tuple[str, Any], ...] = (
    ("n_samples", ctypes.c_int64), ("n_passed", ctypes.c_int64),
    *((name, ctypes.c_int32) for name in (
        "skip", "buffer_length", "fill", "next_frame", "step_frames", "n_features", "n_logits", "n_labels", "n_copies",
        "capacity", "n_waiting", "always", "n_smoothing", "smoothing_at",
    )),
    *((name, ctypes.c_float) for name in ("scale", "zero_point", "low", "high")),
    ("real_scale", ctypes.c_double), ("real_zero_point", ctypes.c_int32), ("n_kept", ctypes.c_int32),
    *((name, ctypes.c_void_p) for name in (
        "front_end", "buffer", "input", "logits", "copies", "features", "codes", "powers", "bounds",
        "releases", "latched", "probabilities", "network",
    )),
)  # fmt: skip


class _StreamStruct(ctypes.Structure):
    """``edgeaudio_stream`` of the C source."""

    _fields_ = _FIELDS


class FeatureSource(Protocol):
    """What a stream gets its features from: a front end, or what stands for one."""

    def process(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Features ``[n_frames, n_features]`` that the next samples complete."""
        ...

    def flush(self, multiple_of: int = 1) -> npt.NDArray[np.float32]:
        """The outstanding ones; then as after :meth:`reset`."""
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...


def native_pipeline(
    spec: FeatureSpec,
    signature: NetworkSignature,
    session: Session,
    listener: Listener,
    front_end: Implementation,
    source: FeatureSource | None = None,
) -> SamplePipeline | FeaturePipeline | None:
    """The pipeline, or None where the C core cannot be had or does not fit this engine or these types.

    With ``source`` the features come from there.

    Raises:
        SpecError: ``front_end`` is unknown or cannot be had.
    """
    # What does not fit together is refused elsewhere, in words; here it would be memory that is not ours.
    fits = (
        spec.streamable
        and not signature.whole
        and spec.n_features == signature.n_features
        and signature.input_quant.dtype == signature.output_quant.dtype == "int8"
        and (listener.watch is None or len(listener.watch.thresholds) == signature.n_labels)
    )
    step: BoundStep | None = session.bound_step() if fits and hasattr(session, "bound_step") else None
    if step is None or load_library() is None:
        return None
    if source is not None:
        return FeaturePipeline(source, signature, session, step, listener)
    chosen = choose_implementation(spec, front_end)
    if (
        chosen == "native"
        and isinstance(spec, MelSpec)
        and not (spec.preemphasis and spec.preemphasis_scope == "stream")
    ):
        return SamplePipeline(spec, signature, session, step, listener)
    source = FrontEnd(spec, multiple_of=signature.step_frames, implementation=chosen)
    return FeaturePipeline(source, signature, session, step, listener)


class _Pipeline:
    """What both have: a network with its codes and states, the steps that wait, and the watch over its logits."""

    def __init__(self, signature: NetworkSignature, session: Session, step: BoundStep, listener: Listener) -> None:
        library = load_library()
        assert library is not None
        self._session, self._listener, self._multiple = session, listener, signature.step_frames
        self._step = step  # keeps the memory of the addresses
        self._invoke, self._runs_in_c = step.invoke, step.network != 0
        self._struct, self._arrays = _StreamStruct(), dict[str, npt.NDArray[Any]]()
        self._watch = listener.watch
        self._open_network(signature, step)
        if self._watch is not None:
            self._open_watch(self._watch, signature)
        self._address = ctypes.c_void_p(ctypes.addressof(self._struct))
        self._push, self._push_real = library.edgeaudio_push, library.edgeaudio_push_real
        self._after, self._next = library.edgeaudio_after, library.edgeaudio_next
        self._take = library.edgeaudio_take

    def reset(self) -> None:
        """See ``AudioStream.reset``."""
        self._session.reset()
        self._listener.reset()
        self._rewind()

    def _look(self) -> list[Event]:
        struct = self._struct
        n, struct.n_waiting = struct.n_waiting, 0
        if self._watch is None or not n:
            return self._hear(0, n)
        # The newest step may fire; those before it cannot.
        if n > 1:
            self._listener.pass_over(*self._waiting(0, n - 1), n_before=struct.n_passed)
            struct.n_passed = 0
        events = self._hear(n - 1, n)
        self._arrays["latched"][:] = self._listener.latched
        struct.always = not self._listener.is_idle
        return events

    def _hear(self, first: int, end: int) -> list[Event]:
        return self._listener.hear(*self._waiting(first, end)) if first < end else []

    def _waiting(self, first: int, end: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        codes = self._arrays["codes"][first:end].reshape(-1, self._struct.n_labels).copy()
        return codes, self._arrays["features"][first:end].reshape(-1, self._struct.n_features)

    def _rewind(self) -> None:
        struct = self._struct
        struct.n_samples = struct.next_frame = struct.fill = struct.smoothing_at = 0
        struct.n_waiting = struct.n_passed = 0
        struct.always = self._watch is None
        if self._watch is not None:
            self._arrays["probabilities"][:] = 0.0
            self._arrays["latched"][:] = 0

    def _open_network(self, signature: NetworkSignature, step: BoundStep) -> None:
        struct, quant = self._struct, signature.input_quant
        struct.step_frames, struct.n_features = signature.step_frames, signature.n_features
        struct.scale, struct.zero_point = quant.scale[0], quant.zero_point
        struct.low, struct.high = quant.low, quant.high
        n_values = signature.step_frames * signature.n_features
        struct.n_labels, struct.n_logits = signature.n_labels, signature.outputs_per_step * signature.n_labels
        memory = None if self._watch is None else self._watch.memory_steps
        struct.capacity = max(1, min(max(_MOST_WAITING, 2 * (memory or 0)), _MOST_WAITING_VALUES // n_values))
        struct.n_kept = memory if memory and 2 * memory <= struct.capacity else 0
        self._array("features", (struct.capacity, n_values), np.float32)
        self._array("codes", (struct.capacity, struct.n_logits), np.int8)
        struct.input, struct.logits, struct.network = step.features, step.logits, step.network
        self._copies = (CopyStruct * len(step.carried))(*(CopyStruct(*copy) for copy in step.carried))
        struct.copies, struct.n_copies = ctypes.addressof(self._copies), len(step.carried)

    def _open_watch(self, watch: Watch, signature: NetworkSignature) -> None:
        struct, quant = self._struct, signature.output_quant
        struct.n_smoothing = watch.n_smoothing
        if watch.is_probability:
            struct.real_scale, struct.real_zero_point = quant.scale[0], quant.zero_point
        self._array("powers", (256,), np.float64)[:] = softmax_table(replace(quant, qmin=None))
        shape = (signature.n_labels,)
        self._array("bounds", shape, np.float64)[:] = watch.thresholds
        self._array("releases", shape, np.float64)[:] = watch.releases
        self._arrays["bounds"] *= watch.n_smoothing * (1.0 - _BOUND_MARGIN)
        self._arrays["releases"] *= watch.n_smoothing * (1.0 + _BOUND_MARGIN)
        self._array("latched", shape, np.uint8)
        self._array("probabilities", (watch.n_smoothing, signature.n_labels), np.float64)

    def _array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of zeros whose address goes into the structure."""
        array: npt.NDArray[Any] = np.zeros(shape, dtype)
        self._arrays[name] = array
        setattr(self._struct, name, array.ctypes.data)
        return array


class SamplePipeline(_Pipeline):
    """One stream with the front end in C; see :class:`~edgeaudio_runtime.stream.AudioStream`."""

    def __init__(
        self, spec: MelSpec, signature: NetworkSignature, session: Session, step: BoundStep, listener: Listener
    ) -> None:
        super().__init__(signature, session, step, listener)
        self._spec = spec
        waiting = spec.win_length - 1 + (signature.step_frames - 1) * spec.hop_length + max(0, -spec.first_offset)
        self._struct.buffer_length = waiting + 2 * _LONGEST_PIECE  # twice, so that it is compacted less often
        buffer = self._array("buffer", (self._struct.buffer_length,), np.float64)
        self._transform = NativeTransform(spec, buffer, 1, INT16_SCALE)
        self._struct.front_end = self._transform.address
        self._rewind()

    def process(self, samples: Samples) -> list[Event]:
        """See ``AudioStream.process``."""
        if samples.__class__ is not _ARRAY or samples.dtype is not _INT16 or samples.ndim != 1:
            checked_scale(samples)
            return self._push_pieces(samples)
        n = len(samples)
        if n > _LONGEST_PIECE:
            return self._push_pieces(samples)
        ready = self._push(self._address, samples.tobytes(), n)  # ctypes takes bytes sooner than an address
        if ready and not self._runs_in_c:
            self._invoke()
            ready = self._after(self._address)
        return self._go_on(ready) if ready else []

    def flush(self) -> list[Event]:
        """See ``AudioStream.flush``."""
        spec, n_samples = self._spec, int(self._struct.n_samples)
        end = end_of_frames(spec, padded_frames(spec, n_samples, self._multiple))
        events = self._push_pieces(np.zeros(max(0, end - n_samples), dtype=np.int16))
        events += [*self._look(), *self._listener.finish()]
        self.reset()
        return events

    def _push_pieces(self, samples: Samples) -> list[Event]:
        push, events = self._push if samples.dtype == _INT16 else self._push_real, list[Event]()
        for first in range(0, len(samples), _LONGEST_PIECE):
            piece = samples[first : first + _LONGEST_PIECE]
            ready = push(self._address, piece.tobytes(), len(piece))
            if ready and not self._runs_in_c:
                self._invoke()
                ready = self._after(self._address)
            events += self._go_on(ready)
        return events

    def _go_on(self, ready: int) -> list[Event]:
        events: list[Event] = []
        while ready:
            if ready & _LOOK:
                events += self._look()
            if not ready & _STEP:
                break
            ready = self._next(self._address)
            if not self._runs_in_c:
                self._invoke()
                ready = self._after(self._address)
        return events

    def _rewind(self) -> None:
        super()._rewind()
        first = self._spec.first_offset
        self._struct.skip, self._struct.fill = max(0, first), max(0, -first)
        self._arrays["buffer"][: max(0, -first)] = 0.0


class FeaturePipeline(_Pipeline):
    """One stream whose features come from elsewhere; the rest is done in C."""

    def __init__(
        self, source: FeatureSource, signature: NetworkSignature, session: Session, step: BoundStep, listener: Listener
    ) -> None:
        super().__init__(signature, session, step, listener)
        self._source = source
        self._slots = self._arrays["features"].reshape(-1, signature.step_frames, signature.n_features)
        self._rewind()

    def process(self, samples: Samples) -> list[Event]:
        """See ``AudioStream.process``."""
        features = self._source.process(samples)
        n = len(features)
        if n != self._multiple:
            return self._take_steps(features) if n else []
        ready = self._take_step(features)
        return self._look() if ready else []

    def flush(self) -> list[Event]:
        """See ``AudioStream.flush``."""
        events = self._take_steps(self._source.flush(multiple_of=self._multiple))
        events += [*self._look(), *self._listener.finish()]
        self.reset()
        return events

    def reset(self) -> None:
        """See ``AudioStream.reset``."""
        self._source.reset()
        super().reset()

    def _take_steps(self, features: npt.NDArray[np.float32]) -> list[Event]:
        events: list[Event] = []
        for step in features.reshape(-1, *self._slots.shape[1:]):
            if self._take_step(step):
                events += self._look()
        return events

    def _take_step(self, features: npt.NDArray[np.float32]) -> int:
        self._slots[self._struct.n_waiting] = features
        ready: int = self._take(self._address)
        if not self._runs_in_c:
            self._invoke()
            ready = self._after(self._address)
        return ready
