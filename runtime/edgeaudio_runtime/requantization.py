"""From accumulators to codes: the three requantization rules and the fixed-point multiplier two of them share.

``docs/numerics.md`` says which runtime follows which rule. All functions take integers as int64 and work elementwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.quantization import REQUANTIZATIONS, QuantParams
from edgeaudio_runtime.record import Record

Int64 = npt.NDArray[np.int64]


class FixedPointMultiplier(Record):
    """Real multipliers as ``mantissa * 2 ** (exponent - 31)``, one or one for each channel."""

    mantissa: Int64
    """In [2**30, 2**31), or 0."""
    exponent: Int64
    """Power of two; negative means a right shift."""


def fixed_point_multiplier(real: npt.NDArray[np.float64]) -> FixedPointMultiplier:
    """Split ``real = m * 2**e`` with m in [0.5, 1) and round m to 31 bits, half away from zero (gemmlowp, TFLite)."""
    mantissa, exponent = np.frexp(np.asarray(real, dtype=np.float64))
    rounded = np.floor(mantissa * 2.0**31 + 0.5).astype(np.int64)
    overflow = rounded == 2**31
    rounded = np.where(overflow, 2**30, rounded)
    wide = exponent.astype(np.int64) + overflow
    # TFLite flushes multipliers below 2**-32 to zero: the shift would leave nothing.
    vanishing = wide < -31
    return FixedPointMultiplier(mantissa=np.where(vanishing, 0, rounded), exponent=np.where(vanishing, 0, wide))


def rounding_right_shift(values: Int64, shift: npt.ArrayLike) -> Int64:
    """Divide by ``2 ** shift`` and round, ties away from zero (gemmlowp RoundingDivideByPOT)."""
    bits = np.asarray(shift, dtype=np.int64)
    half = (np.int64(1) << bits) >> 1
    magnitude = (np.abs(values) + half) >> bits
    return np.asarray(np.where(values < 0, -magnitude, magnitude), dtype=np.int64)


def scale_double_rounding(acc: Int64, multiplier: FixedPointMultiplier) -> Int64:
    """Rule "tflm": high half of the doubled product, rounded half up, then a rounding shift, ties away from zero."""
    left = np.maximum(multiplier.exponent, 0)
    high = ((acc << left) * multiplier.mantissa + 2**30) >> 31
    return rounding_right_shift(high, np.maximum(-multiplier.exponent, 0))


def scale_single_rounding(acc: Int64, multiplier: FixedPointMultiplier) -> Int64:
    """Rule "single": one 64-bit product, rounded once, half up."""
    shift = 31 - multiplier.exponent
    return (acc * multiplier.mantissa + (np.int64(1) << (shift - 1))) >> shift


def scale_wide(acc: Int64, multiplier: FixedPointMultiplier) -> Int64:
    """Rules "tflm" and "single" on 64-bit accumulators (int16 activations): a 15-bit multiplier, rounded once, half up.

    A 31-bit one would overflow the 64-bit product (TFLite and CMSIS-NN 16x8 kernels).
    """
    reduced = np.where(multiplier.mantissa < 0x7FFF0000, (multiplier.mantissa + 2**15) >> 16, 0x7FFF)
    shift = 15 - multiplier.exponent
    return (acc * reduced + (np.int64(1) << (shift - 1))) >> shift


def float_multiplier(
    scale_in: npt.ArrayLike, scale_weight: npt.ArrayLike, scale_out: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """``float32(float32(s_i * s_w) / s_o)``, every step rounded to float32: rule "fp32"."""
    product = np.asarray(scale_in, dtype=np.float32) * np.asarray(scale_weight, dtype=np.float32)
    return np.asarray(product / np.asarray(scale_out, dtype=np.float32), dtype=np.float32)


class Requantizer(Record):
    """One rule bound to scales and limits: accumulators ``[..., channels]`` in, codes out."""

    rule: str
    """One of REQUANTIZATIONS."""
    multiplier: npt.NDArray[np.float32]
    """Rule "fp32": one or one for each channel."""
    fixed_point: FixedPointMultiplier
    """Rules "tflm" and "single"."""
    zero_point: int
    """Of the output."""
    low: int
    """Smallest code that may leave."""
    high: int
    """Largest code that may leave."""
    dtype: str
    """Of the output."""
    wide: bool = False
    """Whether accumulators are 64-bit (int16 activations)."""

    def __call__(self, acc: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Codes for exact integer accumulators given in any numeric dtype that holds them exactly."""
        if self.wide:
            return self._clip(scale_wide(acc.astype(np.int64), self.fixed_point))
        if self.rule == "fp32":
            scaled = np.rint(acc.astype(np.float32, copy=False) * self.multiplier)
            # Clipping before the zero point is added keeps every sum below 2**24, exact in float32.
            np.clip(scaled, self.low - self.zero_point, self.high - self.zero_point, out=scaled)
            scaled += np.float32(self.zero_point)
            return np.asarray(scaled, dtype=self.dtype)
        scale = scale_double_rounding if self.rule == "tflm" else scale_single_rounding
        return self._clip(scale(acc.astype(np.int64), self.fixed_point))

    def _clip(self, scaled: Int64) -> npt.NDArray[Any]:
        return np.clip(scaled + self.zero_point, self.low, self.high).astype(self.dtype)


def requantizer(
    rule: str,
    *,
    scale_in: npt.ArrayLike,
    scale_weight: npt.ArrayLike,
    output: QuantParams,
    relu: bool = False,
    wide: bool = False,
) -> Requantizer:
    """Bind a rule to scales: accumulators in units of ``scale_in * scale_weight``, codes of ``output``.

    Args:
        rule: "fp32", "tflm" or "single".
        scale_in: Scale of the activation.
        scale_weight: Scale of the weight, one or one for each output channel.
        output: Per-tensor quantization of the result.
        relu: Clamp at the output's zero point.
        wide: Accumulators are 64-bit (int16 activations).

    Raises:
        SpecError: ``rule`` is unknown or ``output`` is per channel.
    """
    if rule not in REQUANTIZATIONS:
        raise SpecError(f"requantization={rule!r} must be one of {list(REQUANTIZATIONS)}")
    if output.axis is not None:
        raise SpecError(f"axis={output.axis} of an output must be None; activations are quantized per tensor")
    scale_out = np.float32(output.scale[0])
    exact = np.asarray(scale_in, dtype=np.float64) * np.asarray(scale_weight, dtype=np.float64) / np.float64(scale_out)
    return Requantizer(
        rule=rule,
        multiplier=float_multiplier(scale_in, scale_weight, scale_out),
        fixed_point=fixed_point_multiplier(exact),
        zero_point=output.zero_point,
        low=max(output.low, output.zero_point) if relu else output.low,
        high=output.high,
        dtype=output.dtype,
        wide=wide,
    )


def largest_exact_float32(bound: float) -> bool:
    """Whether all integers up to ``bound`` in magnitude are float32 values."""
    return math.isfinite(bound) and bound <= 2.0**24
