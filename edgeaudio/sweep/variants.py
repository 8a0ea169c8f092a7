"""Fixed shifts and gains: a thousand clips heard once cannot resolve 0.3 points, heard in sixteen ways they can."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError

Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to hear a clip."""

    shift_ms: float
    """Later by this many milliseconds; negative is earlier. Digital silence fills what the shift uncovers."""
    gain_db: float
    """Louder by this many dB; what passes full scale is clipped, as by a converter."""

    def apply(self, samples: Int16, sample_rate: int) -> Int16:
        """The clip ``[n]`` as this variant sounds, at ``sample_rate`` (Hz); a shift is whole samples."""
        shift = round(self.shift_ms * sample_rate / 1000)
        heard = np.zeros(len(samples), dtype=np.float64)
        kept = max(0, len(samples) - abs(shift))
        source, target = (0, shift) if shift >= 0 else (-shift, 0)
        heard[target : target + kept] = samples[source : source + kept]
        loud: Int16 = np.clip(np.rint(heard * 10 ** (self.gain_db / 20)), -32768, 32767).astype(np.int16)
        return loud

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


VARIANTS = tuple(
    Variant(shift_ms=shift_ms, gain_db=gain_db)
    for shift_ms, gain_db in (
        (0.0, 0.0),
        (2.3125, -3.0),
        (-3.6875, 4.0),
        (5.0, -10.0),
        (-5.0, 10.0),
        (7.9375, -20.0),
        (-11.25, 0.0),
        (13.0625, 6.0),
        (20.0, -6.0),
        (-20.0, -15.0),
        (31.1875, 2.0),
        (-37.5, -8.0),
        (50.0625, 8.0),
        (-62.8125, -1.0),
        (87.6875, -17.0),
        (-100.0, -12.0),
    )
)
"""Sixteen; the first is the clip as it is.

Shifts reach from parts of a hop (2.3125 ms are 37 samples at 16 kHz) over parts of a network step to a tenth of a
second, gains from far away to a clipping microphone; both lie within what training augments with by default.
"""


def first_variants(count: int) -> tuple[Variant, ...]:
    """The first ``count`` of :data:`VARIANTS`.

    Raises:
        SpecError: There are not so many.
    """
    if not 1 <= count <= len(VARIANTS):
        raise SpecError(f"variants={count} must be 1..{len(VARIANTS)}, as many as are fixed")
    return VARIANTS[:count]
