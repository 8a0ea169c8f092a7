"""Quantization parameters, codes and the three requantization rules.

Everything integer in edgeaudio goes through this module; ``docs/numerics.md`` says which runtime agrees with which
rule.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.record import Record

Requantization = Literal["fp32", "tflm", "single"]
"""How an int32 accumulator becomes a code: one float32 multiplier ("fp32": ONNX Runtime, LiteRT with XNNPACK),
gemmlowp's double rounding ("tflm": TensorFlow Lite Micro, CMSIS-NN) or one 64-bit rounding ("single": CMSIS-NN built
for it)."""

REQUANTIZATIONS: tuple[str, ...] = get_args(Requantization)

_RANGES = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}

_SMALLEST_SCALE = float(np.finfo(np.float32).smallest_subnormal)
_LARGEST_SCALE = float(np.finfo(np.float32).max)


class QuantParams(Record):
    """``real = (code - zero_point) * scale``, per tensor or per channel along ``axis``."""

    scale: tuple[float, ...]
    """One scale, or one for each channel; each is a float32 value > 0."""
    zero_point: int = 0
    """Code of real 0; the same for all channels (0 for weights and biases)."""
    axis: int | None = None
    """Axis the scales run along; None means per tensor."""
    dtype: str = "int8"
    """"int8", "int16" or "int32"."""
    qmin: int | None = None
    """Smallest code in use; None means the dtype's (weights use -127)."""

    def __post_init__(self) -> None:
        if self.dtype not in _RANGES:
            raise SpecError(f"dtype={self.dtype!r} must be one of {sorted(_RANGES)}")
        if not self.scale or not all(_SMALLEST_SCALE <= s <= _LARGEST_SCALE for s in self.scale):
            raise SpecError(
                f"scale={self.scale!r} must be finite and > 0 as float32; was the tensor constant during calibration?"
            )
        if self.axis is None and len(self.scale) != 1:
            raise SpecError(f"scale has {len(self.scale)} values and axis=None; give the axis they run along")
        if not self.low <= self.zero_point <= self.high:
            bounds = f"[{self.low}, {self.high}]"
            raise SpecError(f"zero_point={self.zero_point} must be in {bounds} for dtype={self.dtype!r}")
        object.__setattr__(self, "scale", tuple(float(np.float32(s)) for s in self.scale))

    @property
    def low(self) -> int:
        """Smallest code."""
        return _RANGES[self.dtype][0] if self.qmin is None else self.qmin

    @property
    def high(self) -> int:
        """Largest code."""
        return _RANGES[self.dtype][1]

    def broadcast_scale(self, ndim: int) -> npt.NDArray[np.float32]:
        """Scales as float32, shaped to broadcast against an array of ``ndim`` axes."""
        scale = np.asarray(self.scale, dtype=np.float32)
        if self.axis is None:
            return scale.reshape(())
        if not 0 <= self.axis < ndim:
            raise SpecError(f"axis={self.axis} must be an axis of the tensor, which has {ndim}")
        shape = [1] * ndim
        shape[self.axis] = -1
        return scale.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; floats survive the way there and back exactly."""
        return {
            "scale": list(self.scale),
            "zero_point": self.zero_point,
            "axis": self.axis,
            "dtype": self.dtype,
            "qmin": self.qmin,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantParams:
        """Inverse of :meth:`to_dict`; unknown fields are refused by name."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SpecError(f"unknown quantization fields {unknown}; this runtime knows {sorted(known)}")
        return cls(**{**values, "scale": tuple(values["scale"])})


def quantize(real: npt.NDArray[np.floating[Any]], params: QuantParams) -> npt.NDArray[Any]:
    """Map real values to codes: ``clip(rint(real / scale) + zero_point, low, high)``.

    Args:
        real: Values in the units of ``params.scale``, any shape; the division is done in float32.
        params: Per tensor, or per channel along ``params.axis``.

    Returns:
        Codes of ``params.dtype``, same shape as ``real``.

    Raises:
        SpecError: ``params.axis`` is not an axis of ``real``.

    Rounds half to even and saturates, as ONNX QuantizeLinear (opset 13).
    """
    return Quantizer(params, ndim=np.ndim(real))(real)


class Quantizer:
    """:func:`quantize` by one set of parameters, for a stream: what every call would work out again is kept.

    Args:
        params: Per tensor, or per channel along ``params.axis``.
        ndim: Axes of the arrays to come.

    Raises:
        SpecError: ``params.axis`` is not one of ``ndim`` axes.
    """

    def __init__(self, params: QuantParams, *, ndim: int) -> None:
        self._dtype = np.dtype(params.dtype)
        # int32 bounds are not float32 values. For int8 and int16, where float32 would round the sum with the zero
        # point, it is beyond the bounds and the clip decides.
        self._is_wide = params.dtype == "int32"
        kind = np.float64 if self._is_wide else np.float32
        self._scale = params.broadcast_scale(ndim)
        # Arrays without axes: numpy would convert a Python number on every call.
        self._zero_point, self._low, self._high = (
            np.asarray(value, kind) for value in (params.zero_point, params.low, params.high)
        )

    def __call__(self, real: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """Codes of ``real``, same shape."""
        scaled = np.rint(np.asarray(real, np.float32) / self._scale)
        if self._is_wide:
            scaled = scaled.astype(np.float64)
        codes: npt.NDArray[Any] = np.minimum(np.maximum(scaled + self._zero_point, self._low), self._high)
        return codes.astype(self._dtype)


def dequantize(codes: npt.NDArray[Any], params: QuantParams) -> npt.NDArray[np.float32]:
    """Map codes to real values: ``(codes - zero_point) * scale`` in float32, same shape (ONNX DequantizeLinear)."""
    centred = codes.astype(np.int32) - np.int32(params.zero_point)
    real: npt.NDArray[np.float32] = centred.astype(np.float32) * params.broadcast_scale(codes.ndim)
    return real
