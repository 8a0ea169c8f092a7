"""Codebooks: uniform ones with the best clip, Lloyd-Max ones, and the error of any on a density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from edgeaudio_export.theory.densities import Density, Float64
from edgeaudio_runtime.errors import SpecError

MAX_BITS = 16
"""Most bits of a codebook here: beyond them float64 no longer resolves the error beside the power."""

_GRID = 96
_CONVERGED = 1e-7
_MAX_ROUNDS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class BestClip:
    """The uniform quantizer with the least mean square error on a density."""

    clip: float
    """Where codes end, in the units of the source: the largest level of a mid-tread codebook, the outer end of the
    last cell of a mid-rise one (as Max and the literature count)."""
    step: float
    """Distance of two levels."""
    mse: float
    """Mean square error."""
    sqnr_db: float
    """Power of the source over it, in dB."""


def check_bits(bits: int) -> int:
    """The same number, if it is one of a codebook.

    Raises:
        SpecError: It is not in 2 to 16.
    """
    if not 2 <= bits <= MAX_BITS:
        raise SpecError(f"bits={bits} must be in [2, {MAX_BITS}]; the symmetric quantizer of 1 bit has one code, 0")
    return bits


def symmetric_levels(bits: int, step: float) -> Float64:
    """Levels of the weight quantizer of this project: ``step * k`` for k in ``-(2**(bits-1)-1)..2**(bits-1)-1``."""
    half = 2 ** (check_bits(bits) - 1) - 1
    levels: Float64 = step * np.arange(-half, half + 1, dtype=np.float64)
    return levels


def midrise_levels(n_levels: int, step: float) -> Float64:
    """Levels ``step * (k + 1/2)`` around 0, an even number of them: what Max (1960) tabulates."""
    if n_levels < 2 or n_levels % 2:
        raise SpecError(f"n_levels={n_levels} must be even and >= 2; a mid-rise codebook has no level at 0")
    levels: Float64 = step * (np.arange(n_levels, dtype=np.float64) - (n_levels - 1) / 2)
    return levels


def codebook_mse(density: Density, levels: Float64) -> float:
    """Mean square error when every value goes to its nearest level.

    ``sum over cells of integral (x - level)**2 p(x) dx``, the cells ending midway between ascending ``levels``; what
    lies beyond the outer ones is overload and counts in full.
    """
    return _round(density, levels)[1]


def best_symmetric_clip(density: Density, bits: int) -> BestClip:
    """Least error of :func:`symmetric_levels` over the step; the clip is the largest level."""
    half = 2 ** (check_bits(bits) - 1) - 1
    step = _best_step(density, lambda s: symmetric_levels(bits, s), density.largest / half)
    return _clip(density, symmetric_levels(bits, step), half * step)


def best_midrise_clip(density: Density, n_levels: int) -> BestClip:
    """Least error of :func:`midrise_levels` over the step; the clip is ``n_levels * step / 2``."""
    step = _best_step(density, lambda s: midrise_levels(n_levels, s), 2 * density.largest / n_levels)
    return _clip(density, midrise_levels(n_levels, step), n_levels * step / 2)


def lloyd_max(density: Density, n_levels: int) -> Float64:
    """Levels of least mean square error, ascending ``[n_levels]``: centroids and midpoints in turn until both hold.

    Starts from the companded levels, the best ones in the limit of many. Each round moves every level to the centroid
    of its cell and then on in the direction of its last movement (Nesterov's momentum, dropped whenever the error
    rises): the plain iteration needs rounds in proportion to the square of the number of levels. Ends when no centroid
    is farther from its level than 1e-7 of the source's root mean square.

    Sources: Lloyd, IEEE Transactions on Information Theory 28 (1982) 129-137; Max, IRE Transactions on Information
    Theory 6 (1960) 7-12.

    Raises:
        SpecError: Fewer than 2 levels.
    """
    if n_levels < 2:
        raise SpecError(f"n_levels={n_levels} must be >= 2; one level is the mean")
    tolerance = _CONVERGED * math.sqrt(density.mean_square)
    levels = ahead = density.companded(n_levels)
    error, age = math.inf, 0
    for _ in range(_MAX_ROUNDS):
        moved, reached = _round(density, ahead)
        if reached > error and age:
            ahead, age = levels, 0
            continue
        if float(np.abs(moved - ahead).max()) <= tolerance:
            return moved
        age, error = age + 1, reached
        ahead = moved + (age - 1) / (age + 2) * (moved - levels)
        levels = moved
        if (np.diff(ahead) <= 0).any():
            ahead, age = levels, 0
    return levels


def _round(density: Density, levels: Float64) -> tuple[Float64, float]:
    """Centroids of the cells of ``levels``, and the error before they moved."""
    mass, first, second = _cells(density, levels)
    # A cell that holds nothing has no centroid; its level stays where it is.
    centroids = np.divide(first, mass, out=levels.copy(), where=mass > 0)
    return centroids, float(np.sum(second - 2 * levels * first + levels**2 * mass))


def sqnr_of(density: Density, mse: float) -> float:
    """Power of the source over an error, in dB."""
    return float(10 * np.log10(density.mean_square / mse))


def _best_step(density: Density, levels: Callable[[float], Float64], widest: float) -> float:
    """The best of a geometric grid from 1/64 of the widest step, refined: on a measured density the error has dips."""

    def error(log_step: float) -> float:
        return codebook_mse(density, levels(math.exp(log_step)))

    grid = np.linspace(math.log(widest / 64), math.log(widest * 2), _GRID)
    best = int(np.argmin([error(x) for x in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    found = minimize_scalar(error, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    return math.exp(float(found.x))


def _clip(density: Density, levels: Float64, clip: float) -> BestClip:
    mse = codebook_mse(density, levels)
    return BestClip(clip=clip, step=float(levels[1] - levels[0]), mse=mse, sqnr_db=sqnr_of(density, mse))


def _cells(density: Density, levels: Float64) -> tuple[Float64, Float64, Float64]:
    ends = np.concatenate(([-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]))
    mass, first, second = (np.diff(moment) for moment in density.moments(ends))
    return mass, first, second
