"""Search a long stream without the phrase for the places where a network hears it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeaudio_models.audio_files import Int16, fit_length
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.wake_word.task import output_scores

SEGMENT_SECONDS = 20.0
"""The stream is heard in pieces of this length, many at once; each begins from a reset."""
BATCH_SEGMENTS = 16
APART_SECONDS = 1.0
"""Of two places nearer than this the one with the higher score counts."""
LEAST_SCORE = 0.05
"""Places with less are no mistakes."""
AFTER_SECONDS = 0.4
"""A window goes on this long after its highest score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a network heard the phrase."""

    score: float
    """Smoothed probability there."""
    sample: int
    """One past the last sample it had heard."""


def find_places(module: StreamingModule, front_end: TorchFrontEnd, stream: Int16) -> tuple[Place, ...]:
    """Peaks of the smoothed probability over a stream ``[n]``, the highest first."""
    rate = front_end.spec.sample_rate
    samples_per_output = module.step_frames * front_end.spec.hop_length
    n_segment = round(SEGMENT_SECONDS * rate) // samples_per_output * samples_per_output
    places = []
    for first, scores in _segments(module, front_end, stream, n_segment):
        for output in peaks(scores, apart=round(APART_SECONDS * rate / samples_per_output)):
            sample = min(first + (output + 1) * samples_per_output, len(stream))
            places.append(Place(score=float(scores[output]), sample=sample))
    return tuple(sorted(places, key=lambda place: (-place.score, place.sample)))


def _segments(
    module: StreamingModule, front_end: TorchFrontEnd, stream: Int16, n_segment: int
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    starts = list(range(0, len(stream), n_segment))
    for begin in range(0, len(starts), BATCH_SEGMENTS):
        batch = starts[begin : begin + BATCH_SEGMENTS]
        rows = np.stack([fit_length(stream[start : start + n_segment], n_segment) for start in batch])
        features = front_end(torch.from_numpy(rows).to(torch.float32) / 32768.0)
        yield from zip(batch, output_scores(module, features).numpy(), strict=True)


def peaks(scores: npt.NDArray[np.float32], *, apart: int) -> list[int]:
    """Indices of scores from ``LEAST_SCORE`` up that are the highest within ``apart`` to either side, by position."""
    taken: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < LEAST_SCORE:
            break
        if all(abs(int(index) - other) > apart for other in taken):
            taken.append(int(index))
    return sorted(taken)


def windows_at(stream: Int16, places: tuple[Place, ...], *, n_samples: int, sample_rate: int) -> Int16:
    """Rows ``[n, n_samples]`` of the stream that end ``AFTER_SECONDS`` after each place."""
    rows = np.zeros((len(places), n_samples), np.int16)
    for row, place in zip(rows, places, strict=True):
        stop = min(len(stream), place.sample + round(AFTER_SECONDS * sample_rate))
        piece = stream[max(0, stop - n_samples) : stop]
        row[n_samples - len(piece) :] = piece
    return rows
