"""From samples to events with the C core: one call before and one after each run of the network, and rarely more.

``native/stream.c`` frames the samples, computes features, writes their codes into the network's own input, carries the
states and watches the logits. Steps in which no keyword can reach its threshold wait in memory, and the listener hears
them later, many in one call: how its outputs are cut into calls changes none of its events.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.base import BoundStep, NetworkSignature, Session
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.listener import Listener
from edgeaudio_runtime.native import NativeTransform, load_library
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
"""Sums of probabilities are compared this much below their bound; rounding is a million times smaller."""

_INT16 = np.dtype(np.int16)

_FIELDS = (
    ("n_samples", ctypes.c_int64),
    *((name, ctypes.c_int32) for name in (
        "skip", "buffer_length", "fill", "next_frame", "step_frames", "n_features", "n_logits", "n_labels", "n_copies",
        "capacity", "n_waiting", "always", "n_smoothing", "smoothing_at",
    )),
    *((name, ctypes.c_float) for name in ("scale", "zero_point", "low", "high")),
    ("real_scale", ctypes.c_double), ("real_zero_point", ctypes.c_int32), ("reserved", ctypes.c_int32),
    *((name, ctypes.c_void_p) for name in (
        "front_end", "pcm", "real", "buffer", "input", "logits", "copies", "features", "codes", "powers", "bounds",
        "probabilities",
    )),
)  # fmt: skip


class _StreamStruct(ctypes.Structure):
    """``edgeaudio_stream`` of the C source."""

    _fields_ = _FIELDS


class _CopyStruct(ctypes.Structure):
    """``edgeaudio_copy`` of the C source."""

    _fields_ = (("source", ctypes.c_void_p), ("target", ctypes.c_void_p), ("n_bytes", ctypes.c_int64))


def native_pipeline(
    spec: FeatureSpec, signature: NetworkSignature, session: Session, listener: Listener
) -> NativePipeline | None:
    """The pipeline, or None where the C core does not cover all of it: other features, engines or types.

    The caller has found that C computes ``spec`` (``front_end.choose_implementation``).
    """
    bind: Callable[[], BoundStep | None] | None = getattr(session, "bound_step", None)
    if bind is None or signature.whole or not isinstance(spec, MelSpec):
        return None
    if (signature.input_quant.dtype, signature.output_quant.dtype) != ("int8", "int8"):
        return None
    if spec.preemphasis > 0 and spec.preemphasis_scope == "stream":
        return None
    step = bind()
    return None if step is None else NativePipeline(spec, signature, session, step, listener)


class NativePipeline:
    """One stream; see :class:`~edgeaudio_runtime.stream.AudioStream`."""

    def __init__(
        self, spec: MelSpec, signature: NetworkSignature, session: Session, step: BoundStep, listener: Listener
    ) -> None:
        library = load_library()
        assert library is not None
        self._spec, self._session, self._listener = spec, session, listener
        self._multiple, self._invoke = signature.step_frames, step.invoke
        self._bound_step = step  # keeps the memory of the addresses
        self._struct = _StreamStruct()
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._open_front_end(signature)
        self._open_network(signature, step)
        self._watch = listener.watch
        if self._watch is not None:
            self._open_watch(self._watch, signature)
        self._address = ctypes.addressof(self._struct)
        self._push, self._after, self._next = library.edgeaudio_push, library.edgeaudio_after, library.edgeaudio_next
        self._pcm, self._real = self._arrays["pcm"], self._arrays["real"]
        self._rewind()

    def process(self, samples: Samples) -> list[Event]:
        """See ``AudioStream.process``."""
        if samples.__class__ is not np.ndarray or samples.dtype is not _INT16 or samples.ndim != 1:
            checked_scale(samples)
        n = len(samples)
        if n > _LONGEST_PIECE or samples.dtype.char != "h":
            return self._push_pieces(samples)
        self._pcm[:n] = samples
        ready = self._push(self._address, n, 0)
        if not ready:
            return []
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

    def reset(self) -> None:
        """See ``AudioStream.reset``."""
        self._session.reset()
        self._listener.reset()
        self._rewind()

    def _push_pieces(self, samples: Samples) -> list[Event]:
        is_real = samples.dtype != _INT16
        staged, events = self._real if is_real else self._pcm, list[Event]()
        for first in range(0, len(samples), _LONGEST_PIECE):
            piece = samples[first : first + _LONGEST_PIECE]
            staged[: len(piece)] = piece
            if self._push(self._address, len(piece), int(is_real)):
                self._invoke()
                events += self._go_on(self._after(self._address))
        return events

    def _go_on(self, ready: int) -> list[Event]:
        events: list[Event] = []
        while ready:
            if ready & _LOOK:
                events += self._look()
            if not ready & _STEP:
                break
            self._next(self._address)
            self._invoke()
            ready = self._after(self._address)
        return events

    def _look(self) -> list[Event]:
        n, self._struct.n_waiting = self._struct.n_waiting, 0
        codes = self._arrays["codes"][:n].reshape(-1, self._struct.n_labels).copy()
        events = self._listener.hear(codes, self._arrays["features"][:n].reshape(-1, self._struct.n_features))
        self._struct.always = self._watch is None or not self._listener.is_idle
        return events

    def _rewind(self) -> None:
        struct, spec = self._struct, self._spec
        struct.n_samples = struct.next_frame = struct.n_waiting = struct.smoothing_at = 0
        struct.skip, struct.fill = max(0, spec.first_offset), max(0, -spec.first_offset)
        self._arrays["buffer"][: struct.fill] = 0.0
        struct.always = self._watch is None
        if self._watch is not None:
            self._arrays["probabilities"][:] = 0.0

    def _open_front_end(self, signature: NetworkSignature) -> None:
        struct, spec = self._struct, self._spec
        struct.step_frames, struct.n_features = signature.step_frames, signature.n_features
        waiting = spec.win_length - 1 + (signature.step_frames - 1) * spec.hop_length + max(0, -spec.first_offset)
        struct.buffer_length = waiting + 2 * _LONGEST_PIECE  # twice, so that it is compacted less often
        buffer = self._array("buffer", (struct.buffer_length,), np.float64)
        self._transform = NativeTransform(spec, buffer, 1, INT16_SCALE)
        struct.front_end = self._transform.address
        self._array("pcm", (_LONGEST_PIECE,), np.int16)
        self._array("real", (_LONGEST_PIECE,), np.float32)
        quant = signature.input_quant
        struct.scale, struct.zero_point = quant.scale[0], quant.zero_point
        struct.low, struct.high = quant.low, quant.high

    def _open_network(self, signature: NetworkSignature, step: BoundStep) -> None:
        struct, n_values = self._struct, signature.step_frames * signature.n_features
        struct.n_labels, struct.n_logits = signature.n_labels, signature.outputs_per_step * signature.n_labels
        struct.capacity = max(1, min(_MOST_WAITING, _MOST_WAITING_VALUES // n_values))
        self._array("features", (struct.capacity, n_values), np.float32)
        self._array("codes", (struct.capacity, struct.n_logits), np.int8)
        struct.input, struct.logits, struct.n_copies = step.features, step.logits, len(step.carried)
        self._copies = (_CopyStruct * len(step.carried))(*step.carried)
        struct.copies = ctypes.addressof(self._copies)

    def _open_watch(self, watch: Watch, signature: NetworkSignature) -> None:
        struct, quant = self._struct, signature.output_quant
        struct.n_smoothing = watch.n_smoothing
        if watch.is_probability:
            struct.real_scale, struct.real_zero_point = quant.scale[0], quant.zero_point
        self._array("powers", (256,), np.float64)[: quant.high - quant.low + 1] = softmax_table(quant)
        bounds = np.array(watch.thresholds) * (watch.n_smoothing * (1.0 - _BOUND_MARGIN))
        self._array("bounds", bounds.shape, np.float64)[:] = bounds
        self._array("probabilities", (watch.n_smoothing, signature.n_labels), np.float64)

    def _array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of zeros whose address goes into the structure."""
        array: npt.NDArray[Any] = np.zeros(shape, dtype)
        self._arrays[name] = array
        setattr(self._struct, name, array.ctypes.data)
        return array
