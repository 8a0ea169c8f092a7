"""From frames of samples to features: the arithmetic of the front end, in scratch memory allocated once.

Window and FFT run in float64, mel and logarithm in float32: within 1e-6 nats of all-float64, where all-float32 strays
to 2.5e-4 and further on silence. Every step treats each frame by itself, so a frame comes out bit for bit the same in
whatever block it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime import filterbanks
from edgeaudio_runtime.features import MelSpec

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def public_rfft(signals: Float64, factor: float, spectrum: npt.NDArray[np.complex128]) -> None:
    """``spectrum[:] = factor * rfft(signals)`` along the last axis, by the public function."""
    np.multiply(np.fft.rfft(signals), factor, spectrum)


@lru_cache(maxsize=1)
def fastest_rfft() -> Callable[..., Any]:
    """``f(signals, factor, spectrum)``: the real FFT of even length along the last axis, into ``spectrum``.

    ``numpy.fft.rfft`` spends as long on its arguments as on a frame; numpy 2 has the transform itself as a ufunc. That
    is no public name, so it is taken only where it is there and gives the same bits. The native front end needs
    neither, so ``numpy.fft`` is not imported before this is asked for.
    """
    import importlib

    signals = np.cos(np.arange(16.0)).reshape(2, 8)
    spectrum = np.zeros((2, 5), dtype=np.complex128)
    try:
        inner: Callable[..., Any] = importlib.import_module("numpy.fft._pocketfft_umath").rfft_n_even
        inner(signals, 1.0, spectrum)
    except (ImportError, AttributeError, TypeError, ValueError):
        return public_rfft
    return inner if np.array_equal(spectrum, np.fft.rfft(signals)) else public_rfft


# Factor on the natural logarithm that gives each ``log``.
LOG_FACTORS = {"ln": 1.0, "log10": 1.0 / np.log(10.0), "10log10": 10.0 / np.log(10.0)}


# Gains from 1 to e**20 take no weight and no floor out of the range of float32.
_LARGEST_FOLDED_NATS = 20.0

Step = tuple[Callable[..., Any], tuple[Any, ...]]


class _Program:
    """The specification as straight numpy calls on scratch memory for n frames; at one frame a call overhead is all."""

    def __init__(self, spec: MelSpec, n: int, weights: _Weights) -> None:
        padded = np.zeros((n, spec.n_fft))
        power = np.empty((n, len(weights.mel)), dtype=np.float32)
        self.windowed = padded[:, : spec.win_length]
        self.mel = np.empty((n, spec.n_mels), dtype=np.float32)
        self.log_mel_steps: list[Step] = [
            *_power_spectrum(spec, padded, power, weights.bins),
            # One row-vector product a frame: a whole-matrix product would round differently for different n.
            (np.matmul, (power[:, None, :], weights.mel, self.mel[:, None, :])),
            *_logarithm(spec, self.mel, weights.gain),
        ]
        self.cepstrum = np.empty((n, spec.n_dct), dtype=np.float32) if spec.n_dct else self.mel
        self.finish_steps = _finish(spec, self.mel, self.cepstrum, weights.dct)
        if spec.affine_offset and weights.gain == 1:
            self.finish_steps.append((np.add, (self.cepstrum, _constant(spec.affine_offset), self.cepstrum)))


class _Weights:
    """The matrices of a specification in the precision they are used in; scales cost nothing as part of them."""

    def __init__(self, spec: MelSpec) -> None:
        filterbank = filterbanks.mel_filterbank(spec)
        self.bins = filterbanks.support(filterbank)
        self.window = filterbanks.window(spec) * spec.input_scale
        self.gain = _offset_as_gain(spec)
        self.mel = np.ascontiguousarray(filterbank[self.bins] * (spec.spectrum_scale * self.gain), dtype=np.float32)
        self.dct = filterbanks.dct_matrix(spec).astype(np.float32)


@lru_cache(maxsize=8)
def _weights(spec: MelSpec) -> _Weights:
    # They are read only, so every stream of a specification shares them.
    return _Weights(spec)


class FrameTransform:
    """Computes up to ``block_frames`` frames a call; not for use from two threads at once.

    Args:
        spec: What to compute.
        block_frames: Largest number of frames in a call.
        sample_scale: Factor that brings the frames to full scale at -1..1.
    """

    def __init__(self, spec: MelSpec, block_frames: int, sample_scale: float = 1.0) -> None:
        self.spec = spec
        self._weights = _weights(spec)
        self._programs: list[_Program | None] = [None] * (block_frames + 1)
        self._affine_scale = _constant(spec.affine_scale)
        self._block_frames = block_frames
        self.set_sample_scale(sample_scale)
        self._emphasizes = spec.preemphasis > 0 and spec.preemphasis_scope == "frame"
        self._only_windows = spec.dc_removal == "none" and not self._emphasizes

    def set_sample_scale(self, sample_scale: float) -> None:
        """From now on, frames times ``sample_scale``, a power of two, have full scale at -1..1."""
        # A row for each frame: numpy takes a fifth longer where it has to repeat one.
        self._window = np.tile(self._weights.window * sample_scale, (self._block_frames, 1))

    def features(self, frames: Float64) -> Float32:
        """Features ``[n, n_features]`` of ``frames`` ``[n, win_length]``, n <= block_frames; a new array."""
        program = self._run_to_log_mel(frames)
        for function, arguments in program.finish_steps:
            function(*arguments)
        return np.multiply(program.cepstrum, self._affine_scale)

    def floored_features(self, frames: Float64, dynamic_range: float) -> Float32:
        """As :meth:`features`, the log-mels first raised to their maximum minus ``dynamic_range``; a new array."""
        program = self._run_to_log_mel(frames)
        np.maximum(program.mel, program.mel.max() - np.float32(dynamic_range), out=program.mel)
        for function, arguments in program.finish_steps:
            function(*arguments)
        return np.multiply(program.cepstrum, self._affine_scale)

    def _run_to_log_mel(self, frames: Float64) -> _Program:
        program = self._programs[len(frames)]
        if program is None:
            program = self._programs[len(frames)] = _Program(self.spec, len(frames), self._weights)
        if self._only_windows:
            np.multiply(frames, self._window[: len(frames)], program.windowed)
        else:
            self._condition(frames, program.windowed)
        for function, arguments in program.log_mel_steps:
            function(*arguments)
        return program

    def _condition(self, frames: Float64, windowed: Float64) -> None:
        np.copyto(windowed, frames)
        if self.spec.dc_removal == "frame":
            windowed -= np.add.reduce(windowed, axis=1, keepdims=True) / self.spec.win_length
        if self._emphasizes:
            preemphasize(windowed, self.spec)
        np.multiply(windowed, self._window[: len(frames)], windowed)


def _constant(value: float) -> Float32:
    # An array without axes: numpy would convert a Python number, and even a numpy scalar, on every call.
    return np.asarray(value, dtype=np.float32)


def _power_spectrum(spec: MelSpec, padded: Float64, power: Float32, bins: slice) -> list[Step]:
    spectrum = np.empty((len(padded), spec.n_fft // 2 + 1), dtype=np.complex128)
    spectrum32 = np.empty(power.shape, dtype=np.complex64)
    steps: list[Step] = [
        (fastest_rfft(), (padded, 1.0, spectrum)),
        (np.copyto, (spectrum32, spectrum[:, bins], "same_kind")),
        (np.absolute, (spectrum32, power)),
    ]
    return [*steps, (np.square, (power, power))] if spec.power == 2 else steps


def _offset_as_gain(spec: MelSpec) -> float:
    # log(x) + offset is log(gain * x): one call less a frame, where nothing stands between logarithm and affine.
    plain = spec.clamp_min is None and spec.clamp_max is None and not spec.n_dct and spec.utterance != "dynamic_range"
    nats = spec.affine_offset / LOG_FACTORS.get(spec.log, np.inf)
    return float(np.exp(nats)) if plain and 0 < nats < _LARGEST_FOLDED_NATS else 1.0


def _logarithm(spec: MelSpec, mel: Float32, gain: float) -> list[Step]:
    if spec.log == "none":
        return []
    floor, factor = _constant(spec.log_floor * gain), _constant(LOG_FACTORS[spec.log])
    add, raise_to = (np.add, (mel, floor, mel)), (partial(np.maximum, out=mel), (mel, floor))
    steps: list[Step] = [add if spec.log_floor_mode == "add" else raise_to, (np.log, (mel, mel))]
    return steps if factor == 1 else [*steps, (np.multiply, (mel, factor, mel))]


def _finish(spec: MelSpec, mel: Float32, cepstrum: Float32, dct: Float32) -> list[Step]:
    steps: list[Step] = []
    if spec.clamp_min is not None:
        steps.append((partial(np.maximum, out=mel), (mel, _constant(spec.clamp_min))))
    if spec.clamp_max is not None:
        steps.append((partial(np.minimum, out=mel), (mel, _constant(spec.clamp_max))))
    if spec.n_dct:
        steps.append((np.matmul, (mel[:, None, :], dct, cepstrum[:, None, :])))
    return steps


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
