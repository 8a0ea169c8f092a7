"""What the front end takes for PCM: int16, or float32 with full scale at -1..1. The scale is never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError

Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]

INT16_SCALE = 2.0**-15
"""int16 samples are divided by 32768, so that full scale is -1..1."""

PEAK_LIMIT = 32.0
"""Largest float32 sample taken, 30 dB above full scale; beyond it the scale is surely not -1..1."""

_INT16 = np.dtype(np.int16)
_FLOAT32 = np.dtype(np.float32)
# A chunk whose energy is below this holds no sample beyond the limit, no NaN and no infinity: one product decides.
_SAFE_ENERGY = np.float32(0.99 * PEAK_LIMIT**2)


def checked_scale(samples: Samples) -> float:
    """Factor that brings ``samples`` to full scale at -1..1: 1/32768 for int16, 1 for float32.

    Raises:
        SpecError: not a numpy array, not 1-D, another dtype, NaN, infinity, or float32 beyond ``PEAK_LIMIT``.
    """
    if samples.__class__ is np.ndarray and samples.dtype is _INT16 and samples.ndim == 1:
        return INT16_SCALE  # what devices give, in the fewest words
    if not isinstance(samples, np.ndarray):
        raise SpecError(
            f"samples of type {type(samples).__name__} must be a numpy array;"
            " use numpy.frombuffer(data, dtype='<i2') for bytes"
        )
    if samples.ndim != 1:
        raise SpecError(f"samples.shape={samples.shape} must be 1-D; give one channel, such as samples[:, 0]")
    if samples.dtype == _INT16:
        return INT16_SCALE
    if samples.dtype != _FLOAT32:
        raise SpecError(f"samples.dtype={samples.dtype} must be int16 or float32; {_dtype_remedy(samples.dtype)}")
    with np.errstate(over="ignore", invalid="ignore"):  # an energy beyond float32 is infinite, which is not safe
        is_safe = samples.dot(samples) < _SAFE_ENERGY
    if not is_safe:
        _check_values(samples)
    return 1.0


def _check_values(samples: npt.NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(samples))
    if bad.size:
        at = int(bad[0])
        raise SpecError(f"samples[{at}]={samples[at]} must be finite; look for a fault in the capture or the decoder")
    peak = float(np.max(np.abs(samples)))
    if peak > PEAK_LIMIT:
        raise SpecError(
            f"peak={peak:g} of float32 samples must be <= {PEAK_LIMIT:g}, full scale is -1..1;"
            " give int16, or divide by 32768"
        )


def _dtype_remedy(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return "use samples.astype(numpy.float32), with full scale at -1..1"
    if dtype == np.int32:
        return "use (samples >> 16).astype(numpy.int16) if full scale is 2**31"
    return "decode to one of them first"
