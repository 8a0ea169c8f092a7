"""Put a phrase into a stream between other speech, and say at which outputs a network should hear it.

Examples are rows ``[N, S]``: a phrase ends with its row, with zeros before it; everything else fills its row. Each row
is varied on its own, since every speaker, room and microphone is different.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgeaudio_models.augmentation import FFT_MULTIPLE, draw_integers, draw_uniform

HEARD_SECONDS = 0.28
"""The phrase should be heard at every output of this long after its end; what the detector smooths over."""
DOUBT_SECONDS = 0.36
"""Outputs this long after that, and from the middle of the phrase to its end, may say what they like."""
LEAST_AFTER_SECONDS = 0.16
"""A stream goes on at least this long after the phrase."""
MAX_GAP_SECONDS = 0.35
"""Longest pause between the phrase and what stands beside it."""
BEFORE_PROBABILITY, AFTER_PROBABILITY = 0.5, 0.4
"""Share of the phrases that other speech precedes or follows."""
EQUALIZER_DB = 4.0
"""Standard deviation of the drawn frequency response of microphones, in dB at each of its points."""
EQUALIZER_POINTS = 8
"""Points of that response, evenly spaced on a logarithmic frequency axis from 60 Hz up."""

HEARD, NOT_HEARD, EITHER = 1, 0, -1
"""Targets of an output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """Phrases and other speech in streams, before room and noise."""

    waveforms: Tensor
    """float32 ``[N, S]``."""
    ends: Tensor
    """One past the last sample of the phrase, int64 ``[N]``; 0 where there is none."""
    lengths: Tensor
    """Samples of the phrase, int64 ``[N]``; 0 where there is none."""


def compose(
    rows: Tensor, has_phrase: Tensor, *, sample_rate: int, max_rate_change: float, generator: torch.Generator
) -> Streams:
    """Place every phrase somewhere in its row, other rows of the batch before and after some; vary every rate.

    Args:
        rows: float32 ``[N, S]``.
        has_phrase: bool ``[N]``.
        sample_rate: Hz.
        max_rate_change: Each piece is played up to this share slower or faster.
        generator: Source of every draw.
    """
    n_rows, n_samples = rows.shape
    others = torch.nonzero(~has_phrase)[:, 0]
    result, ends, lengths = (
        rows.new_zeros(rows.shape),
        torch.zeros(n_rows, dtype=torch.int64),
        torch.zeros(n_rows, dtype=torch.int64),
    )
    factors = (1.0 + draw_uniform(n_rows, -max_rate_change, max_rate_change, generator)).tolist()
    for i, factor in enumerate(factors):
        if not has_phrase[i]:
            result[i] = _fitted(_played(rows[i], factor), n_samples, generator)
            continue
        phrase = _played(_without_lead(rows[i]), factor)[-n_samples + round(LEAST_AFTER_SECONDS * sample_rate) :]
        last = n_samples - round(LEAST_AFTER_SECONDS * sample_rate)
        end = int(draw_integers(1, len(phrase), max(len(phrase), last), generator))
        result[i, end - len(phrase) : end] = phrase
        _surround(result[i], end - len(phrase), end, rows[others], sample_rate, generator)
        ends[i], lengths[i] = end, len(phrase)
    return Streams(waveforms=result, ends=ends, lengths=lengths)


def _without_lead(row: Tensor) -> Tensor:
    sounding = torch.nonzero(row)
    return row[int(sounding[0]) :] if len(sounding) else row


def _played(piece: Tensor, factor: float) -> Tensor:
    length = max(1, round(len(piece) * factor))
    return functional.interpolate(piece[None, None], size=length, mode="linear")[0, 0]


def _fitted(piece: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """A cut of a long piece; a short one behind a part of itself."""
    if len(piece) < n_samples:
        piece = torch.cat([piece[: n_samples - len(piece)], piece])
    start = int(draw_integers(1, 0, len(piece) - n_samples, generator))
    return piece[start : start + n_samples]


def _surround(
    stream: Tensor, start: int, end: int, others: Tensor, sample_rate: int, generator: torch.Generator
) -> None:
    """Write other speech before and after the phrase into ``stream``."""
    coins = torch.rand(2, generator=generator).tolist()
    gaps = draw_integers(2, 0, round(MAX_GAP_SECONDS * sample_rate), generator).tolist()
    if not len(others):
        return
    first, second = others[draw_integers(2, 0, len(others) - 1, generator)]
    before, after = start - gaps[0], end + gaps[1]
    if coins[0] < BEFORE_PROBABILITY and before > 0:
        stream[:before] = first[len(first) - before :]
    if coins[1] < AFTER_PROBABILITY and after < len(stream):
        stream[after:] = second[: len(stream) - after]


def targets(streams: Streams, *, n_outputs: int, samples_per_output: int, sample_rate: int) -> Tensor:
    """What each output should say: int64 ``[N, n_outputs]`` of ``HEARD``, ``NOT_HEARD`` and ``EITHER``."""
    heard_at = (torch.arange(n_outputs)[None, :] + 1) * samples_per_output
    ends, middles = streams.ends[:, None], (streams.ends - streams.lengths // 2)[:, None]
    last = ends + round(HEARD_SECONDS * sample_rate)
    doubtful = (heard_at > middles) & (heard_at <= last + round(DOUBT_SECONDS * sample_rate))
    result = torch.where(doubtful, EITHER, NOT_HEARD)
    result = torch.where((heard_at >= ends) & (heard_at <= last), HEARD, result)
    return torch.where(ends > 0, result, NOT_HEARD)


def through_microphones(waveforms: Tensor, *, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Filter each row ``[N, S]`` by a smooth frequency response of its own; its power stays as it was."""
    n_rows, n_samples = waveforms.shape
    length = -(-n_samples // FFT_MULTIPLE) * FFT_MULTIPLE
    frequencies = torch.fft.rfftfreq(length, 1.0 / sample_rate).clamp_min(60.0)
    octaves = torch.log2(frequencies / 60.0)
    position = octaves / octaves[-1] * (EQUALIZER_POINTS - 1)
    left = position.floor().clamp_max(EQUALIZER_POINTS - 2).to(torch.int64)
    points = torch.randn(n_rows, EQUALIZER_POINTS, generator=generator) * EQUALIZER_DB
    share = (position - left)[None, :]
    gains_db = points[:, left] * (1.0 - share) + points[:, left + 1] * share
    spectrum = torch.fft.rfft(waveforms, n=length) * torch.pow(10.0, gains_db / 20.0)
    filtered: Tensor = torch.fft.irfft(spectrum, n=length)[:, :n_samples]
    power = torch.linalg.vector_norm(waveforms, dim=1, keepdim=True)
    return filtered * (power / torch.linalg.vector_norm(filtered, dim=1, keepdim=True).clamp_min(1e-6))
