"""What calibration remembers of one group of activations: a histogram and a moving average of the extremes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeaudio_export.calibration.histogram import StreamingHistogram
from edgeaudio_export.calibration.methods import Ends, entropy_ends, least_error_ends, percentile_ends, seen_ends
from edgeaudio_export.calibration.ranges import CODE_BITS, Range
from edgeaudio_export.calibration.spec import CalibrationSpec
from edgeaudio_export.errors import ExportError


class ActivationStatistics:
    """Statistics from which every method chooses; their size does not depend on how much was seen."""

    def __init__(self, name: str, spec: CalibrationSpec) -> None:
        self.name = name
        self.histogram = StreamingHistogram(name, spec.n_bins)
        self._momentum = spec.momentum
        self._average: npt.NDArray[np.float64] | None = None

    def end_stream(self, minimum: float, maximum: float) -> None:
        """Take the extremes of one whole stream into the moving average ``m a + (1 - m) x``, m the momentum.

        The first stream sets it, as in torch's ``MovingAverageMinMaxObserver``; there ``averaging_constant`` is
        ``1 - m``.
        """
        seen = np.array([minimum, maximum])
        average = seen if self._average is None else self._average
        self._average = self._momentum * average + (1.0 - self._momentum) * seen

    def choose(self, spec: CalibrationSpec, dtype: str = "int8", *, symmetric: bool = False) -> Range:
        """The range that codes of ``dtype`` shall cover; it always contains 0.

        Raises:
            ExportError: Nothing was observed, or every value was 0.
        """
        low, high = self.histogram.minimum, self.histogram.maximum
        if low > high:
            raise ExportError(
                f"activation {self.name!r} was never computed during calibration; give at least one stream"
            )
        if low == high == 0.0:
            raise ExportError(
                f"activation {self.name!r} was 0 throughout calibration, a range of 0 has no scale; "
                "calibrate on streams that excite it, or remove the dead layer"
            )
        ends = self._ends(spec, 2 ** CODE_BITS[dtype], symmetric)
        return Range(minimum=low, maximum=high, low=ends[0], high=ends[1])

    def _ends(self, spec: CalibrationSpec, n_levels: int, symmetric: bool) -> Ends:
        match spec.method:
            case "minmax":
                return seen_ends(self.histogram, symmetric=symmetric)
            case "moving_average":
                return self._average_ends(symmetric)
            case "percentile":
                return percentile_ends(self.histogram, spec.percentile, symmetric=symmetric)
            case "entropy":
                return entropy_ends(self.histogram, n_levels=n_levels, symmetric=symmetric)
            case "mse":
                return least_error_ends(self.histogram, n_levels=n_levels, symmetric=symmetric)

    def _average_ends(self, symmetric: bool) -> Ends:
        assert self._average is not None
        low, high = min(float(self._average[0]), 0.0), max(float(self._average[1]), 0.0)
        if low == high:
            return seen_ends(self.histogram, symmetric=symmetric)
        largest = max(-low, high)
        return (-largest, largest) if symmetric else (low, high)
