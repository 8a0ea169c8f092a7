"""One sample rate to another as the samples come (soxr)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.samples import Samples, checked_scale

_RATES = range(1000, 768_001)


class Resampler:
    """Streaming conversion of one channel, soxr's high quality; the output is float32 in -1..1.

    The output is the same, bit for bit, however the input was cut. It comes 20 to 100 ms of audio late, in blocks that
    soxr chooses; :meth:`flush` gives the rest.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """Open a conversion from ``from_rate`` to ``to_rate``, Hz.

        Raises:
            AudioError: soxr is not installed, or a rate is out of range.
        """
        try:
            import soxr
        except ImportError as error:
            raise AudioError("soxr is not installed; run: pip install 'edgeaudio-runtime[resample]'") from error
        for rate in (from_rate, to_rate):
            if rate not in _RATES:
                raise AudioError(f"sample_rate={rate} must be {_RATES[0]} to {_RATES[-1]} Hz")
        self.from_rate, self.to_rate = from_rate, to_rate
        self._stream: Any = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def process(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Take the next samples, int16 or float32 in -1..1, 1-D, any length; return what they complete.

        Raises:
            SpecError: Another dtype or shape, NaN, or a scale that cannot be meant.
        """
        real = samples.astype(np.float32) * np.float32(checked_scale(samples))
        return np.asarray(self._stream.resample_chunk(real), dtype=np.float32)

    def flush(self) -> npt.NDArray[np.float32]:
        """End the stream: the outstanding samples; then as new."""
        rest = self._stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)
        self.reset()
        return np.asarray(rest, dtype=np.float32)

    def reset(self) -> None:
        """Forget everything."""
        self._stream.clear()
