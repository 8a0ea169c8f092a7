"""Simulated rooms: impulse responses of shoebox rooms by the image-source method, and speech convolved with them.

Images as in Allen and Berkley, "Image method for efficiently simulating small-room acoustics", JASA 65(4), 1979; walls
reflect all frequencies alike.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeaudio_models.augmentation import FFT_MULTIPLE, AugmentationSpec
from edgeaudio_runtime.errors import SpecError

Float64 = npt.NDArray[np.float64]
Triple = tuple[float, float, float]

SPEED_OF_SOUND = 343.0
"""Metres a second, at 20 degrees Celsius."""
OVERSAMPLING = 8
"""Arrivals are placed to 1/8 of a sample before the band is limited."""
HIGH_PASS_HZ = 50.0
"""Images of one sign add up to a rumble that no room has; second-order Butterworth, as a microphone's coupling."""
LEAD = 8
"""Samples kept before the direct path: the band-limited pulse begins before its peak."""
SIZES_M = ((3.0, 8.0), (3.0, 6.0), (2.4, 3.5))
"""Shortest and longest room, narrowest and widest, lowest and highest, in metres."""
WALL_M = 0.4
"""Least distance of mouth and microphone from a wall."""
DISTANCES_M = (0.3, 4.0)
"""Shortest and longest distance from mouth to microphone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A shoebox with one mouth and one microphone; positions in metres from one corner."""

    size: Triple
    """Length, width and height."""
    source: Triple
    """Where the mouth is."""
    microphone: Triple
    """Where the microphone is."""
    absorption: float
    """Share of the energy that every wall swallows, above 0, at most 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.absorption <= 1.0:
            raise SpecError(f"absorption={self.absorption} must be above 0 and at most 1")
        for name in ("source", "microphone"):
            place = getattr(self, name)
            if not all(0.0 < x < length for x, length in zip(place, self.size, strict=True)):
                raise SpecError(f"{name}={place} must lie inside the room of size={self.size}")

    @property
    def distance(self) -> float:
        """Metres from mouth to microphone."""
        return math.dist(self.source, self.microphone)


def absorption_for(size: Triple, reverberation_seconds: float) -> float:
    """Absorption for which sound decays by 60 dB in that time: ``1 - exp(-0.161 V / (S T))`` (Eyring)."""
    length, width, height = size
    surface = 2.0 * (length * width + length * height + width * height)
    return 1.0 - math.exp(-0.161 * length * width * height / (surface * reverberation_seconds))


def impulse_response(room: Room, *, sample_rate: int, seconds: float) -> Float64:
    """Pressure at the microphone for a pulse at time 0, ``1 / (4 pi d)`` for the direct path: ``[seconds * rate]``."""
    n_samples = round(seconds * sample_rate)
    arrivals, amplitudes = _images(room, n_samples * SPEED_OF_SOUND / sample_rate)
    padded = n_samples + 2 * FFT_MULTIPLE
    fine = np.rint(arrivals * (OVERSAMPLING * sample_rate / SPEED_OF_SOUND)).astype(np.int64)
    pulses = np.bincount(fine, weights=amplitudes, minlength=padded * OVERSAMPLING)
    # The lower bins of the fine spectrum are the pulses limited to the band and sampled at the lower rate.
    spectrum = np.fft.rfft(pulses)[: padded // 2 + 1]
    frequencies: Float64 = np.arange(padded // 2 + 1, dtype=np.float64) * (sample_rate / padded)
    spectrum *= _high_pass(frequencies)
    response: Float64 = np.fft.irfft(spectrum, n=padded)[:n_samples]
    return response


def _images(room: Room, reach: float) -> tuple[Float64, Float64]:
    """Distances in metres and amplitudes of all images of the source within ``reach`` metres."""
    squares, counts = zip(*(_axis(room, axis, reach) for axis in range(3)), strict=True)
    squared = squares[0][:, None, None] + squares[1][:, None] + squares[2]
    order = counts[0][:, None, None] + counts[1][:, None] + counts[2]
    near = squared < reach**2
    distances = np.sqrt(squared[near])
    reflected = math.sqrt(1.0 - room.absorption) ** np.arange(order.max() + 1)
    return distances, reflected[order[near]] / (4.0 * math.pi * distances)


def _axis(room: Room, axis: int, reach: float) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Squared distances along one axis to the images in reach, and in how many walls each is mirrored."""
    length, source, microphone = room.size[axis], room.source[axis], room.microphone[axis]
    n_periods = math.ceil(reach / (2.0 * length)) + 1
    periods = np.arange(-n_periods, n_periods + 1)
    places = np.concatenate([2.0 * periods * length + source, 2.0 * periods * length - source]) - microphone
    counts = np.concatenate([2 * np.abs(periods), np.abs(periods - 1) + np.abs(periods)])
    near = np.abs(places) < reach
    return places[near] ** 2, counts[near]


def _high_pass(frequencies: Float64) -> npt.NDArray[np.complexfloating[Any, Any]]:
    """Response of a second-order Butterworth high pass at ``HIGH_PASS_HZ``."""
    s = 1j * frequencies / HIGH_PASS_HZ
    return s**2 / (s**2 + math.sqrt(2.0) * s + 1.0)


def draw_room(random: np.random.Generator, *, reverberation_seconds: float) -> Room:
    """Room of random size with mouth and microphone at random places, walls by :func:`absorption_for`."""
    size = tuple(float(random.uniform(low, high)) for low, high in SIZES_M)
    while True:
        places = [tuple(float(random.uniform(WALL_M, length - WALL_M)) for length in size) for _ in range(2)]
        if DISTANCES_M[0] <= math.dist(*places) <= DISTANCES_M[1]:
            break
    return Room(
        size=_triple(size),
        source=_triple(places[0]),
        microphone=_triple(places[1]),
        absorption=absorption_for(_triple(size), reverberation_seconds),
    )


def _triple(values: tuple[float, ...]) -> Triple:
    first, second, third = values
    return first, second, third


@functools.lru_cache(maxsize=2)
def room_bank(
    *, n_rooms: int, min_reverberation_seconds: float, max_reverberation_seconds: float, sample_rate: int, seed: int
) -> Tensor:
    """Responses of ``n_rooms`` random rooms: float32 ``[n_rooms, max_reverberation_seconds * rate]``.

    Each begins ``LEAD`` samples before its direct path, so that labels stay where they are, ends with its reverberation
    time, drawn evenly from the two bounds, and has energy 1. Equal arguments give equal bits.
    """
    random = np.random.default_rng(seed)
    n_samples = round(max_reverberation_seconds * sample_rate)
    bank = np.zeros((n_rooms, n_samples), np.float32)
    for row in bank:
        seconds = float(random.uniform(min_reverberation_seconds, max_reverberation_seconds))
        room = draw_room(random, reverberation_seconds=seconds)
        delay = room.distance / SPEED_OF_SOUND
        response = impulse_response(room, sample_rate=sample_rate, seconds=seconds + delay)
        start = max(0, round(delay * sample_rate) - LEAD)
        kept = response[start : start + n_samples]
        row[: len(kept)] = kept / np.linalg.norm(kept)
    return torch.from_numpy(bank)


def bank_of(spec: AugmentationSpec, *, sample_rate: int, seed: int) -> Tensor | None:
    """The rooms of a recipe; None where ``spec.room_probability`` is 0."""
    if not spec.room_probability:
        return None
    return room_bank(
        n_rooms=spec.n_rooms,
        min_reverberation_seconds=spec.min_reverberation_seconds,
        max_reverberation_seconds=spec.max_reverberation_seconds,
        sample_rate=sample_rate,
        seed=seed,
    )


def reverberate(waveforms: Tensor, bank: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Put a share of the clips ``[N, S]`` into a random room of ``bank`` ``[R, L]`` each; tails are cut at S."""
    coins, rooms = torch.rand(len(waveforms), generator=generator), torch.rand(len(waveforms), generator=generator)
    chosen = torch.nonzero(coins < probability)[:, 0]
    if not len(chosen):
        return waveforms
    responses = bank[(rooms[chosen] * len(bank)).to(torch.int64)]
    return waveforms.index_copy(0, chosen, convolve(waveforms[chosen], responses))


def convolve(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve each clip ``[N, S]`` with its response ``[N, L]``, cut to ``[N, S]``: by FFT, so to float32 rounding."""
    n_samples = waveforms.shape[1]
    padded = -(-(n_samples + responses.shape[1] - 1) // FFT_MULTIPLE) * FFT_MULTIPLE
    spectrum = torch.fft.rfft(waveforms, n=padded) * torch.fft.rfft(responses, n=padded)
    heard: Tensor = torch.fft.irfft(spectrum, n=padded)[:, :n_samples]
    return heard.contiguous()
