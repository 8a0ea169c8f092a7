"""Closed forms: what they say, where they end, and the popular ones that are wrong."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from edgeaudio_export.theory.codebooks import check_bits, codebook_mse, midrise_levels, sqnr_of
from edgeaudio_export.theory.densities import Density, Gaussian

DB_PER_BIT = 20 * math.log10(2)
"""6.02 dB."""


def granular_mse(step: float) -> float:
    """``step**2 / 12``: the error of values spread evenly over their cell, without overload."""
    return step**2 / 12


def sqnr_formula_db(bits: int, loading: float) -> float:
    """``6.02 b + 4.77 - 20 log10(alpha / sigma)`` dB: ``step**2 / 12`` with ``2**b`` cells over ``[-alpha, alpha]``.

    Args:
        bits: b.
        loading: ``alpha / sigma``, the clip in standard deviations of the source.

    Knows nothing of overload. 4.77 is ``10 log10(3)``; for a uniform source over the whole range the loading is
    ``sqrt(3)``, which takes it away again: 6.02 b dB.
    """
    return DB_PER_BIT * check_bits(bits) + 10 * math.log10(3) - 20 * math.log10(loading)


def gaussian_overload_mse(clip: float) -> float:
    """``2 * integral from clip of (x - clip)**2 phi(x) dx = 2 ((1 + clip**2) Q(clip) - clip phi(clip))``."""
    tail, height = float(ndtr(-clip)), math.exp(-0.5 * clip**2) / math.sqrt(2 * math.pi)
    return 2 * ((1 + clip**2) * tail - clip * height)


def gaussian_model_clip(bits: int) -> float:
    """The clip in sigma where ``step**2 / 12`` plus overload is least, ``step = 2 alpha / 2**b``.

    Setting the derivative to 0: ``phi(a) / a - Q(a) = 1 / (6 * 4**b)``, solved for ``a``. This is the condition of Hui
    and Neuhoff, IEEE Transactions on Information Theory 47 (2001) 957-977, whose support it is asymptotically, and what
    ACIQ (Banner and others, NeurIPS 2019) minimises.
    """
    target = -math.log(6) - check_bits(bits) * math.log(4)

    def excess(clip: float) -> float:
        # In logarithms: at 16 bits both terms are below 1e-9 of what float64 resolves beside 1.
        log_height = -0.5 * clip**2 - 0.5 * math.log(2 * math.pi) - math.log(clip)
        return log_height + math.log(-math.expm1(float(log_ndtr(-clip)) - log_height)) - target

    return float(brentq(excess, 0.1, 12.0, xtol=1e-12))


def gaussian_leading_clip(bits: int) -> float:
    """``2 sqrt(ln(2**b)) = sqrt(4 b ln 2)`` sigma: the first term of the law for many levels, often printed as it.

    It is not the optimum at any width in use: the terms left out shrink like ``ln ln N / sqrt(ln N)``.
    """
    return 2 * math.sqrt(check_bits(bits) * math.log(2))


def gaussian_clip_sqnr_db(bits: int, clip: float) -> float:
    """SQNR of ``2**b`` mid-rise levels over ``[-clip, clip]`` sigma on a Gaussian, overload included."""
    levels = midrise_levels(2 ** check_bits(bits), 2 * clip / 2**bits)
    return sqnr_of(Gaussian(), codebook_mse(Gaussian(), levels))


def shannon_bound_db(density: Density, bits: float) -> float:
    """Largest SQNR of any code, vector codes included: ``6.02 b`` plus what the shape of the source gives.

    The Shannon lower bound on the error is ``2**(2 h) / (2 pi e) * 2**(-2 b)`` with h the differential entropy in bits;
    for a Gaussian it is the rate-distortion function itself, ``sigma**2 * 2**(-2 b)``. Source: Shannon 1959; Cover and
    Thomas, Elements of Information Theory, chapter 10. At few bits it may lie above what can be reached.
    """
    entropy_power = 2 ** (2 * density.entropy_bits) / (2 * np.pi * np.e)
    return float(10 * np.log10(density.mean_square / entropy_power)) + DB_PER_BIT * bits
