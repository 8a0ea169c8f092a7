"""From frames of samples to features: the arithmetic of the front end, in scratch memory allocated once.

Window and FFT run in float64, mel and logarithm in float32: within 1e-6 nats of all-float64, where all-float32 strays
to 2.5e-4 and further on silence.
Every step treats each frame by itself, so a frame comes out bit for bit the same in whatever block it is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime import filterbanks
from edgeaudio_runtime.features import MelSpec

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_RFFT_HAS_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"

_LOG_FACTORS = {"ln": 1.0, "log10": 1.0 / np.log(10.0), "10log10": 10.0 / np.log(10.0), "none": 1.0}


class FrameTransform:
    """Computes up to ``block_frames`` frames a call; not for use from two threads at once."""

    def __init__(self, spec: MelSpec, block_frames: int) -> None:
        self.spec = spec
        self.block_frames = block_frames
        filterbank = filterbanks.mel_filterbank(spec)
        self._bins = filterbanks.support(filterbank)
        # The spectrum's own scale costs nothing when it is part of the weights.
        self._mel = np.ascontiguousarray(filterbank[self._bins] * spec.spectrum_scale, dtype=np.float32)
        self._dct = filterbanks.dct_matrix(spec).astype(np.float32) if spec.n_dct else None
        self._window = filterbanks.window(spec)
        self._scalars(spec)
        self._allocate(spec, block_frames, n_bins=self._mel.shape[0])

    def _scalars(self, spec: MelSpec) -> None:
        # float32 scalars, decided once: a Python float would be converted on every call.
        self._floor = np.float32(spec.log_floor)
        self._log_factor = np.float32(_LOG_FACTORS[spec.log])
        self._offset = np.float32(spec.affine_offset)
        self._scale = np.float32(spec.affine_scale)
        self._emphasizes = spec.preemphasis > 0 and spec.preemphasis_scope == "frame"
        self._clamps = spec.clamp_min is not None or spec.clamp_max is not None

    def _allocate(self, spec: MelSpec, block_frames: int, n_bins: int) -> None:
        self._padded = np.zeros((block_frames, spec.n_fft))
        self._windowed = self._padded[:, : spec.win_length]
        self._spectrum = np.empty((block_frames, spec.n_fft // 2 + 1), dtype=np.complex128)
        self._used_bins = self._spectrum[:, self._bins]
        self._parts = np.empty((block_frames, n_bins), dtype=np.complex64)
        self._squares = self._parts.view(np.float32)
        self._real_squares, self._imag_squares = self._squares[:, ::2], self._squares[:, 1::2]
        self._power = np.empty((block_frames, 1, n_bins), dtype=np.float32)
        self._power_rows = self._power[:, 0]
        self._log_mel = np.empty((block_frames, spec.n_mels), dtype=np.float32)

    def features(self, frames: Float64, out: Float32) -> None:
        """Write the features of ``frames`` ``[n, win_length]``, n <= block_frames, into ``out`` ``[n, n_features]``."""
        log_mel = out if self._dct is None else self._log_mel[: len(frames)]
        self.log_mel(frames, log_mel)
        self.finish(log_mel, out)

    def log_mel(self, frames: Float64, out: Float32) -> None:
        """Write the log-mels of ``frames`` ``[n, win_length]``, n <= block_frames, into ``out`` ``[n, n_mels]``."""
        n = len(frames)
        self._window_frames(frames, n)
        self._power_spectrum(n)
        # One row-vector product a frame: a whole-matrix product would round differently for different n.
        np.matmul(self._power[:n], self._mel, out=out[:, None, :])
        if self.spec.log == "none":
            return
        if self.spec.log_floor_mode == "add":
            np.add(out, self._floor, out=out)
        else:
            np.maximum(out, self._floor, out=out)
        np.log(out, out=out)
        if self.spec.log != "ln":
            np.multiply(out, self._log_factor, out=out)

    def finish(self, log_mel: Float32, out: Float32) -> None:
        """Clamp, DCT and affine: ``log_mel`` ``[n, n_mels]`` into ``out`` ``[n, n_features]``, without DCT in place."""
        if self._clamps:
            np.clip(log_mel, self.spec.clamp_min, self.spec.clamp_max, out=log_mel)
        if self._dct is not None:
            np.matmul(log_mel[:, None, :], self._dct, out=out[:, None, :])
        if self._offset:
            np.add(out, self._offset, out=out)
        if self._scale != 1:
            np.multiply(out, self._scale, out=out)

    def _window_frames(self, frames: Float64, n: int) -> None:
        windowed = self._windowed[:n]
        if self.spec.dc_removal == "none" and not self._emphasizes:
            np.multiply(frames, self._window, out=windowed)
            return
        np.copyto(windowed, frames)
        if self.spec.dc_removal == "frame":
            windowed -= windowed.mean(axis=1, keepdims=True)
        if self._emphasizes:
            preemphasize(windowed, self.spec)
        windowed *= self._window

    def _power_spectrum(self, n: int) -> None:
        if _RFFT_HAS_OUT:
            np.fft.rfft(self._padded[:n], out=self._spectrum[:n])
        else:
            self._spectrum[:n] = np.fft.rfft(self._padded[:n])
        np.copyto(self._parts[:n], self._used_bins[:n], casting="same_kind")
        squares = self._squares[:n]
        np.multiply(squares, squares, out=squares)
        power = self._power_rows[:n]
        np.add(self._real_squares[:n], self._imag_squares[:n], out=power)
        if self.spec.power == 1:
            np.sqrt(power, out=power)


def preemphasize(signals: npt.NDArray[Any], spec: MelSpec, previous: float | None = None) -> None:
    """``x[n] - c * x[n-1]`` in place along the last axis.

    Args:
        signals: Samples, ``[..., n]`` with n >= 1.
        spec: Gives c and, for the start of a frame or stream, what stands before ``x[0]``.
        previous: The sample before ``x[0]``; None at the start.
    """
    before = signals[..., :-1] * spec.preemphasis
    if previous is not None:
        signals[..., 0] -= previous * spec.preemphasis
    elif spec.preemphasis_first == "self":
        signals[..., 0] -= signals[..., 0] * spec.preemphasis
    signals[..., 1:] -= before
