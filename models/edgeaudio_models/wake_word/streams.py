"""Put a phrase into a stream between other speech, and say at which outputs a network should hear it.

Examples are rows ``[N, S]``: a phrase ends with its row, with zeros before it; everything else fills its row. Each row
is varied on its own, since every speaker, room and microphone is different.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgeaudio_models.augmentation import draw_integers, draw_uniform

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
"""Points of that response, evenly spaced over the bands of the features."""

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
        max_rate_change: Each row is played up to this share slower or faster, pitch included.
        generator: Source of every draw.
    """
    n_rows, n_samples = rows.shape
    factors = (1.0 + draw_uniform(n_rows, -max_rate_change, max_rate_change, generator)).tolist()
    places = torch.rand(n_rows, generator=generator).tolist()
    last = n_samples - round(LEAST_AFTER_SECONDS * sample_rate)
    leads = (rows != 0).to(torch.int8).argmax(dim=1).tolist()
    others = torch.nonzero(~has_phrase)[:, 0].tolist()
    heard, ends, lengths = torch.zeros_like(rows), [0] * n_rows, [0] * n_rows
    for i, spoken in enumerate(has_phrase.tolist()):
        if not spoken:
            _fill(heard[i], _played(rows[i], factors[i]), places[i])
            continue
        phrase = _played(rows[i, leads[i] :], factors[i])[-last:]
        lengths[i] = len(phrase)
        ends[i] = len(phrase) + round(places[i] * (last - len(phrase)))
        heard[i, ends[i] - lengths[i] : ends[i]] = phrase
        if others:
            chosen = [others[k] for k in draw_integers(2, 0, len(others) - 1, generator).tolist()]
            _surround(heard[i], ends[i] - lengths[i], ends[i], rows[chosen], sample_rate, generator)
    return Streams(waveforms=heard, ends=torch.tensor(ends), lengths=torch.tensor(lengths))


def _played(piece: Tensor, factor: float) -> Tensor:
    length = max(1, round(len(piece) * factor))
    return functional.interpolate(piece[None, None], size=length, mode="linear")[0, 0]


def _fill(target: Tensor, piece: Tensor, place: float) -> None:
    """A cut of a long piece, ``place`` of the way; a short one once and then again from its beginning."""
    n_samples = len(target)
    if len(piece) >= n_samples:
        start = round(place * (len(piece) - n_samples))
        target[:] = piece[start : start + n_samples]
    else:
        target[: len(piece)] = piece
        target[len(piece) :] = piece[: n_samples - len(piece)]


def _surround(
    stream: Tensor, start: int, end: int, others: Tensor, sample_rate: int, generator: torch.Generator
) -> None:
    """Write the end of ``others[0]`` before and the beginning of ``others[1]`` after the phrase, or not."""
    coins = torch.rand(2, generator=generator).tolist()
    gaps = draw_integers(2, 0, round(MAX_GAP_SECONDS * sample_rate), generator).tolist()
    before, after = start - gaps[0], end + gaps[1]
    if coins[0] < BEFORE_PROBABILITY and before > 0:
        stream[:before] = others[0, others.shape[1] - before :]
    if coins[1] < AFTER_PROBABILITY and after < len(stream):
        stream[after:] = others[1, : len(stream) - after]


def targets(streams: Streams, *, n_outputs: int, samples_per_output: int, sample_rate: int) -> Tensor:
    """What each output should say: int64 ``[N, n_outputs]`` of ``HEARD``, ``NOT_HEARD`` and ``EITHER``."""
    heard_at = (torch.arange(n_outputs)[None, :] + 1) * samples_per_output
    ends, middles = streams.ends[:, None], (streams.ends - streams.lengths // 2)[:, None]
    last = ends + round(HEARD_SECONDS * sample_rate)
    doubtful = (heard_at > middles) & (heard_at <= last + round(DOUBT_SECONDS * sample_rate))
    result = torch.where(doubtful, EITHER, NOT_HEARD)
    result = torch.where((heard_at >= ends) & (heard_at <= last), HEARD, result)
    return torch.where(ends > 0, result, NOT_HEARD)


def through_microphones(features: Tensor, *, db_in_features: float, generator: torch.Generator) -> Tensor:
    """Add to each example's log-mel frames ``[N, T, F]`` a smooth frequency response of its own.

    A filter multiplies the spectrum, so its gain adds to the logarithm in every band; at the floor under the logarithm
    that is not so, and values at an example's lowest one stay.

    Args:
        features: Logarithmic features.
        db_in_features: What one dB is in their units.
        generator: Source of the responses.
    """
    points = torch.randn(len(features), 1, EQUALIZER_POINTS, generator=generator) * EQUALIZER_DB
    response = functional.interpolate(points, size=features.shape[2], mode="linear", align_corners=True)
    lowest = features.amin(dim=(1, 2), keepdim=True)
    return torch.where(features > lowest, torch.maximum(features + response * db_in_features, lowest), features)
