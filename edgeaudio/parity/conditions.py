"""What a device may hear instead of the clip as it was recorded: levels, noise, offsets, converters, losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.probe_audio import to_int16
from edgeaudio.sweep.variants import Variant
from edgeaudio.zoo.noise import NOISE_SEED, Noise

Int16 = npt.NDArray[np.int16]
Change = Callable[[Int16], Int16]

LEVELS_DB = (-40.0, -30.0, -20.0, -10.0, 10.0, 20.0)
"""From the far end of a large room to a microphone that cuts off; 0 dB is the clip as it is, which comes first."""
RATIOS_DB = (20.0, 10.0, 5.0, 0.0)
"""Signal-to-noise ratios, from a quiet room to noise as loud as the words."""
OFFSETS_OF_A_HOP = (0.25, 0.5, 0.75)
"""A device's frames begin anywhere; whole hops only shift the features."""
CLIPPED_AT = (0.5, 0.25)
"""Shares of each clip's peak at which it is cut off hard."""
DC_SHARES = (0.01, 0.1)
"""Constant offsets as shares of full scale; a microphone without a high pass has the first."""
BLOCK_MS, BLOCK_EVERY_MS = 10, 250
"""Length and distance of lost blocks: a driver that misses a buffer now and then."""
SAMPLE_EVERY = 1000
"""One sample of so many is lost where single ones are: two clocks that differ by 0.1 %."""
POOR_RATIO = 441 / 160
"""16 to 44.1 kHz. By a whole factor linear interpolation would give the samples back: each third one is a sample."""
WHITE_NOISE_S = 10
"""Length of the white noise that cuts are taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One way to hear every clip."""

    name: str
    """For tables, with unit."""
    kind: str
    """What is done, the same for conditions that differ in degree."""
    change: Change | None = None
    """Samples ``[n]`` as they arrive, of the same length; None where nothing is done or noise is added."""
    noise: Noise | None = None
    """What is added, cut for each clip with a fixed seed."""
    snr_db: float = 0.0
    """Ratio of mean powers of clip and noise."""


def all_conditions(sample_rate: int, hop_length: int, noises: Sequence[Noise]) -> list[Condition]:
    """The clip as it is, then every condition.

    Args:
        sample_rate: Of the bundle, Hz.
        hop_length: Of its front end, samples.
        noises: To be added at each of :data:`RATIOS_DB`.
    """
    return [
        Condition(name="as it is", kind="as it is"),
        *_levels(sample_rate),
        *(
            Condition(name=f"{noise.name}, {snr_db:g} dB", kind=noise.name, noise=noise, snr_db=snr_db)
            for noise in noises
            for snr_db in RATIOS_DB
        ),
        *_offsets(sample_rate, hop_length),
        *_converters(sample_rate),
        *_losses(sample_rate),
    ]


def white_noise(sample_rate: int) -> Noise:
    """:data:`WHITE_NOISE_S` seconds at -20 dB of full scale, always the same."""
    from edgeaudio_models.audio_files import to_int16 as from_real
    from edgeaudio_models.synthesis.noise import generate_noise

    generator = np.random.default_rng(NOISE_SEED)
    real = generate_noise(
        "white", WHITE_NOISE_S * sample_rate, rms_db=-20.0, generator=generator, sample_rate=sample_rate
    )
    return Noise(name="white noise", samples=from_real(real))


def _levels(sample_rate: int) -> Iterator[Condition]:
    for level_db in LEVELS_DB:
        heard = Variant(shift_ms=0.0, gain_db=level_db)
        yield Condition(name=f"gain {level_db:+g} dB", kind="gain", change=partial(_heard, heard, sample_rate))


def _offsets(sample_rate: int, hop_length: int) -> Iterator[Condition]:
    for share in OFFSETS_OF_A_HOP:
        shift = round(share * hop_length)
        heard = Variant(shift_ms=1000 * shift / sample_rate, gain_db=0.0)
        name = f"{shift} samples later ({share:g} hop)"
        yield Condition(name=name, kind="offset", change=partial(_heard, heard, sample_rate))


def _heard(variant: Variant, sample_rate: int, samples: Int16) -> Int16:
    return variant.apply(samples, sample_rate)


def _converters(rate: int) -> Iterator[Condition]:
    for other, how, change in (
        (3 * rate, "soxr", partial(resampled, rate=rate, other=3 * rate)),
        (round(POOR_RATIO * rate), "linear", partial(poorly_resampled, ratio=POOR_RATIO)),
        (rate // 2, "soxr", partial(resampled, rate=rate, other=rate // 2)),
    ):
        name = f"{rate / 1000:g} -> {other / 1000:g} -> {rate / 1000:g} kHz, {how}"
        yield Condition(name=name, kind="resampling", change=change)


def _losses(sample_rate: int) -> Iterator[Condition]:
    for share in CLIPPED_AT:
        yield Condition(
            name=f"clipped at {share:.0%} of the peak", kind="clipping", change=partial(clipped, share=share)
        )
    for share in DC_SHARES:
        yield Condition(name=f"DC of {share:.0%} of full scale", kind="DC", change=partial(with_dc, share=share))
    block, every = (round(sample_rate * ms / 1000) for ms in (BLOCK_MS, BLOCK_EVERY_MS))
    yield Condition(
        name=f"{BLOCK_MS} ms lost every {BLOCK_EVERY_MS} ms", kind="lost samples",
        change=partial(without_blocks, length=block, every=every),
    )  # fmt: skip
    yield Condition(
        name=f"1 sample lost of {SAMPLE_EVERY}", kind="lost samples",
        change=partial(without_blocks, length=1, every=SAMPLE_EVERY),
    )  # fmt: skip


def resampled(samples: Int16, *, rate: int, other: int) -> Int16:
    """To ``other`` Hz and back by soxr, rounded to int16 on the way as a file or a driver would."""
    from edgeaudio_models.audio_files import resample_audio
    from edgeaudio_models.audio_files import to_int16 as from_real

    between = from_real(resample_audio(samples.astype(np.float32) / np.float32(32768), rate, other))
    return _fitted(from_real(resample_audio(between.astype(np.float32) / np.float32(32768), other, rate)), len(samples))


def poorly_resampled(samples: Int16, *, ratio: float) -> Int16:
    """To ``ratio`` times the rate and back by linear interpolation, without a filter."""
    n = len(samples)
    places = np.arange(round(n * ratio)) / ratio
    between = np.rint(np.interp(places, np.arange(n), samples))
    return to_int16(np.interp(np.arange(n) * ratio, np.arange(len(between)), between))


def clipped(samples: Int16, *, share: float) -> Int16:
    """Cut off at ``share`` of the largest magnitude of the clip."""
    ceiling = share * float(np.abs(samples.astype(np.int32)).max(initial=0))
    return to_int16(np.clip(samples.astype(np.float64), -ceiling, ceiling))


def with_dc(samples: Int16, *, share: float) -> Int16:
    """Higher by ``share`` of full scale; what passes full scale is cut off."""
    return to_int16(samples.astype(np.float64) + 32768 * share)


def without_blocks(samples: Int16, *, length: int, every: int) -> Int16:
    """Without ``length`` samples from each multiple of ``every`` on but the first; the rest moves up, zeros follow."""
    index = np.arange(len(samples))
    lost = (index >= every) & (index % every < length)
    return _fitted(samples[~lost], len(samples))


def _fitted(samples: Int16, length: int) -> Int16:
    from edgeaudio_models.audio_files import fit_length

    return fit_length(samples, length)
