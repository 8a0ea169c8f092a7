"""Probability densities by their cumulative moments, in which every quantization error is a closed sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from edgeaudio_runtime.errors import SpecError

Float64 = npt.NDArray[np.float64]


class Density(Protocol):
    """What quantizers need to know of a source."""

    @property
    def mean_square(self) -> float:
        """Power of the source."""
        ...

    @property
    def largest(self) -> float:
        """Magnitude beyond which there is nothing, or nothing that matters (8 standard deviations of a Gaussian)."""
        ...

    @property
    def entropy_bits(self) -> float:
        """Differential entropy in bits."""
        ...

    def moments(self, t: Float64) -> tuple[Float64, Float64, Float64]:
        """Integrals of ``p``, ``x p`` and ``x**2 p`` from minus infinity to each ``t``."""
        ...

    def companded(self, n_levels: int) -> Float64:
        """Quantiles of ``p**(1/3)``, scaled to a density, ascending ``[n_levels]``: where many levels lie best."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """The Gaussian density of mean 0 and variance 1."""

    @property
    def mean_square(self) -> float:
        """1."""
        return 1.0

    @property
    def largest(self) -> float:
        """8 standard deviations: beyond lies 1e-15 of the mass."""
        return 8.0

    @property
    def entropy_bits(self) -> float:
        """``log2(2 pi e) / 2``."""
        return float(np.log2(2 * np.pi * np.e)) / 2

    def moments(self, t: Float64) -> tuple[Float64, Float64, Float64]:
        """``Phi(t)``, ``-phi(t)`` and ``Phi(t) - t phi(t)``."""
        mass, height = ndtr(t), np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)
        # t * phi(t) vanishes at infinity, but inf * 0 is not a number.
        return mass, -height, mass - np.where(np.isinf(t), 0.0, t) * height

    def companded(self, n_levels: int) -> Float64:
        """Quantiles of a Gaussian of variance 3, which is what the cube root of the density is."""
        quantiles: Float64 = np.sqrt(3.0) * ndtri(_midpoints_of_unity(n_levels))
        return quantiles


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histogram:
    """A measured density: constant within each bin."""

    edges: Float64
    """Ascending ``[n_bins + 1]``."""
    masses: Float64
    """Share of the values in each bin, ``[n_bins]``; they add up to 1."""

    @classmethod
    def of(cls, values: npt.NDArray[np.floating[Any]]) -> Histogram:
        """The histogram of values, any shape, with bins of equal width.

        The width is that of Freedman and Diaconis (1981), ``2 IQR / n**(1/3)``, within 8 to 512 bins.

        Raises:
            SpecError: A value is not finite, or all are equal.
        """
        flat = np.asarray(values, np.float64).ravel()
        if not flat.size or not np.isfinite(flat).all() or flat.min() == flat.max():
            raise SpecError("values must be finite and not all equal; a constant has no density")
        low, high = np.percentile(flat, [25, 75])
        width = 2 * (high - low) / flat.size ** (1 / 3)
        bins = np.ceil(np.ptp(flat) / width) if width > 0 else MAX_BINS
        counts, edges = np.histogram(flat, int(np.clip(bins, MIN_BINS, MAX_BINS)))
        return cls(edges=edges, masses=counts / flat.size)

    @property
    def mean_square(self) -> float:
        """Of the density, which is not quite that of the values."""
        return float(self._cumulative()[2][-1])

    @property
    def largest(self) -> float:
        """Magnitude of the outer edge."""
        return float(np.abs(self.edges).max())

    @property
    def entropy_bits(self) -> float:
        """``-sum(mass * log2(mass / width))``: exact for this density, an estimate for the source of the values."""
        full = self.masses > 0
        heights = self.masses[full] / np.diff(self.edges)[full]
        return float(-np.sum(self.masses[full] * np.log2(heights)))

    def moments(self, t: Float64) -> tuple[Float64, Float64, Float64]:
        """Sums of whole bins, and the polynomial within the bin of each ``t``."""
        t = np.clip(t, self.edges[0], self.edges[-1])
        index = np.clip(np.searchsorted(self.edges, t, side="right") - 1, 0, self.masses.size - 1)
        start, height = self.edges[index], (self.masses / np.diff(self.edges))[index]
        whole = self._cumulative()
        return (
            whole[0][index] + height * (t - start),
            whole[1][index] + height * (t**2 - start**2) / 2,
            whole[2][index] + height * (t**3 - start**3) / 3,
        )

    def companded(self, n_levels: int) -> Float64:
        """Quantiles of the cube root, by interpolation."""
        widths = np.diff(self.edges)
        roots = np.cbrt(self.masses / widths) * widths
        share = np.concatenate(([0.0], np.cumsum(roots))) / roots.sum()
        return np.interp(_midpoints_of_unity(n_levels), share, self.edges)

    def _cumulative(self) -> tuple[Float64, Float64, Float64]:
        heights = self.masses / np.diff(self.edges)
        powers = [heights * np.diff(self.edges**k) / k for k in (1, 2, 3)]
        first, second, third = (np.concatenate(([0.0], np.cumsum(p))) for p in powers)
        return first, second, third


MIN_BINS, MAX_BINS = 8, 512
"""Bins of a measured density; few weights leave few, and more than 512 show no more."""


def _midpoints_of_unity(count: int) -> Float64:
    midpoints: Float64 = (np.arange(count) + 0.5) / count
    return midpoints
