"""Simulated rooms against physics by hand, against pyroomacoustics, and as an augmentation."""

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeaudio_models.augmentation import AugmentationSpec
from edgeaudio_models.rooms import (
    DISTANCES_M,
    LEAD,
    SIZES_M,
    WALL_M,
    Float64,
    Room,
    absorption_for,
    bank_of,
    convolve,
    draw_room,
    impulse_response,
    reverberate,
    room_bank,
)
from edgeaudio_models.waveform_batches import add_surroundings
from edgeaudio_runtime.errors import SpecError

RATE = 16_000
ROOM = Room(size=(5.0, 4.0, 3.0), source=(1.2, 1.5, 1.4), microphone=(3.4, 2.6, 1.1), absorption=0.35)
PEER_DB = -15.0
"""Error of the spectrum against pyroomacoustics: it interpolates pulses from a table, here they stand on a grid of 1/8
sample; that alone is -15 dB at 8 kHz and -30 dB at 1 kHz, and an image missed or at a wrong place is above -10 dB."""
EYRING = 0.3
"""Images in a shoebox decay slower than Eyring's diffuse field says, by up to 30 % in rooms like these."""
SMALL = AugmentationSpec(room_probability=1.0, n_rooms=6, min_reverberation_seconds=0.1, max_reverberation_seconds=0.2)


def decay_db(response: Float64) -> Float64:
    """Schroeder's backward integral in dB."""
    left = np.cumsum(response[::-1] ** 2)[::-1]
    decay: Float64 = 10.0 * np.log10(left / left[0])
    return decay


def reverberation_seconds(response: Float64) -> float:
    """Three times the time from -5 to -25 dB."""
    decay = decay_db(response)
    return 3.0 * float(np.argmax(decay < -25.0) - np.argmax(decay < -5.0)) / RATE


def test_the_direct_path_comes_after_distance_over_the_speed_of_sound() -> None:
    # 3.43 m are 10 ms, 160 samples; walls that swallow everything leave nothing else.
    room = Room(size=(5.0, 4.0, 3.0), source=(0.5, 2.0, 1.5), microphone=(3.93, 2.0, 1.5), absorption=1.0)
    response = impulse_response(room, sample_rate=RATE, seconds=0.05)
    assert int(np.argmax(np.abs(response))) == 160
    assert response[160] == pytest.approx(1 / (4 * math.pi * 3.43), rel=0.02)  # the high pass takes about 1 %
    after = np.abs(response[200:])
    assert after.max() < 0.02 * response[160]


def test_an_echo_from_the_floor_is_late_and_weak_as_geometry_says() -> None:
    # Mouth and microphone 1.2 m above the floor and 1.8 m apart: the image is sqrt(1.8**2 + 2.4**2) = 3 m away.
    room = Room(size=(50.0, 50.0, 30.0), source=(24.0, 25.0, 1.2), microphone=(25.8, 25.0, 1.2), absorption=0.19)
    response = impulse_response(room, sample_rate=RATE, seconds=0.05)
    direct, echo = round(1.8 / 343 * RATE), round(3.0 / 343 * RATE)
    window = np.abs(response[direct + 20 :])
    assert int(np.argmax(window)) + direct + 20 == echo
    # Amplitudes as 0.9 / 3.0 to 1 / 1.8, since 19 % of the energy are lost at the wall.
    pulses = [np.sum(response[at - 8 : at + 9] ** 2) for at in (direct, echo)]
    assert math.sqrt(pulses[1] / pulses[0]) == pytest.approx(0.9 / 3.0 * 1.8, rel=0.05)


@pytest.mark.parametrize("wanted", [0.15, 0.3, 0.5])
def test_sound_decays_about_as_fast_as_eyring_says(wanted: float) -> None:
    random = np.random.default_rng(3)
    times = [
        reverberation_seconds(
            impulse_response(draw_room(random, reverberation_seconds=wanted), sample_rate=RATE, seconds=1.5 * wanted)
        )
        for _ in range(6)
    ]
    assert np.median(times) == pytest.approx(wanted, rel=EYRING)


def test_absorption_is_the_inverse_of_eyring() -> None:
    absorption = absorption_for((5.0, 4.0, 3.0), 0.4)
    volume, surface = 60.0, 94.0
    assert 0.161 * volume / (-surface * math.log(1 - absorption)) == pytest.approx(0.4)


@pytest.fixture
def peer() -> Generator[Float64]:
    """The same room by pyroomacoustics, on the same time axis and scale."""
    pra = pytest.importorskip("pyroomacoustics", reason="the peer of the simulated rooms: pip install pyroomacoustics")
    had = {name: pra.constants.get(name) for name in ("rir_hpf_enable", "num_threads")}
    pra.constants.set("rir_hpf_enable", False)
    pra.constants.set("num_threads", 1)
    material = pra.Material(ROOM.absorption)
    room = pra.ShoeBox(ROOM.size, fs=RATE, materials=material, max_order=40, air_absorption=False)
    room.add_source(ROOM.source)
    room.add_microphone(ROOM.microphone)
    room.compute_rir()
    delay = pra.constants.get("frac_delay_length") // 2
    yield room.rir[0][0][delay : delay + 2400] / (4 * math.pi)
    for name, value in had.items():
        pra.constants.set(name, value)


def test_a_room_sounds_as_pyroomacoustics_says(peer: Float64) -> None:
    own = impulse_response(ROOM, sample_rate=RATE, seconds=2400 / RATE)
    frequencies = np.fft.rfftfreq(2400, 1 / RATE)
    heard = (frequencies > 200) & (frequencies < 7000)
    reference, candidate = np.fft.rfft(peer)[heard], np.fft.rfft(own)[heard]
    error = np.sum(np.abs(candidate - reference) ** 2) / np.sum(np.abs(reference) ** 2)
    assert 10 * math.log10(error) < PEER_DB
    # The rumble below the high pass, which the peer keeps, would decide its decay.
    times = [reverberation_seconds(np.fft.irfft(np.fft.rfft(one) * heard, n=2400)) for one in (own, peer)]
    assert times[0] == pytest.approx(times[1], rel=0.05)


def test_random_rooms_keep_their_bounds() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        room = draw_room(random, reverberation_seconds=0.3)
        assert all(low <= length <= high for length, (low, high) in zip(room.size, SIZES_M, strict=True))
        assert DISTANCES_M[0] <= room.distance <= DISTANCES_M[1]
        for place in (room.source, room.microphone):
            assert all(WALL_M <= x <= length - WALL_M for x, length in zip(place, room.size, strict=True))


def test_the_bank_has_energy_one_its_direct_path_in_front_and_its_seed_decides() -> None:
    wanted = {
        "n_rooms": 6, "min_reverberation_seconds": 0.1, "max_reverberation_seconds": 0.2, "sample_rate": RATE,
    }  # fmt: skip
    bank = room_bank(**wanted, seed=1)
    assert bank.shape == (6, 3200)
    assert bank.dtype == torch.float32
    assert torch.allclose(bank.square().sum(dim=1), torch.ones(6), atol=1e-5)
    # Nothing but the foot of the pulse comes before the direct path.
    assert bool((bank[:, : LEAD - 4].abs().amax(dim=1) < 0.2 * bank.abs().amax(dim=1)).all())
    assert bool((bank[:, LEAD - 1 : LEAD + 2].abs().amax(dim=1) > 0.1).all())
    room_bank.cache_clear()
    assert torch.equal(room_bank(**wanted, seed=1), bank)
    assert not torch.equal(room_bank(**wanted, seed=2), bank)


def test_convolution_is_that_of_numpy() -> None:
    random = np.random.default_rng(5)
    waveforms, responses = random.normal(size=(3, 700)), random.normal(size=(3, 90))
    expected = [np.convolve(x, h)[:700] for x, h in zip(waveforms, responses, strict=True)]
    found = convolve(torch.from_numpy(waveforms).float(), torch.from_numpy(responses).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_a_share_of_the_clips_is_heard_in_rooms() -> None:
    waveforms = torch.ones(400, 64)
    bank = torch.zeros(2, 8)
    bank[0, 0], bank[1, 0] = 0.5, 0.25
    heard = reverberate(waveforms, bank, probability=0.5, generator=torch.Generator().manual_seed(0))[:, 32]
    shares = [float((heard - level).abs().lt(1e-4).float().mean()) for level in (1.0, 0.5, 0.25)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    none = reverberate(waveforms, bank, probability=0.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(none, waveforms)


def test_without_rooms_not_a_draw_and_not_a_bit_changes() -> None:
    off = replace(SMALL, room_probability=0.0, max_shift=0)
    assert bank_of(off, sample_rate=RATE, seed=0) is None
    clips, bed = torch.rand(4, 900) - 0.5, torch.rand(4000) - 0.5
    results = []
    for rooms in (None, bank_of(SMALL, sample_rate=RATE, seed=0)):
        generator = torch.Generator().manual_seed(3)
        results.append((add_surroundings(clips, SMALL, bed=bed, generator=generator, rooms=rooms), generator))
    plain, in_rooms = results
    again = torch.Generator().manual_seed(3)
    assert torch.equal(add_surroundings(clips, AugmentationSpec(), bed=bed, generator=again), plain[0])
    assert torch.equal(again.get_state(), plain[1].get_state())
    assert not torch.equal(in_rooms[0], plain[0])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"room_probability": 1.5}, r"room_probability=1\.5 must be in \[0, 1\]"),
        ({"n_rooms": 0}, r"n_rooms=0 must be >= 1; room_probability=0 turns rooms off"),
        (
            {"min_reverberation_seconds": 0.0},
            r"min_reverberation_seconds=0\.0 and max_.*=0\.5 need 0 < min <= max <= 2",
        ),
        ({"max_reverberation_seconds": 3.0}, r"max_reverberation_seconds=3\.0 need 0 < min <= max <= 2"),
    ],
)
def test_rooms_that_cannot_be_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        AugmentationSpec(**values)  # type: ignore[arg-type]


def test_a_mouth_outside_the_room_and_walls_of_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match=r"source=\(9\.0, 1\.0, 1\.0\) must lie inside the room of size=\(5\.0, 4\.0"):
        replace(ROOM, source=(9.0, 1.0, 1.0))
    with pytest.raises(SpecError, match=r"absorption=0\.0 must be above 0 and at most 1"):
        replace(ROOM, absorption=0.0)
