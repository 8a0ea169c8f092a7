"""Calibration: streaming histograms of activations and the int8 range chosen from them.

One implementation serves both quantization paths. Memory is O(bins) for each tensor, however long the streams are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_runtime.quantization import QuantParams

Method = Literal["mse", "minmax"]
"""How a range is chosen: least squared rounding and clipping error over the histogram, or everything that was seen."""

N_LEVELS = 255
"""Steps between the 256 codes of int8."""
WEIGHT_LEVELS = 127
"""Largest weight code; -128 is not used, so that weights are symmetric."""
MIN_RELATIVE_WEIGHT_SCALE = 2.0**-10
"""A channel's weight scale is at least this share of the largest channel's: finer steps vanish in the shared
activation scale, and the int32 bias of a dead channel would overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSpec:
    """How activation ranges are found."""

    method: Method = "mse"
    """"mse" (error-minimizing range) or "minmax"."""
    n_bins: int = 4096
    """Bins of each histogram, >= 256; between half and all of them span the data."""
    batch: int = 32
    """Streams rolled out side by side, >= 1; changes speed and memory only."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ExportError(f"method={self.method!r} must be one of {list(get_args(Method))}")
        if self.n_bins < 256:
            raise ExportError(f"n_bins={self.n_bins} must be >= 256, the number of int8 codes; 4096 is the default")
        if self.batch < 1:
            raise ExportError(f"batch={self.batch} must be >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What a tensor held during calibration and what its codes will cover."""

    minimum: float
    """Smallest value seen."""
    maximum: float
    """Largest value seen."""
    low: float
    """Lower end that int8 covers, <= 0."""
    high: float
    """Upper end that int8 covers, >= 0."""

    def params(self) -> QuantParams:
        """The affine int8 parameters that cover ``[low, high]`` with an exact code for 0."""
        scale = np.float32((self.high - self.low) / N_LEVELS)
        zero_point = int(np.clip(np.rint(-128 - self.low / float(scale)), -128, 127))
        return QuantParams(scale=(float(scale),), zero_point=zero_point)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFacts:
    """What a manifest says about calibration."""

    method: Method
    """As in :class:`CalibrationSpec`."""
    n_bins: int
    """As in :class:`CalibrationSpec`."""
    clips: int
    """Streams that were rolled out, each from reset."""
    frames: int
    """Feature frames in all of them."""
    ranges: dict[str, Range]
    """Range of each group of tied tensors, by the name of its first member."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


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
    def centers(self) -> npt.NDArray[np.float64]:
        """Middle of each bin, ``[n_bins]``."""
        centers: npt.NDArray[np.float64] = np.ldexp(self._first + np.arange(self.counts.size) + 0.5, self._exponent)
        return centers

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

    def range(self, method: Method) -> Range:
        """Choose the range that int8 covers; it always contains 0.

        Raises:
            ExportError: Nothing was observed, or every value was 0.
        """
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if self.minimum > self.maximum:
            raise ExportError(
                f"activation {self.name!r} was never computed during calibration; give at least one stream"
            )
        if low == high:
            raise ExportError(
                f"activation {self.name!r} was 0 throughout calibration, a range of 0 has no scale; "
                "calibrate on streams that excite it, or remove the dead layer"
            )
        if method == "mse":
            low, high = self._least_error(low, high)
        return Range(minimum=self.minimum, maximum=self.maximum, low=low, high=high)

    def _least_error(self, low: float, high: float) -> tuple[float, float]:
        """Coarse geometric grid of both ends, then a fine one around the best."""
        used = np.flatnonzero(self.counts)
        centers, counts = self.centers[used], self.counts[used].astype(np.float64)
        coarse = 2.0 ** (-np.arange(36) / 6)
        best = _best_ends(centers, counts, low * coarse if low else np.zeros(1), high * coarse if high else np.zeros(1))
        fine = 2.0 ** (np.arange(-7, 8) / 48)
        lows = np.maximum(best[0] * fine, low) if low else np.zeros(1)
        highs = np.minimum(best[1] * fine, high) if high else np.zeros(1)
        return _best_ends(centers, counts, lows, highs)


def rounding_error(
    values: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: float,
) -> npt.NDArray[np.float64]:
    """Summed squared int8 error of weighted ``values [V]`` for the ranges ``[low[i], high]``; shape of ``low``."""
    scale = ((high - low) / N_LEVELS)[:, None]
    zero_point = np.clip(np.rint(-128 - low[:, None] / scale), -128, 127)
    codes = np.clip(np.rint(values[None, :] / scale) + zero_point, -128, 127)
    error: npt.NDArray[np.float64] = np.square(values[None, :] - (codes - zero_point) * scale) @ counts
    return error


def weight_scales(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Symmetric scale of each output channel: ``max |w| / 127`` over all axes but the first; float32 ``[O]``.

    A channel far below the largest gets ``MIN_RELATIVE_WEIGHT_SCALE`` of it; weights that are all 0 get scale 1.
    """
    largest = np.abs(weights.astype(np.float64)).reshape(weights.shape[0], -1).max(axis=1)
    floor = largest.max() * MIN_RELATIVE_WEIGHT_SCALE
    if floor == 0.0:
        return np.ones(weights.shape[0], dtype=np.float32)
    scales: npt.NDArray[np.float32] = (np.maximum(largest, floor) / WEIGHT_LEVELS).astype(np.float32)
    return scales


def _exponent_for(minimum: float, maximum: float, n_bins: int) -> int:
    """Smallest bin width, as a power of two, for which ``n_bins`` aligned bins hold both ends."""
    span = maximum - minimum
    exponent = max(_MIN_EXPONENT, math.floor(math.log2(span / n_bins)) - 1) if span > 0.0 else _MIN_EXPONENT
    while math.floor(maximum * 2.0**-exponent) - math.floor(minimum * 2.0**-exponent) >= n_bins:
        exponent += 1
    return exponent


def _best_ends(
    centers: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    lows: npt.NDArray[np.float64],
    highs: npt.NDArray[np.float64],
) -> tuple[float, float]:
    errors = np.stack([rounding_error(centers, counts, lows, float(high)) for high in highs], axis=1)
    row, column = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return float(lows[row]), float(highs[column])
