"""The fixed-point front end in C, called through ctypes: the same integers as the numpy one, in a tenth of the time."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.features import MicrofrontendSpec
from edgeaudio_runtime.microfrontend import SPLIT, TWIDDLES, tables_of
from edgeaudio_runtime.native import load_library
from edgeaudio_runtime.samples import INT16_SCALE

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_INT32_FIELDS = ("win_length", "hop_length", "n_mels", "has_gain", "first_bin", "end_bin")
_POINTERS = ("window", "twiddles", "split", "weights", "rest", "channels", "gain", "log", "noise", "scratch")


class _Struct(ctypes.Structure):
    """``edgeaudio_micro`` of the C source."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _INT32_FIELDS),
        ("smoothing", ctypes.c_int32 * 2),
        ("remaining", ctypes.c_int32),
        ("output_scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


def native_function() -> Any | None:
    """The C function, or None where it was not built."""
    library = load_library()
    function = getattr(library, "edgeaudio_micro_features", None)
    if function is not None:
        pointer = ctypes.c_void_p
        function.restype, function.argtypes = None, (pointer, pointer, ctypes.c_double, ctypes.c_int32, pointer)
    return function


class NativeMicrofrontend:
    """Features of the frames that lie in one buffer of samples, in order; not for use from two threads at once.

    Args:
        spec: What to compute.
        buffer: Samples, float64; slot j of the frame grid starts at ``j * hop_length``.
        sample_scale: Factor that brings the samples to full scale at -1..1.
        function: From :func:`native_function`.
    """

    def __init__(self, spec: MicrofrontendSpec, buffer: Float64, sample_scale: float, function: Any) -> None:
        self._function, self._buffer, self._n_mels = function, buffer, spec.n_mels
        self._first, self._slot_bytes = buffer.ctypes.data, spec.hop_length * buffer.itemsize
        self._arrays = _arrays(spec)
        self._struct = _struct(spec, self._arrays)
        self._front_end = ctypes.byref(self._struct)
        self.set_sample_scale(sample_scale)

    def reset(self) -> None:
        """Forget the noise."""
        self._arrays["noise"].fill(0)

    def set_sample_scale(self, sample_scale: float) -> None:
        """From now on, samples times ``sample_scale`` have full scale at -1..1."""
        self._to_int16 = sample_scale / INT16_SCALE

    def features(self, first: int, n: int) -> Float32:
        """Features ``[n, n_mels]`` of the frames in slots ``first`` to ``first + n``, which come next."""
        features = np.empty((n, self._n_mels), dtype=np.float32)
        start = self._first + first * self._slot_bytes
        self._function(self._front_end, start, self._to_int16, n, features.ctypes.data)
        return features


def _arrays(spec: MicrofrontendSpec) -> dict[str, npt.NDArray[Any]]:
    tables = tables_of(spec)
    channels, weights, rest = tables.shares
    int16 = {"window": tables.window[:, 0], "twiddles": TWIDDLES, "split": SPLIT, "weights": weights, "rest": rest,
             "channels": channels, "gain": tables.gain}  # fmt: skip
    return {
        **{name: np.ascontiguousarray(array, dtype=np.int16) for name, array in int16.items()},
        "log": tables.log.astype(np.int32),
        "noise": np.zeros(spec.n_mels, dtype=np.uint32),
        "scratch": np.zeros(spec.n_mels + 2, dtype=np.uint64),
    }


def _struct(spec: MicrofrontendSpec, arrays: dict[str, npt.NDArray[Any]]) -> _Struct:
    tables = tables_of(spec)
    even, odd = np.resize(tables.smoothing, 2) if spec.n_mels > 1 else (tables.smoothing[0], 0)
    return _Struct(
        win_length=spec.win_length, hop_length=spec.hop_length, n_mels=spec.n_mels, has_gain=spec.pcan,
        first_bin=tables.bins.start, end_bin=tables.bins.stop, smoothing=(int(even), int(odd)),
        remaining=tables.remaining, output_scale=spec.output_scale,
        **{name: array.ctypes.data for name, array in arrays.items()},
    )  # fmt: skip
