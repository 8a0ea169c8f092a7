"""Audio for the ladder: the golden recording and any clips, at many levels, with noise and silence between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Int16 = npt.NDArray[np.int16]

_LEVELS_DB = (0.0, -12.0, -30.0, 6.0, -50.0)
_NOISE_DBFS = (-70.0, -40.0, -20.0)


def probe_stream(clips: Sequence[Int16], *, n_samples: int, sample_rate: int, seed: int = 0) -> Int16:
    """One stream ``[n_samples]``: clip after clip, each round at another level, silence and noise in every gap.

    Args:
        clips: Recordings; repeated as often as needed, so one is enough.
        n_samples: Length of the stream.
        sample_rate: For the lengths of the gaps.
        seed: Of order and noise.
    """
    generator = np.random.default_rng(seed)
    parts: list[Int16] = []
    length = 0
    while length < n_samples:
        level = _LEVELS_DB[len(parts) % len(_LEVELS_DB)]
        for index in generator.permutation(len(clips)):
            piece = np.concatenate([at_level(clips[index], level), _gap(generator, sample_rate)])
            parts.append(piece)
            length += len(piece)
            if length >= n_samples:
                break
    return np.concatenate(parts)[:n_samples]


def random_chunks(samples: Int16, *, seed: int = 0, longest: int = 4000) -> list[Int16]:
    """Cut a stream into chunks of 0 to ``longest`` samples, short ones as likely as long ones."""
    generator = np.random.default_rng(seed)
    cuts, position = [], 0
    while position < len(samples):
        position += int(longest ** generator.random()) - (generator.random() < 0.1)
        cuts.append(position)
    return np.split(samples, cuts)


def at_level(samples: Int16, level_db: float) -> Int16:
    """Samples louder by ``level_db``, cut off at full scale."""
    return to_int16(samples * 10 ** (level_db / 20))


def to_int16(values: npt.NDArray[np.floating[Any]]) -> Int16:
    """Values in units of one code, rounded to even and cut off at full scale."""
    codes: Int16 = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return codes


def _gap(generator: np.random.Generator, sample_rate: int) -> Int16:
    length = int(generator.integers(sample_rate // 20, sample_rate // 2))
    if generator.random() < 0.3:
        return np.zeros(length, dtype=np.int16)
    amplitude = 32768 * 10 ** (generator.choice(_NOISE_DBFS) / 20)
    return to_int16(amplitude * generator.standard_normal(length))
