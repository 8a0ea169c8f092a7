"""Streaming histograms: memory is O(bins) for each tensor, however long the streams are."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError

_MIN_EXPONENT = -160
"""Bins narrower than the smallest float32, 2**-149: everything but 0 outgrows them."""


class StreamingHistogram:
    """Counts of values in bins of width ``2**exponent`` aligned at 0; bins double in width when the data outgrow them.

    Because bins only ever merge in pairs, the counts are what one pass over all values with the final bins would give.
    """

    def __init__(self, name: str, n_bins: int) -> None:
        self.name = name
        self.minimum = math.inf
        self.maximum = -math.inf
        self.counts = np.zeros(n_bins, dtype=np.int64)
        self._exponent = _MIN_EXPONENT
        self._first = 0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """Middle of each bin, ``[n_bins]``."""
        centers: npt.NDArray[np.float64] = np.ldexp(self._first + np.arange(self.counts.size) + 0.5, self._exponent)
        return centers

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Lower edge of each bin and the upper edge of the last, ``[n_bins + 1]``."""
        edges: npt.NDArray[np.float64] = np.ldexp(
            (self._first + np.arange(self.counts.size + 1)).astype(np.float64), self._exponent
        )
        return edges

    def observe(self, values: npt.NDArray[np.float32]) -> None:
        """Count all ``values`` (any shape). Raises ExportError where one is NaN or infinite."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ExportError(
                f"activation {self.name!r} is NaN or infinite during calibration; check weights and features"
            )
        if low < self.minimum or high > self.maximum:
            self._grow(min(low, self.minimum), max(high, self.maximum))
        # A power of two scales float64 without rounding, so every value falls into its own bin exactly.
        index = np.floor(values.ravel().astype(np.float64) * 2.0**-self._exponent).astype(np.int64) - self._first
        self.counts += np.bincount(index, minlength=self.counts.size)

    def _grow(self, minimum: float, maximum: float) -> None:
        # 0 always has a bin: a range contains it, and a constant alone would need bins without end.
        low, high = min(minimum, 0.0), max(maximum, 0.0)
        exponent = max(self._exponent, _exponent_for(low, high, self.counts.size))
        first = math.floor(low * 2.0**-exponent)
        used = np.flatnonzero(self.counts)
        counts = np.zeros_like(self.counts)
        if used.size:
            index = (used + self._first) >> min(exponent - self._exponent, 62)
            np.add.at(counts, index - first, self.counts[used])
        self.counts, self._first, self._exponent = counts, first, exponent
        self.minimum, self.maximum = minimum, maximum


def _exponent_for(minimum: float, maximum: float, n_bins: int) -> int:
    """Smallest bin width, as a power of two, for which ``n_bins`` aligned bins hold both ends."""
    span = maximum - minimum
    exponent = max(_MIN_EXPONENT, math.floor(math.log2(span / n_bins)) - 1) if span > 0.0 else _MIN_EXPONENT
    while math.floor(maximum * 2.0**-exponent) - math.floor(minimum * 2.0**-exponent) >= n_bins:
        exponent += 1
    return exponent
