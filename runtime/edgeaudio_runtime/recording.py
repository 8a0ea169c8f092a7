"""What can be measured in a recording without knowing what was said: levels, faults, spectrum, pitch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.record import Record
from edgeaudio_runtime.wav import Frames

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

MAX_SECONDS = 60.0
"""What is kept and measured; of a longer recording the beginning."""
SILENT_DBFS = -120.0
_BLOCK_S = 0.05
_ACTIVE_DB = 15.0
"""Blocks this far below the loudest still count as speech; ITU-T P.56 uses 15.9 dB below the level it measures."""
_LOUD_BLOCKS = 3
"""The loudest but two stands for the loudest, so that a click does not."""
_FULL_SCALE = 32767 / 32768
_FLAT_RUN, _FLAT_LEVEL = 3, 0.05
"""As many equal samples at the very extreme are a cut-off top, unless they are so few codes that rounding is one."""
_DROP_S, _DROP_SAMPLES = (0.002, 0.25), 32
"""Duration of zeros that count as a hole, shortest and longest; sound cards count in blocks of 32 samples and more."""
_DROP_EDGE = 0.003
"""A hole begins or ends at a sample of at least this; silence that a codec or synthesizer fades into does not."""
_BAND_HZ = 250.0
_PITCH_FRAME_S, _PITCH_RANGE_HZ, _VOICED = 0.06, (30.0, 900.0), 0.6


class Recording(Record):
    """The beginning of a recording, all channels."""

    samples: Float32
    """``[n, n_channels]``, full scale being 1."""
    sample_rate: int
    """Hz, as the source says."""
    seconds: float
    """Of the whole, which may be more than is kept."""

    @classmethod
    def of(cls, blocks: Iterable[Frames], sample_rate: int) -> Recording:
        """Read all blocks ``[n, n_channels]``; keep a minute."""
        kept: list[Float32] = []
        n_samples, n_kept, limit = 0, 0, int(MAX_SECONDS * sample_rate)
        for block in blocks:
            n_samples += len(block)
            if n_kept < limit:
                scale = np.float32(1 / 32768 if block.dtype == np.int16 else 1)
                kept.append(block[: limit - n_kept].astype(np.float32) * scale)
                n_kept += len(kept[-1])
        samples = np.concatenate(kept) if kept else np.empty((0, 1), dtype=np.float32)
        return cls(samples=samples, sample_rate=sample_rate, seconds=n_samples / sample_rate)


def dbfs(mean_square: float) -> float:
    """Decibels relative to a full-scale square wave."""
    return max(SILENT_DBFS, 10 * float(np.log10(max(mean_square, 1e-30))))


def speech_and_noise_dbfs(channel: Float32, sample_rate: int) -> tuple[float, float]:
    """Level of the active blocks of 50 ms, and of the quietest tenth, each block's own mean taken off."""
    size = min(len(channel), max(1, round(_BLOCK_S * sample_rate)))
    blocks = channel[: len(channel) // size * size].reshape(-1, size)
    powers = np.sort(blocks.astype(np.float64).var(axis=1))
    loud = powers[-min(_LOUD_BLOCKS, len(powers))]
    active = powers[powers >= loud * 10 ** (-_ACTIVE_DB / 10)]
    return dbfs(float(active.mean())), dbfs(float(powers[len(powers) // 10]))


def clipped_share(channel: Float32) -> float:
    """Share of samples at full scale, or cut off flat at the recording's own extreme."""
    at_end = float(np.mean(np.abs(channel) >= _FULL_SCALE))
    extremes = [extreme for extreme in (channel.max(), channel.min()) if abs(extreme) >= _FLAT_LEVEL]
    return max([at_end, *(float(_in_runs(channel == extreme).mean()) for extreme in extremes)])


def _in_runs(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The samples of ``mask`` that stand in runs of at least ``_FLAT_RUN``."""
    starts, ends = _runs(mask)
    kept = np.zeros(len(mask), dtype=np.bool_)
    for start, end in zip(starts, ends, strict=True):
        kept[start:end] = end - start >= _FLAT_RUN
    return kept


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    edges = np.diff(np.concatenate(([0], mask.astype(np.int8), [0])))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def holes(channel: Float32, sample_rate: int) -> list[tuple[float, float]]:
    """Start and duration in seconds of runs of exact zeros that begin or end in the middle of sound."""
    starts, ends = _runs(channel == 0)
    shortest, longest = (round(limit * sample_rate) for limit in _DROP_S)
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        inside = start > 0 and end < len(channel)
        if inside and max(shortest, _DROP_SAMPLES) <= end - start <= longest:
            edge = max(abs(float(channel[start - 1])), abs(float(channel[end])))
            if edge >= _DROP_EDGE:
                found.append((start / sample_rate, (end - start) / sample_rate))
    return found


def band_levels_db(channel: Float32, sample_rate: int) -> Float64:
    """Mean power of the active frames in bands of 250 Hz from 0 to half the rate, in dB relative to the strongest."""
    n_fft = 1024 if sample_rate < 32_000 else 2048
    frames = _active_frames(channel, n_fft)
    if not len(frames):
        return np.empty(0)
    power = (np.abs(np.fft.rfft(frames * np.hanning(n_fft), axis=1)) ** 2).mean(axis=0)
    hz = np.arange(len(power)) * sample_rate / n_fft
    edges = np.searchsorted(hz, np.arange(0, sample_rate / 2 - 1, _BAND_HZ))
    bands = np.add.reduceat(power, edges) / np.diff([*edges, len(power)])
    levels: Float64 = 10 * np.log10(np.maximum(bands / max(bands.max(), 1e-30), 1e-13))
    return levels


def cutoff(levels_db: Float64) -> tuple[float, float]:
    """Frequency above which a spectrum falls off most steeply and for good, and by how many dB.

    The fall is from the weakest of three bands below the edge to the strongest of all bands beyond the next one.
    """
    best = (0.0, 0.0)
    for band in range(4, len(levels_db) - 2):
        fall = float(levels_db[band - 3 : band].min() - levels_db[band + 1 :].max())
        if fall > best[1]:
            best = (band * _BAND_HZ, fall)
    return best


def _active_frames(channel: Float32, size: int) -> Float64:
    """Half overlapping frames ``[n, size]`` within 15 dB of the loudest, their means taken off."""
    if len(channel) < size:
        return np.empty((0, size))
    frames = np.lib.stride_tricks.sliding_window_view(channel, size)[:: size // 2].astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    energy = (frames * frames).sum(axis=1)
    loud = np.sort(energy)[-min(_LOUD_BLOCKS, len(energy))]
    active: Float64 = frames[energy >= max(loud * 10 ** (-_ACTIVE_DB / 10), 1e-12)]
    return active


class Voice(Record):
    """Pitch and colour of a voice; both grow with the speed at which a recording is played."""

    pitch_hz: float
    """Median over the voiced frames."""
    centre_hz: float
    """Centre of gravity of the spectrum on a logarithmic frequency axis."""
    voiced_s: float
    """Duration of the voiced frames."""
    voiced_share: float
    """Of the active frames."""


def voice(channel: Float32, sample_rate: int) -> Voice | None:
    """Measure the voice of a recording; None where there is nothing voiced.

    The pitch is that of the autocorrelation divided by the window's (Boersma 1993), low-passed to about 4 kHz.
    """
    factor = max(1, sample_rate // 8000)
    low = channel[: len(channel) // factor * factor].reshape(-1, factor).mean(axis=1)
    rate = sample_rate / factor
    size = round(_PITCH_FRAME_S * rate)
    frames = _active_frames(low, size)
    pitches = _pitches(frames, rate) if len(frames) else np.empty(0)
    if not len(pitches):
        return None
    return Voice(
        pitch_hz=float(np.median(pitches)),
        centre_hz=_centre_hz(channel, sample_rate),
        voiced_s=len(pitches) * _PITCH_FRAME_S / 2,
        voiced_share=len(pitches) / len(frames),
    )


def _pitches(frames: Float64, rate: float) -> Float64:
    size = frames.shape[1]
    window = np.hanning(size)
    n_fft = 1 << (2 * size - 1).bit_length()
    shortest, longest = (int(rate / hz) for hz in reversed(_PITCH_RANGE_HZ))
    lags = np.arange(shortest, min(longest, int(0.6 * size)))
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, n_fft)) ** 2)[lags] / (window @ window)
    spectrum = np.fft.rfft(frames * window, n_fft, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)
    ratio = correlation[:, lags] / correlation[:, :1] / of_window
    # A peak at two periods is as high as that at one; the longer lag has to be better by this much an octave.
    handicap = 0.03 * np.log2(lags[1:-1] / shortest)
    peak = (ratio[:, 1:-1] > ratio[:, :-2]) & (ratio[:, 1:-1] >= ratio[:, 2:])
    height = np.where(peak, ratio[:, 1:-1] - handicap, -1.0)
    pitches: Float64 = rate / lags[1:-1][height.argmax(axis=1)]
    voiced: Float64 = pitches[height.max(axis=1) > _VOICED]
    return voiced


def _centre_hz(channel: Float32, sample_rate: int) -> float:
    n_fft = 1024 if sample_rate < 32_000 else 2048
    frames = _active_frames(channel, n_fft)
    if not len(frames):
        return 0.0
    power = (np.abs(np.fft.rfft(frames * np.hanning(n_fft), axis=1)) ** 2).mean(axis=0)
    hz = np.arange(len(power)) * sample_rate / n_fft
    heard = hz >= 40
    return float(np.exp(power[heard] @ np.log(hz[heard]) / power[heard].sum()))
