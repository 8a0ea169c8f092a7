"""The lines of theory, width by width: what a Gaussian and a uniform source lose, and what formulas claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeaudio_export.theory.codebooks import (
    best_midrise_clip,
    best_symmetric_clip,
    codebook_mse,
    lloyd_max,
    midrise_levels,
    sqnr_of,
)
from edgeaudio_export.theory.densities import Gaussian, Histogram
from edgeaudio_export.theory.limits import (
    DB_PER_BIT,
    gaussian_clip_sqnr_db,
    gaussian_leading_clip,
    gaussian_model_clip,
    granular_mse,
    shannon_bound_db,
    sqnr_formula_db,
)

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""Widths that the lines are drawn for, in bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianLine:
    """A Gaussian source at one width; clips in sigma, SQNR in dB."""

    bits: int
    """Width."""
    clip: float
    """Best clip of the symmetric quantizer, ``2**bits - 1`` codes: its largest level."""
    sqnr: float
    """Of that quantizer."""
    granular_share: float
    """``step**2 / 12`` over the whole error of that quantizer: 1 where the formula holds, less with overload."""
    lloyd_max: float
    """SQNR of the best ``2**bits`` levels."""
    bound: float
    """Rate-distortion function: 6.02 dB a bit."""
    midrise_clip: float
    """Best clip of ``2**bits`` mid-rise levels, as tabulated by Max (1960)."""
    midrise_sqnr: float
    """Of those levels."""
    model_clip: float
    """Clip where ``step**2 / 12`` plus overload is least."""
    model_sqnr: float
    """SQNR of ``2**bits`` mid-rise levels with it."""
    leading_clip: float
    """``2 sqrt(ln(2**bits))``, the closed form often printed."""
    leading_sqnr: float
    """SQNR of ``2**bits`` mid-rise levels with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformLine:
    """A uniform source over the whole range at one width; SQNR in dB."""

    bits: int
    """Width."""
    exact: float
    """``2**bits`` mid-rise levels, from the integral of the error."""
    formula: float
    """``6.02 b + 4.77 - 20 log10(alpha / sigma)`` with the loading of a uniform source, ``sqrt(3)``."""
    misread: float
    """``6.02 b + 4.77``: the same formula without its last term."""


def gaussian_lines(widths: Sequence[int] = WIDTHS) -> tuple[GaussianLine, ...]:
    """One line for each width."""
    return tuple(_gaussian_line(bits) for bits in widths)


def uniform_lines(widths: Sequence[int] = WIDTHS) -> tuple[UniformLine, ...]:
    """One line for each width."""
    source = Histogram(edges=np.array([-1.0, 1.0]), masses=np.array([1.0]))
    return tuple(
        UniformLine(
            bits=bits,
            exact=sqnr_of(source, codebook_mse(source, midrise_levels(2**bits, 2.0 / 2**bits))),
            formula=sqnr_formula_db(bits, float(np.sqrt(3))),
            misread=DB_PER_BIT * bits + float(10 * np.log10(3)),
        )
        for bits in widths
    )


def _gaussian_line(bits: int) -> GaussianLine:
    source = Gaussian()
    best, midrise = best_symmetric_clip(source, bits), best_midrise_clip(source, 2**bits)
    model, leading = gaussian_model_clip(bits), gaussian_leading_clip(bits)
    return GaussianLine(
        bits=bits,
        clip=best.clip,
        sqnr=best.sqnr_db,
        granular_share=granular_mse(best.step) / best.mse,
        lloyd_max=sqnr_of(source, codebook_mse(source, lloyd_max(source, 2**bits))),
        bound=shannon_bound_db(source, bits),
        midrise_clip=midrise.clip,
        midrise_sqnr=midrise.sqnr_db,
        model_clip=model,
        model_sqnr=gaussian_clip_sqnr_db(bits, model),
        leading_clip=leading,
        leading_sqnr=gaussian_clip_sqnr_db(bits, leading),
    )
