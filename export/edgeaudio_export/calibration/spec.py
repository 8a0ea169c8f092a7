"""How ranges shall be found, and what a manifest says about how they were."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edgeaudio_export.calibration.ranges import Range
from edgeaudio_export.errors import ExportError

Method = Literal["mse", "minmax", "moving_average", "percentile", "entropy"]
"""How a range is chosen; see :mod:`edgeaudio_export.calibration.ranges`."""
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSpec:
    """How activation ranges are found."""

    method: Method = "mse"
    """"mse" (least squared rounding and clipping error), "minmax" (everything that was seen), "moving_average" (of the
    smallest and largest value of each stream), "percentile" or "entropy" (least Kullback-Leibler divergence)."""
    n_bins: int = 4096
    """Bins of each histogram, >= 256; between half and all of them span the data."""
    percentile: float = 99.99
    """Share of the values that "percentile" covers, in percent, above 50, at most 100; the rest is cut off half at
    each end."""
    momentum: float = 0.99
    """Weight of what was before in "moving_average" when the next stream has been seen, in [0, 1)."""
    batch: int = 32
    """Streams rolled out side by side, >= 1; changes speed and memory only."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ExportError(f"method={self.method!r} must be one of {list(METHODS)}")
        if self.n_bins < 256:
            raise ExportError(f"n_bins={self.n_bins} must be >= 256, the number of int8 codes; 4096 is the default")
        if not 50.0 < self.percentile <= 100.0:
            raise ExportError(f"percentile={self.percentile} must be above 50 and at most 100; 99.99 is the default")
        if not 0.0 <= self.momentum < 1.0:
            raise ExportError(f"momentum={self.momentum} must be in [0, 1); 0.99 is the default")
        if self.batch < 1:
            raise ExportError(f"batch={self.batch} must be >= 1")

    def parameters(self) -> dict[str, float]:
        """What the method depends on beside the data: its own parameter, if it has one."""
        own = {"percentile": self.percentile, "moving_average": self.momentum}
        names = {"percentile": "percentile", "moving_average": "momentum"}
        return {names[self.method]: own[self.method]} if self.method in own else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFacts:
    """What a manifest says about calibration."""

    method: Method
    """As in :class:`CalibrationSpec`."""
    parameters: dict[str, float]
    """Of the method, by name; empty if it has none."""
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
