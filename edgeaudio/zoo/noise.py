"""Clips in noise that training has not heard, at a stated signal-to-noise ratio."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.probe_audio import to_int16
from edgeaudio.parity.task import LabelledClips
from edgeaudio_runtime.errors import SpecError

Int16 = npt.NDArray[np.int16]

NOISE_SEED = 0
"""Of the cuts of the noise."""
GAINS_DB = (-30.0, -25.0, -20.0, -15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
"""Levels of a card: from far away to a clipping microphone."""
SNRS_DB = (20.0, 10.0, 5.0, 0.0, -5.0)
"""Signal-to-noise ratios of a card: from a quiet room to noise louder than the words."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Recordings of noise, joined."""

    name: str
    """For the card."""
    samples: Int16
    """``[n]``, at the rate of the clips."""


def open_noise(wanted: str, *, sample_rate: int, n_samples: int) -> Noise:
    """Noise from ``NAME=PATTERN``, PATTERN with ``*`` and ``?`` as a shell has them.

    Raises:
        SpecError: No ``=``, no file of this pattern, or less noise than a clip of ``n_samples``.
        AudioError: A file cannot be read.
    """
    from edgeaudio_models.audio_files import is_audio, read_audio

    name, found, pattern = wanted.partition("=")
    if not found or not name:
        raise SpecError(f"noise={wanted!r} must be NAME=PATTERN, for instance 'street=recordings/street*.wav'")
    paths = [path for path in map(Path, sorted(glob.glob(pattern))) if path.is_file() and is_audio(path)]
    if not paths:
        raise SpecError(f"noise={wanted!r}: no audio file has a name of this pattern; quote it, or mend the path")
    samples = np.concatenate([read_audio(path, sample_rate=sample_rate)[0] for path in paths])
    if len(samples) < n_samples:
        raise SpecError(f"noise={wanted!r} has {len(samples)} samples, it must have >= {n_samples}, a clip's length")
    return Noise(name=name, samples=samples)


def without_label(clips: LabelledClips, label: str) -> LabelledClips:
    """The clips of every other label."""
    kept = np.array([each != label for each in clips.labels], dtype=bool)
    return LabelledClips(
        waveforms=clips.waveforms[kept],
        labels=tuple(each for each, keep in zip(clips.labels, kept, strict=True) if keep),
        speakers=tuple(each for each, keep in zip(clips.speakers, kept, strict=True) if keep),
    )


def in_noise(clips: LabelledClips, noise: Noise, snr_db: float) -> LabelledClips:
    """Each clip with a cut of ``noise`` so that ``10 log10(mean(x**2) / mean(n**2)) = snr_db`` over the clip.

    Cuts are drawn with :data:`NOISE_SEED`, the same for every ratio; what passes full scale is cut off. A clip or a cut
    of digital silence stays as it is.
    """
    length = clips.waveforms.shape[1]
    starts = np.random.default_rng(NOISE_SEED).integers(0, len(noise.samples) - length + 1, len(clips.labels))
    mixed = [
        mix(clip, noise.samples[start : start + length], snr_db)
        for clip, start in zip(clips.waveforms, starts, strict=True)
    ]
    return replace(clips, waveforms=np.stack(mixed))


def mix(clip: Int16, noise: Int16, snr_db: float) -> Int16:
    """Clip and noise ``[n]`` at a ratio of mean powers in dB."""
    speech, cut = clip.astype(np.float64), noise.astype(np.float64)
    power = float(np.mean(cut**2))
    if not power:
        return clip
    return to_int16(speech + cut * np.sqrt(np.mean(speech**2) / power / 10 ** (snr_db / 10)))


def names_of(noises: Sequence[Noise]) -> tuple[str, ...]:
    """Names in order; SpecError where two are the same."""
    names = tuple(noise.name for noise in noises)
    if len(set(names)) != len(names):
        raise SpecError(f"noise names {list(names)} must differ")
    return names
