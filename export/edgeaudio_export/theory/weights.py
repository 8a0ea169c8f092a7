"""Measured weights beside the lines of theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.theory.codebooks import best_symmetric_clip, codebook_mse, lloyd_max, sqnr_of
from edgeaudio_export.theory.densities import Histogram
from edgeaudio_export.theory.limits import shannon_bound_db
from edgeaudio_export.theory.quantizers import clipped_quantizer, sqnr_db, symmetric_quantizer
from edgeaudio_runtime.errors import SpecError

Floats = npt.NDArray[np.floating[Any]]

BITS = (8, 6, 4)
"""Widths at which weights are measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WidthLoss:
    """What quantizers of one width leave of one tensor; SQNR in dB, None where nothing is lost."""

    bits: int
    """Width."""
    per_tensor: float | None
    """One symmetric scale, ``max|w|``: measured on the weights."""
    per_channel: float | None
    """One symmetric scale for each output channel, as a bundle has: measured on the weights."""
    best_clip: float | None
    """One symmetric scale with the clip of least error for the measured density, or none where none is better:
    measured on the weights."""
    clip: float
    """That clip, in the units of the weights."""
    lloyd_max: float
    """A codebook of ``2**bits`` levels for the whole tensor, on the measured density."""
    bound: float
    """Shannon lower bound of the measured density; one density for the whole tensor, as without channels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightLoss:
    """One weight tensor."""

    name: str
    """Layer of the exported graph."""
    shape: tuple[int, ...]
    """``[O, ...]``, output channels first."""
    deviation: float
    """Root mean square of the weights."""
    loading: float
    """``max|w|`` over the root mean square: how many sigma a scale without clipping covers."""
    density: Histogram
    """Measured."""
    widths: tuple[WidthLoss, ...]
    """One for each width, as asked for."""


def is_constant(weights: Floats) -> bool:
    """Whether all weights are one value, as those of an average: any quantizer holds them, and no density has them."""
    return bool(np.ptp(weights) == 0)


def measure_weights(name: str, weights: Floats, bits: Sequence[int] = BITS) -> WeightLoss:
    """Quantize one weight tensor in every way at every width.

    Args:
        name: Of the tensor, for errors.
        weights: ``[O, ...]``, output channels first, batch norms folded.
        bits: Widths, each 2 to 16.

    Raises:
        SpecError: A weight is NaN or infinite, all are equal, or a width is out of range.
    """
    if not np.isfinite(weights).all():
        raise SpecError(f"weight {name!r} holds NaN or infinite values; train again or load another checkpoint")
    if is_constant(weights):
        raise SpecError(f"weight {name!r} is constant; it has no density, leave it out")
    density = Histogram.of(weights)
    deviation = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64))))
    return WeightLoss(
        name=name,
        shape=weights.shape,
        deviation=deviation,
        loading=float(np.abs(weights).max()) / deviation,
        density=density,
        widths=tuple(_measure_width(weights, density, width) for width in bits),
    )


def _measure_width(weights: Floats, density: Histogram, bits: int) -> WidthLoss:
    per_tensor = sqnr_db(weights, symmetric_quantizer(weights, bits)(weights))
    best_clip, clip = _best_clip(weights, density, bits, per_tensor)
    levels = lloyd_max(density, 2**bits)
    return WidthLoss(
        bits=bits,
        per_tensor=per_tensor,
        per_channel=sqnr_db(weights, symmetric_quantizer(weights, bits, per_channel=True)(weights)),
        best_clip=best_clip,
        clip=clip,
        lloyd_max=sqnr_of(density, codebook_mse(density, levels)),
        bound=shannon_bound_db(density, bits),
    )


def _best_clip(weights: Floats, density: Histogram, bits: int, unclipped: float | None) -> tuple[float | None, float]:
    """SQNR and clip; no clip where it loses, which the few weights of a layer decide and not their density."""
    clip = best_symmetric_clip(density, bits).clip
    clipped = sqnr_db(weights, clipped_quantizer(clip, bits)(weights))
    if unclipped is None or (clipped is not None and clipped <= unclipped):
        return unclipped, float(np.abs(weights).max())
    return clipped, clip
