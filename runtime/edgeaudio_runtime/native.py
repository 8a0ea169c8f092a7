"""The frame transform in C, called through ctypes: the same specification, the same tables, its own arithmetic.

The library is built with the wheel (from ``runtime/native``) where there is a compiler; where it is missing or
does not load, the numpy transform does the work. All of it runs in float64 with one fixed order of every sum, so its
bits depend on the tables and the samples alone.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime import filterbanks
from edgeaudio_runtime.errors import EngineError
from edgeaudio_runtime.features import MelSpec
from edgeaudio_runtime.frame_transform import LOG_FACTORS

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LIBRARY = os.path.join(os.path.dirname(__file__), "native_front_end.so")
"""Where the build puts the library, whatever the platform calls one."""

LIBRARY_VERSION = 8
"""``EDGEAUDIO_VERSION`` of the C source; a library of another version, left over from before, is not used."""

LANES = 4
"""Bins in a group: ``LANES`` in the C source; bands are padded to whole groups with weight 0."""

LARGEST_RADIX = 13
"""Largest prime factor of ``n_fft / 2`` that the C transform is used for; it costs its square."""

_LINE_BYTES = 64

_BEYOND = 1e300  # clamps nothing

_INT32_FIELDS = (
    "win_length", "hop_length", "half", "n_passes", "first_bin", "n_bins", "n_mels", "n_dct",
    "removes_dc", "magnitude", "has_log", "adds_floor",
)  # fmt: skip
_DOUBLE_FIELDS = (
    "preemphasis", "first_preemphasis", "log_floor", "log_factor", "clamp_min", "clamp_max",
    "affine_offset", "affine_scale",
)  # fmt: skip
_POINTER_FIELDS = (
    "window", "radices", "twiddles", "roots", "unpack", "band_start", "band_groups", "band_weights", "dct", "scratch",
)  # fmt: skip

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...] | None]] = {
    "edgeaudio_scratch_doubles": (ctypes.c_int32, (ctypes.c_void_p,)),
    "edgeaudio_features": (None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)),
    "edgeaudio_push": (ctypes.c_int32, None),
    "edgeaudio_push_real": (ctypes.c_int32, None),
    "edgeaudio_next": (ctypes.c_int32, None),
    "edgeaudio_after": (ctypes.c_int32, None),
    "edgeaudio_take": (ctypes.c_int32, None),
    "edgeaudio_level": (ctypes.c_int32, ()),
    "edgeaudio_run": (None, None),
}
"""Result and arguments of what is called; None where a ``c_void_p`` made once comes first and numbers are C's int:
ctypes takes these as they are, in half the time."""


class CopyStruct(ctypes.Structure):
    """``edgeaudio_copy`` of the C source."""

    _fields_ = (("source", ctypes.c_void_p), ("target", ctypes.c_void_p), ("n_bytes", ctypes.c_int64))


class _FrontEndStruct(ctypes.Structure):
    """``edgeaudio_front_end`` of the C source."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _INT32_FIELDS),
        *((name, ctypes.c_double) for name in _DOUBLE_FIELDS),
        *((name, ctypes.c_void_p) for name in _POINTER_FIELDS),
    )


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """The library, or None where it was not built or does not load here."""
    return open_library(LIBRARY)


def open_library(path: str | os.PathLike[str]) -> ctypes.CDLL | None:
    """The library at ``path`` with its functions declared, or None where it is missing, broken or another's."""
    try:
        library = ctypes.CDLL(os.fspath(path))
        if library.edgeaudio_version() != LIBRARY_VERSION:
            return None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


def aligned_zeros(n: int) -> Float64:
    """``n`` zeros at the start of a cache line: vectors that lie across two take twice as long."""
    room = np.zeros(n + _LINE_BYTES // 8)
    first = -room.ctypes.data % _LINE_BYTES // 8
    return room[first : first + n]


def native_covers(spec: MelSpec) -> bool:
    """Whether the C transform computes ``spec``: all but FFT lengths with a large prime factor."""
    return max(fft_radices(spec.n_fft // 2), default=1) <= LARGEST_RADIX


def fft_radices(length: int) -> tuple[int, ...]:
    """Factors of ``length``, one a pass: fours first, then a two, then odd primes, rising."""
    radices, rest = [], length
    for radix in (4, 2, *range(3, length + 1, 2)):
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix
        if rest == 1:
            break
    return tuple(radices)


class _Tables:
    """The constants of a specification in the order the C source reads them."""

    def __init__(self, spec: MelSpec) -> None:
        half, filterbank = spec.n_fft // 2, filterbanks.mel_filterbank(spec) * spec.spectrum_scale
        bins = filterbanks.support(filterbank)
        self.first_bin = bins.start
        # Half, because the C source adds where the unpacking of a real spectrum takes means.
        self.window = 0.5 * filterbanks.window(spec) * spec.input_scale
        self.radices = np.array(fft_radices(half), dtype=np.int32)
        self.twiddles, self.roots = _twiddles(half)
        self.band_start, self.band_groups, self.band_weights = _bands(filterbank[bins])
        self.n_bins = int(np.max(self.band_start + LANES * self.band_groups))
        self.unpack = _unpacking(spec.n_fft)
        self.dct = np.ascontiguousarray(filterbanks.dct_matrix(spec))


@lru_cache(maxsize=8)
def _tables(spec: MelSpec) -> _Tables:
    # They are read only, so every stream of a specification shares them.
    return _Tables(spec)


def _turns(numerators: npt.NDArray[np.int64], denominator: int) -> Float64:
    """Cosines, then sines, of ``-2 pi numerators / denominator``, flat."""
    # Reduced first: a large angle would lose bits.
    angle = -2.0 * np.pi * (numerators % denominator) / denominator
    return np.concatenate((np.cos(angle).ravel(), np.sin(angle).ravel()))


def _unpacking(n_fft: int) -> Float64:
    cosine, sine = _turns(np.arange(n_fft // 2 + 1), n_fft).reshape(2, -1)
    # Mirrored to the bit, so that C may have one bin of a mirrored pair from the other.
    n = n_fft // 4
    if n_fft % 4 == 0:
        cosine[n] = 0.0
    cosine[cosine.size - n :], sine[sine.size - n :] = -cosine[:n][::-1], sine[:n][::-1]
    return np.concatenate((cosine, sine))


def _twiddles(length: int) -> tuple[Float64, Float64]:
    twiddles, roots = [np.empty(0)], [np.empty(0)]
    for radix in fft_radices(length):
        twiddles.append(_turns(np.outer(np.arange(1, radix), np.arange(length // radix)), length))
        if radix not in (2, 4):
            roots.append(_turns(np.arange(radix), radix))
        length //= radix
    return np.concatenate(twiddles), np.concatenate(roots)


def _bands(filterbank: Float64) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64]:
    """First bin, number of groups and weights of every triangle of ``filterbank [n_bins, n_mels]``."""
    starts, groups, weights = [], [], []
    for band in filterbank.T:
        own = filterbanks.support(band[:, None])
        n_groups = -(-(own.stop - own.start) // LANES)
        starts.append(own.start)
        groups.append(n_groups)
        weights.append(np.pad(band[own], (0, n_groups * LANES - (own.stop - own.start))))
    return np.array(starts, dtype=np.int32), np.array(groups, dtype=np.int32), np.concatenate(weights)


class NativeTransform:
    """Computes the frames that lie in one buffer of samples, by C; not for use from two threads at once.

    Args:
        spec: What to compute; :func:`native_covers` says whether it can be.
        buffer: Samples, float64; slot j of the frame grid starts at ``j * hop_length``.
        block_frames: Largest number of frames in a call.
        sample_scale: Factor, a power of two, that brings the samples to full scale at -1..1.
        library: From :func:`open_library`; None means the one that came with the package.

    Raises:
        EngineError: there is no library.
    """

    def __init__(
        self,
        spec: MelSpec,
        buffer: Float64,
        block_frames: int,
        sample_scale: float,
        library: ctypes.CDLL | None = None,
    ) -> None:
        library = load_library() if library is None else library
        if library is None:
            raise EngineError(
                f"{os.path.basename(LIBRARY)} was not built with this installation; install with a C compiler at hand"
            )
        self._tables = _tables(spec)
        self._window = np.empty(spec.win_length)
        self.set_sample_scale(sample_scale)
        self._buffer, self._features = buffer, np.empty((block_frames, spec.n_features), dtype=np.float32)
        self._struct = _struct(spec, self._tables, self._window)
        self._scratch = aligned_zeros(library.edgeaudio_scratch_doubles(ctypes.byref(self._struct)))
        self._struct.scratch = self._scratch.ctypes.data
        self._compute = library.edgeaudio_features
        # Objects made once; making them takes longer than a frame.
        self._front_end, self._output = ctypes.byref(self._struct), ctypes.c_void_p(self._features.ctypes.data)
        self._first, self._slot_bytes = buffer.ctypes.data, spec.hop_length * buffer.itemsize

    @property
    def address(self) -> int:
        """Address of the ``edgeaudio_front_end``, good while this object lives."""
        return ctypes.addressof(self._struct)

    def set_sample_scale(self, sample_scale: float) -> None:
        """From now on, samples times ``sample_scale``, a power of two, have full scale at -1..1."""
        np.multiply(self._tables.window, sample_scale, out=self._window)

    def features(self, first: int, n: int) -> Float32:
        """Features ``[n, n_features]`` of the frames in slots ``first`` to ``first + n``; a new array."""
        self._compute(self._front_end, self._first + first * self._slot_bytes, n, self._output)
        return self._features[:n].copy()


def _struct(spec: MelSpec, tables: _Tables, window: Float64) -> _FrontEndStruct:
    in_frame = spec.preemphasis if spec.preemphasis_scope == "frame" else 0.0
    numbers: dict[str, Any] = {
        "win_length": spec.win_length,
        "hop_length": spec.hop_length,
        "half": spec.n_fft // 2,
        "n_passes": len(tables.radices),
        "first_bin": tables.first_bin,
        "n_bins": tables.n_bins,
        "n_mels": spec.n_mels,
        "n_dct": spec.n_dct,
        "removes_dc": spec.dc_removal == "frame",
        "magnitude": spec.power == 1,
        "has_log": spec.log != "none",
        "adds_floor": spec.log_floor_mode == "add",
        "preemphasis": in_frame,
        "first_preemphasis": in_frame if spec.preemphasis_first == "self" else 0.0,
        "log_floor": spec.log_floor,
        "log_factor": LOG_FACTORS.get(spec.log, 1.0),
        "clamp_min": -_BEYOND if spec.clamp_min is None else spec.clamp_min,
        "clamp_max": _BEYOND if spec.clamp_max is None else spec.clamp_max,
        "affine_offset": spec.affine_offset,
        "affine_scale": spec.affine_scale,
    }
    names = [name for name in _POINTER_FIELDS if name not in ("window", "scratch")]
    addresses = {name: getattr(tables, name).ctypes.data for name in names}
    return _FrontEndStruct(**numbers, **addresses, window=window.ctypes.data)
