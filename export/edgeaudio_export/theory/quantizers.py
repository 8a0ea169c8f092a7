"""Uniform quantizers of b bits with the scale definitions of this project, and the error they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.calibration.weights import MIN_RELATIVE_WEIGHT_SCALE
from edgeaudio_export.theory.codebooks import check_bits
from edgeaudio_runtime.errors import SpecError

Floats = npt.NDArray[np.floating[Any]]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UniformQuantizer:
    """``real = (code - zero_point) * scale`` for codes in ``low..high``."""

    scale: Float32
    """Step, one value or shaped to broadcast over the channels."""
    zero_point: int
    """Code of real 0."""
    low: int
    """Smallest code."""
    high: int
    """Largest code."""

    def codes(self, real: Floats) -> npt.NDArray[np.int64]:
        """``clip(rint(real / scale) + zero_point, low, high)``; divides in float32, rounds half to even."""
        scaled = np.rint(np.asarray(real, np.float32) / self.scale).astype(np.float64)
        codes: npt.NDArray[np.int64] = np.clip(scaled + self.zero_point, self.low, self.high).astype(np.int64)
        return codes

    def __call__(self, real: Floats) -> npt.NDArray[np.float64]:
        """What the codes of ``real`` stand for, same shape."""
        centred = (self.codes(real) - self.zero_point).astype(np.float64)
        reals: npt.NDArray[np.float64] = centred * self.scale.astype(np.float64)
        return reals


def symmetric_quantizer(values: Floats, bits: int, *, per_channel: bool = False) -> UniformQuantizer:
    """``scale = max|x| / (2**(bits-1) - 1)``, codes ``-(2**(bits-1)-1)..2**(bits-1)-1``, zero point 0.

    Args:
        values: Weights; channels run along the first axis.
        bits: 2 to 16.
        per_channel: One scale for each channel, at least 2**-10 of the largest, as the weights of a bundle have.

    Raises:
        SpecError: Bits are out of range, or a value is not finite.
    """
    high = 2 ** (check_bits(bits) - 1) - 1
    magnitudes = np.abs(_finite(values))
    axes = tuple(range(1, magnitudes.ndim)) if per_channel else None
    largest = np.asarray(magnitudes.max(axis=axes, keepdims=per_channel))
    largest = np.maximum(largest, largest.max() * MIN_RELATIVE_WEIGHT_SCALE)
    scale = (largest / high).astype(np.float32)
    return UniformQuantizer(scale=np.where(scale > 0, scale, np.float32(1)), zero_point=0, low=-high, high=high)


def clipped_quantizer(clip: float, bits: int) -> UniformQuantizer:
    """A symmetric quantizer whose largest code stands for ``clip`` > 0; what is larger saturates."""
    high = 2 ** (check_bits(bits) - 1) - 1
    if not (np.isfinite(clip) and clip > 0):
        raise SpecError(f"clip={clip!r} must be finite and > 0")
    return UniformQuantizer(scale=np.asarray(clip / high, np.float32), zero_point=0, low=-high, high=high)


def affine_quantizer(low: float, high: float, bits: int) -> UniformQuantizer:
    """``scale = (high - low) / (2**bits - 1)``, zero point ``rint(-2**(bits-1) - low / scale)``, all 2**bits codes.

    Args:
        low: Lower end, <= 0, so that 0 has a code.
        high: Upper end, >= 0, above ``low``.
        bits: 2 to 16.

    Raises:
        SpecError: The range does not hold 0, is empty or not finite, or bits are out of range.
    """
    half = 2 ** (check_bits(bits) - 1)
    if not (np.isfinite([low, high]).all() and low <= 0 <= high and low < high):
        raise SpecError(f"range [{low}, {high}] must be finite, hold 0 and not be empty; widen it to 0")
    scale = np.float32((high - low) / (2 * half - 1))
    zero_point = int(np.clip(np.rint(-half - low / float(scale)), -half, half - 1))
    return UniformQuantizer(scale=np.asarray(scale), zero_point=zero_point, low=-half, high=half - 1)


def sqnr_db(reference: Floats, candidate: Floats) -> float | None:
    """``10 log10(sum(reference**2) / sum((reference - candidate)**2))``; None when the two are equal.

    Differences of a float32 last place count as equal: a constant tensor is held exactly by its scale.
    """
    signal = np.asarray(reference, np.float64)
    noise = float(np.square(signal - candidate).sum())
    power = float(np.square(signal).sum())
    if noise <= power * float(np.finfo(np.float32).eps) ** 2:
        return None
    return float(10 * np.log10(power / noise))


def _finite(values: Floats) -> npt.NDArray[np.float64]:
    result = np.asarray(values, np.float64)
    if not result.size or not np.isfinite(result).all():
        raise SpecError("values must be finite and not empty; train again or load another checkpoint")
    return result
