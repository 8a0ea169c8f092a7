"""Calibration: what activations were, and the ranges that codes cover because of it.

Activations are observed once, on the float step graph; both quantization paths take the ranges from there
(:mod:`edgeaudio_export.calibration.calibrate`). Importing this package needs numpy alone.
"""

from edgeaudio_export.calibration.histogram import StreamingHistogram
from edgeaudio_export.calibration.ranges import Range
from edgeaudio_export.calibration.spec import METHODS, CalibrationFacts, CalibrationSpec, Method
from edgeaudio_export.calibration.weights import WEIGHT_LEVELS, weight_scales

__all__ = [
    "METHODS",
    "WEIGHT_LEVELS",
    "CalibrationFacts",
    "CalibrationSpec",
    "Method",
    "Range",
    "StreamingHistogram",
    "weight_scales",
]
