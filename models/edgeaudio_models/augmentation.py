"""Augment batches of waveforms and features; everything random comes from the generator that is passed in.

Waveforms are float32 ``[N, S]`` with full scale 1.0, features float32 ``[N, T, F]``. Each example draws its own values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from edgeaudio_runtime.errors import SpecError

LOWEST_HZ = 20.0
"""Generated noise has nothing below: no microphone hears it, and brown noise would have most of its power there."""

NARROW_BAND_HZ = (3_700.0, 4_000.0)
"""Where the band limit begins and is complete, in Hz; converters between 8 and 16 kHz have such an edge."""
LOWEST_OCTAVE_HZ = 125.0
N_OCTAVES = 7
"""Gains of :func:`equalize` at 125, 250, ..., 8,000 Hz."""
FFT_MULTIPLE = 2_048
"""Transforms of this length or a multiple are fast, those of a prime length are not."""

ENERGY_FLOOR = 1e-10
"""Mean square below which a signal counts as silent: -100 dB under full scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationSpec:
    """How much each example is varied; the defaults suit one-second clips at 16 kHz."""

    max_shift: int = 1600
    """Largest shift in samples to either side; sample-exact, so also by parts of a hop."""
    min_gain_db: float = -20.0
    """Smallest gain in dB."""
    max_gain_db: float = 20.0
    """Largest gain in dB; peaks are clipped at full scale as a microphone would."""
    noise_probability: float = 0.8
    """Share of the examples that get noise, 0 to 1."""
    min_snr_db: float = -5.0
    """Smallest ratio of speech to noise in dB, over the whole clip."""
    max_snr_db: float = 30.0
    """Largest ratio of speech to noise in dB."""
    n_time_masks: int = 2
    """Masks over frames (SpecAugment)."""
    max_time_mask: int = 20
    """Widest mask in frames."""
    n_feature_masks: int = 2
    """Masks over features (SpecAugment)."""
    max_feature_mask: int = 6
    """Widest mask in features."""
    max_feature_warp: float = field(default=0.0, metadata={"added_later": True})
    """The mel bands of an example are stretched or squeezed by up to this share: longer or shorter vocal tracts."""
    narrow_band_probability: float = field(default=0.0, metadata={"added_later": True})
    """Share of the examples that lose what lies above 4 kHz, as in a telephone or a recording at 8 kHz, 0 to 1."""
    max_equalizer_db: float = field(default=0.0, metadata={"added_later": True})
    """Each octave of an example is made up to this much louder or softer: other microphones, other rooms."""
    room_probability: float = field(default=0.0, metadata={"added_later": True})
    """Share of the examples that are heard in a simulated room, 0 to 1."""
    n_rooms: int = field(default=200, metadata={"added_later": True})
    """Rooms computed before the training, from its seed."""
    min_reverberation_seconds: float = field(default=0.1, metadata={"added_later": True})
    """Time in which sound decays by 60 dB in the driest room."""
    max_reverberation_seconds: float = field(default=0.5, metadata={"added_later": True})
    """That time in the room that rings longest, and the length to which responses are cut."""

    def __post_init__(self) -> None:
        for low, high in (("min_gain_db", "max_gain_db"), ("min_snr_db", "max_snr_db")):
            if getattr(self, low) > getattr(self, high):
                raise SpecError(f"{low}={getattr(self, low)} must be <= {high}={getattr(self, high)}")
        for name in ("noise_probability", "narrow_band_probability", "room_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"{name}={getattr(self, name)} must be in [0, 1]")
        for name in (
            "max_shift",
            "n_time_masks",
            "max_time_mask",
            "n_feature_masks",
            "max_feature_mask",
            "max_equalizer_db",
        ):
            if getattr(self, name) < 0:
                raise SpecError(f"{name}={getattr(self, name)} must be >= 0")
        if not 0.0 <= self.max_feature_warp < 0.5:
            raise SpecError(f"max_feature_warp={self.max_feature_warp} must be in [0, 0.5)")
        if self.n_rooms < 1:
            raise SpecError(f"n_rooms={self.n_rooms} must be >= 1; room_probability=0 turns rooms off")
        shortest, longest = self.min_reverberation_seconds, self.max_reverberation_seconds
        if not 0.0 < shortest <= longest <= 2.0:
            given = f"min_reverberation_seconds={shortest} and max_reverberation_seconds={longest}"
            raise SpecError(f"{given} need 0 < min <= max <= 2")


def apply_gain(waveforms: Tensor, gains_db: Tensor) -> Tensor:
    """Multiply each clip by ``10 ** (gain_db / 20)``; ``gains_db`` is ``[N]``."""
    return waveforms * torch.pow(10.0, gains_db / 20.0)[:, None]


def add_noise(waveforms: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Add noise scaled so that ``10 log10(mean(x**2) / mean(n**2)) = snr_db`` over each clip.

    A silent clip (mean square below ``ENERGY_FLOOR``) takes the noise as it is, turned down where ``snr_db`` > 0.

    Args:
        waveforms: float32 ``[N, S]``.
        noise: float32 ``[N, S]``.
        snr_db: ``[N]``.
    """
    signal, power = mean_square(waveforms), mean_square(noise).clamp_min(ENERGY_FLOOR)
    target = torch.where(signal > ENERGY_FLOOR, signal, power.clamp_max(1.0)) * torch.pow(10.0, -snr_db / 10.0)
    target = torch.where(signal > ENERGY_FLOOR, target, target.minimum(power))
    return torch.addcmul(waveforms, noise, (target / power).sqrt()[:, None])


def narrow_band(waveforms: Tensor, *, sample_rate: int = 16_000) -> Tensor:
    """Take away what lies above 4 kHz: gain 1 up to ``NARROW_BAND_HZ[0]``, half a cosine down to 0 at the second.

    Args:
        waveforms: float32 ``[N, S]``.
        sample_rate: In Hz.
    """
    low, high = NARROW_BAND_HZ
    fall = ((_frequencies(waveforms, sample_rate) - low) / (high - low)).clamp(0.0, 1.0)
    return _filtered(waveforms, 0.5 + 0.5 * torch.cos(math.pi * fall))


def equalize(waveforms: Tensor, gains_db: Tensor, *, sample_rate: int = 16_000) -> Tensor:
    """Give each octave of a stream its own gain, as microphones do: straight lines in dB over the logarithm of Hz.

    Args:
        waveforms: float32 ``[N, S]``.
        gains_db: ``[N, K]``, K at least 2: at ``LOWEST_OCTAVE_HZ`` times 1, 2, 4, ..., constant outside.
        sample_rate: In Hz.
    """
    octaves = torch.log2(_frequencies(waveforms, sample_rate).clamp_min(LOWEST_OCTAVE_HZ) / LOWEST_OCTAVE_HZ)
    octaves = octaves.clamp_max(gains_db.shape[1] - 1)
    below = octaves.floor().clamp_max(gains_db.shape[1] - 2).to(torch.int64)
    share = octaves - below
    response_db = gains_db[:, below] * (1 - share) + gains_db[:, below + 1] * share
    return _filtered(waveforms, torch.pow(10.0, response_db / 20.0))


def _frequencies(waveforms: Tensor, sample_rate: int) -> Tensor:
    """Of the bins that :func:`_filtered` wants a response for, in Hz."""
    padded = -(-waveforms.shape[1] // FFT_MULTIPLE) * FFT_MULTIPLE
    frequencies: Tensor = torch.fft.rfftfreq(padded, 1.0 / sample_rate)
    return frequencies


def _filtered(waveforms: Tensor, response: Tensor) -> Tensor:
    """Multiply the spectrum by a real response ``[bins]`` or ``[N, bins]``: no delay, what rings wraps around."""
    padded = -(-waveforms.shape[1] // FFT_MULTIPLE) * FFT_MULTIPLE
    heard: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms, n=padded) * response, n=padded)
    return heard[:, : waveforms.shape[1]]


def change_tempo(features: Tensor, factor: float, *, multiple_of: int) -> Tensor:
    """Frames ``[N, T, F]`` squeezed to about ``factor * T`` of them, a multiple of ``multiple_of``: linear in time."""
    frames = max(1, round(features.shape[1] * factor / multiple_of)) * multiple_of
    squeezed = functional.interpolate(features.transpose(1, 2), size=frames, mode="linear")
    return squeezed.transpose(1, 2)


def warp_features(features: Tensor, factors: Tensor) -> Tensor:
    """Band ``f`` of example n takes the value at band ``factors[n] * f``, linear between bands, the last one held.

    Vocal tract length perturbation (Jaitly and Hinton, ICML 2013 workshop), in mel bands instead of in Hz.

    Args:
        features: ``[N, T, F]``.
        factors: ``[N]``, about 1.
    """
    last = features.shape[2] - 1
    places = (torch.arange(last + 1) * factors[:, None]).clamp_(0.0, float(last))
    below = places.floor().to(torch.int64)
    share = (places - below)[:, None, :].to(features)

    def taken(bands: Tensor) -> Tensor:
        return features.gather(2, bands.to(features.device)[:, None, :].expand_as(features))

    return torch.lerp(taken(below), taken((below + 1).clamp_max(last)), share)


def mean_square(waveforms: Tensor) -> Tensor:
    """Mean of ``x**2`` over the last axis, without a temporary of the size of the batch: ``[N, S]`` gives ``[N]``."""
    norms: Tensor = torch.linalg.vector_norm(waveforms, dim=-1)
    return norms.square() / waveforms.shape[-1]


def noise_like(waveforms: Tensor, *, generator: torch.Generator, noise: Tensor | None = None) -> Tensor:
    """Noise of the shape of ``waveforms`` ``[N, S]``: random cuts of one recording ``[M]``, else coloured noise.

    Raises:
        SpecError: The recording is shorter than the clips.
    """
    n_clips, n_samples = waveforms.shape
    if noise is None:
        return coloured_noise(n_clips, n_samples, generator=generator)
    if noise.ndim != 1 or len(noise) < n_samples:
        raise SpecError(f"noise has shape {list(noise.shape)}, it must be 1-D with >= {n_samples} samples; repeat it")
    starts = draw_integers(n_clips, 0, len(noise) - n_samples, generator)
    return torch.stack([noise[start : start + n_samples] for start in starts.tolist()])


def coloured_noise(n_clips: int, n_samples: int, *, generator: torch.Generator, sample_rate: int = 16_000) -> Tensor:
    """Gaussian noise ``[N, S]`` at -26 dB rms, power falling as ``1 / f**a`` with a from 0 (white) to 2 (brown)."""
    exponents = draw_uniform(n_clips, 0.0, 2.0, generator)
    n_bins = n_samples // 2 + 1
    spectrum = torch.view_as_complex(torch.randn(n_clips, n_bins, 2, generator=generator))
    log_frequencies = torch.arange(n_bins, dtype=torch.float32).clamp_min_(1.0).log_()
    spectrum[:, : math.ceil(LOWEST_HZ * n_samples / sample_rate)] = 0.0
    spectrum *= torch.exp(log_frequencies[None, :] * (-exponents[:, None] / 2.0))
    noise: Tensor = torch.fft.irfft(spectrum, n=n_samples)
    return noise.mul_(0.05 / mean_square(noise).sqrt().clamp_min_(math.sqrt(ENERGY_FLOOR))[:, None])


def mask_features(features: Tensor, spec: AugmentationSpec, *, generator: torch.Generator) -> Tensor:
    """SpecAugment: set random bands of frames and of features to the example's mean; returns a new ``[N, T, F]``.

    Each mask is 0 to ``max_*_mask`` wide, uniform (Park et al., arXiv:1904.08779, without time warping).
    """
    n_clips, n_frames, n_features = features.shape
    return hide_masked(features, draw_masks((n_clips, n_frames, n_features), spec, generator=generator))


def draw_masks(shape: tuple[int, ...], spec: AugmentationSpec, *, generator: torch.Generator) -> Tensor:
    """Draw the masks of :func:`mask_features`: bool of ``shape``, which is ``(N, T, F)``, true where hidden."""
    n_clips, n_frames, n_features = shape
    masked = torch.zeros(n_clips, n_frames, n_features, dtype=torch.bool)
    for _ in range(spec.n_time_masks):
        masked |= draw_mask(n_clips, n_frames, spec.max_time_mask, generator)[:, :, None]
    for _ in range(spec.n_feature_masks):
        masked |= draw_mask(n_clips, n_features, spec.max_feature_mask, generator)[:, None, :]
    return masked


def hide_masked(features: Tensor, masked: Tensor) -> Tensor:
    """Features ``[N, T, F]`` with the example's mean where ``masked`` is true."""
    return torch.where(masked, features.mean(dim=(1, 2), keepdim=True), features)


def draw_mask(n_clips: int, length: int, max_width: int, generator: torch.Generator) -> Tensor:
    """One band for each example: bool ``[N, length]``, true inside; width 0 to ``min(max_width, length)``."""
    widths = draw_integers(n_clips, 0, min(max_width, length), generator)
    places = torch.rand(n_clips, generator=generator)
    starts = (places * (length - widths + 1)).to(torch.int64)
    index = torch.arange(length)[None, :]
    return (index >= starts[:, None]) & (index < (starts + widths)[:, None])


def draw_uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """``n`` float32 values uniform in [low, high)."""
    return torch.rand(n, generator=generator) * (high - low) + low


def draw_integers(n: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """``n`` int64 values uniform in [low, high], both included."""
    return torch.randint(low, high + 1, (n,), generator=generator)
