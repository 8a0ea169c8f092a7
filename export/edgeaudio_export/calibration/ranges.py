"""The range of a tensor and the quantization parameters that cover it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeaudio_runtime.quantization import QuantParams

CODE_BITS = {"int8": 8, "int16": 16}
"""Types of activation codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What a tensor held during calibration and what its codes will cover."""

    minimum: float
    """Smallest value seen."""
    maximum: float
    """Largest value seen."""
    low: float
    """Lower end that the codes cover, <= 0."""
    high: float
    """Upper end that the codes cover, >= 0."""

    def params(self, dtype: str = "int8", *, symmetric: bool = False) -> QuantParams:
        """The parameters that cover ``[low, high]`` with an exact code for 0.

        Affine: ``scale = (high - low) / (2**bits - 1)``, the zero point where ``low`` gets the smallest code.
        Symmetric: ``scale = max(-low, high) / (2**(bits - 1) - 1)``, zero point 0.
        """
        half = 2 ** (CODE_BITS[dtype] - 1)
        if symmetric:
            scale = np.float32(max(-self.low, self.high) / (half - 1))
            return QuantParams(scale=(float(scale),), zero_point=0, dtype=dtype)
        scale = np.float32((self.high - self.low) / (2 * half - 1))
        zero_point = int(np.clip(np.rint(-half - self.low / float(scale)), -half, half - 1))
        return QuantParams(scale=(float(scale),), zero_point=zero_point, dtype=dtype)
