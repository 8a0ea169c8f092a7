"""The fixed-point front end of TensorFlow Lite Micro in integers, equal bit for bit to its C code.

Window, block scaling, 16-bit FFT, mel energies, square root, noise reduction, gain control (PCAN) and logarithm, as
``tensorflow/lite/experimental/microfrontend`` computes them. What a frame holds depends on those before it through one
estimate of the noise a channel. Everything else is done for all frames at once, frames along the last axis.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.features import MICRO_N_FFT, MicrofrontendSpec

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_HALF = MICRO_N_FFT // 2
_WEIGHT_ONE = 4096
"""Weights and window stand for this many parts."""
_SMOOTHING_ONE = 16384
_SMOOTHING_BITS = 10
_GAIN_BITS = 21
_CORRECTION_BITS = 3
"""By how much the magnitudes lie below the logarithm's scale: bits of the FFT less half of those of the weights."""
_SNR_BITS = 12
_LN2 = 45426
"""ln(2) in 16 bits."""
_LARGEST = 65535
_UINT32 = np.int64(0xFFFFFFFF)


class Microfrontend:
    """Features of consecutive frames of one stream.

    Args:
        spec: What to compute.
    """

    def __init__(self, spec: MicrofrontendSpec) -> None:
        self._spec, self._tables = spec, tables_of(spec)
        self.reset()

    def reset(self) -> None:
        """Forget the noise."""
        self._noise = np.zeros(self._spec.n_mels, dtype=np.int64)

    def features(self, frames: Int16) -> Float32:
        """The next frames ``[n, win_length]`` to features ``[n, n_mels]``, in units of ``spec.output_scale``."""
        if not len(frames):
            return np.empty((0, self._spec.n_mels), dtype=np.float32)
        signal = self._magnitudes(frames)
        signal, noise = self._less_noise(signal)
        if self._spec.pcan:
            signal = self._controlled(signal, noise)
        features: Float32 = _log(signal, self._tables.log).astype(np.float32)
        features *= np.float32(self._spec.output_scale)
        return features

    def _magnitudes(self, frames: Int16) -> Int64:
        """Square roots of mel energies ``[n, n_mels]``, of frames scaled up to 16 bits and back."""
        windowed = ((frames.T * self._tables.window) >> 12).astype(np.int16)
        # abs(-32768) stays negative in int16 and so counts for nothing, as in C.
        shift = 15 - _bit_length(np.abs(windowed).max(axis=0).astype(np.int64).clip(0))
        padded = np.zeros((MICRO_N_FFT, len(frames)), dtype=np.int32)
        padded[: len(windowed)] = (windowed.astype(np.int32) << shift).astype(np.int16)
        energy = _energies(padded)
        # Integers below 2**53 in float64: exact in any order of summation.
        mel = np.dot(energy.T, self._tables.filterbank)
        return _square_root(mel) >> shift[:, None]

    def _less_noise(self, signal: Int64) -> tuple[Int64, Int64]:
        """The signal less its noise, and the estimates of the noise, both ``[n, n_mels]``."""
        tables = self._tables
        scaled = signal << _SMOOTHING_BITS
        estimates = scaled * tables.smoothing
        before = self._noise
        for estimate in estimates:
            estimate += before * tables.keeping
            estimate >>= 14
            before = estimate
        self._noise = before.copy()
        less = (scaled - np.minimum(estimates, scaled)) >> _SMOOTHING_BITS
        return np.maximum(less, (signal * tables.remaining) >> 14), estimates

    def _controlled(self, signal: Int64, noise: Int64) -> Int64:
        """The signal times a gain that falls with the noise, compressed where it is small."""
        bits = _bit_length(noise)
        start, slope, bend = (table[bits] for table in self._tables.gain)
        fraction = ((noise << 11) >> bits) & 0x3FF
        rise = (((bend * fraction) >> 5) + (slope << 5)) * fraction
        # A gain that overshoots int16 wraps around in C, and counts as unsigned.
        gain = (start + ((rise + (1 << 14)) >> 15)).astype(np.int16) & _UINT32
        ratio = ((signal * gain) >> (_GAIN_BITS - _CORRECTION_BITS - _SNR_BITS)) & _UINT32
        compressed: Int64 = np.where(ratio < 2 << _SNR_BITS, (ratio * ratio) >> 20, (ratio >> 6) - 64)
        return compressed


class Tables:
    """The integer constants of a specification."""

    def __init__(self, spec: MicrofrontendSpec) -> None:
        # The C code computes in float32; cosine and power, correctly rounded, are those of every libm in use.
        arg = np.float32(np.float32(np.pi) * np.float32(2) / np.float32(spec.win_length))
        angle = arg * (np.arange(spec.win_length, dtype=np.float32) + np.float32(0.5))
        hann = np.float32(0.5) - np.float32(0.5) * np.cos(angle.astype(np.float64)).astype(np.float32)
        self.window = _rounded(hann * np.float32(_WEIGHT_ONE)).astype(np.int32)[:, None]
        self.bins, *self.shares = _shares(spec)
        self.filterbank = _filterbank(spec.n_mels, *self.shares)
        pair = [int(np.float32(x) * np.float32(_SMOOTHING_ONE)) for x in (spec.even_smoothing, spec.odd_smoothing)]
        self.smoothing = np.resize(np.array(pair, dtype=np.int64), spec.n_mels)
        self.keeping = _SMOOTHING_ONE - self.smoothing
        self.remaining = int(np.float32(spec.min_signal_remaining) * np.float32(_SMOOTHING_ONE))
        self.gain = _gain_table(spec)
        steps = np.arange(129) / 128
        self.log = np.rint(65536 * (np.log2(1 + steps) - steps)).astype(np.int64)


@lru_cache(maxsize=8)
def tables_of(spec: MicrofrontendSpec) -> Tables:
    """The constants of ``spec``, made once; they are read only."""
    return Tables(spec)


def _rounded(values: npt.ArrayLike) -> Float32:
    rounded: Float32 = np.floor(np.asarray(values, np.float32) + np.float32(0.5))
    return rounded


def _shares(spec: MicrofrontendSpec) -> tuple[range, Int16, Int16, Int16]:
    """Bins that count, and of each bin the triangle that rises there (0 to ``n_mels``), what it gives to that one, and
    what it gives to the one that falls, ``[256]`` each.
    """
    bin_hz = np.float32(spec.sample_rate / MICRO_N_FFT)
    low, high = _mel(np.array([spec.f_min, spec.f_max], dtype=np.float32))
    spacing = np.float32((high - low) / np.float32(spec.n_mels + 1))
    centres = low + spacing * np.arange(1, spec.n_mels + 2, dtype=np.float32)
    edges = np.concatenate(([low], centres))
    mels = _mel(np.arange(_HALF, dtype=np.float32) * bin_hz)
    rising = np.searchsorted(centres, mels)
    bins = range(int(np.float32(1.5) + np.float32(spec.f_min) / bin_hz), int(np.sum(rising <= spec.n_mels)))
    rising = np.minimum(rising, spec.n_mels)
    share = (centres[rising] - mels) / (centres[rising] - edges[rising])
    weights, rest = _rounded(share * np.float32(_WEIGHT_ONE)), _rounded((1 - share) * np.float32(_WEIGHT_ONE))
    used = np.isin(np.arange(_HALF), bins)
    weights, rest = np.where(used, weights, 0), np.where(used, rest, 0)
    return bins, rising.astype(np.int16), weights.astype(np.int16), rest.astype(np.int16)


def _filterbank(n_mels: int, rising: Int16, weights: Int16, rest: Int16) -> Float64:
    """The same as a matrix ``[256, n_mels]``."""
    matrix = np.zeros((_HALF, n_mels + 2))
    matrix[np.arange(_HALF), rising] += weights
    matrix[np.arange(_HALF), rising + 1] += rest
    # Before the first centre and behind the last one is no channel.
    return np.ascontiguousarray(matrix[:, 1:-1])


def _mel(hz: Float32) -> Float32:
    return np.float32(1127) * _log1p(hz / np.float32(700))


_LN2_PARTS = np.float32(6.9313812256e-01), np.float32(9.0580006145e-06)
_SERIES = tuple(
    np.float32(x)
    for x in (1.4798198640e-1, 1.5313838422e-1, 1.8183572590e-1, 2.2222198546e-1, 2.8571429849e-1, 0.4, 6.6666668653e-1)
)


def _log1p(x: Float32) -> Float32:
    """``log1pf`` of fdlibm, for x >= 0: what newlib and glibc up to 2.40 have, to the last bit.

    numpy's own depends on the processor, and a weight of the filterbank on the last bit.
    """
    total = np.float32(1) + x
    mantissa, power = np.frexp(total)
    is_low = np.float32(2) * mantissa < np.float32(1.41421401500701904)
    is_small = x < np.float32(0.41421386)
    lost = np.where(power > 1, np.float32(1) - (total - x), x - (total - np.float32(1))) / total
    f = np.where(is_low, np.float32(2) * mantissa, mantissa) - np.float32(1)
    f, lost = np.where(is_small, x, f), np.where(is_small, np.float32(0), lost)
    k = np.where(is_small, 0, power - is_low).astype(np.float32)
    half = np.float32(0.5) * f * f
    s = f / (np.float32(2) + f)
    series = np.zeros_like(f)
    for coefficient in _SERIES:
        series = (s * s) * (coefficient + series)
    high, low = _LN2_PARTS
    whole = k * high - ((half - (s * (half + series) + (k * low + lost))) - f)
    return np.where(k == 0, f - (half - s * (half + series)), whole)


def _gain_table(spec: MicrofrontendSpec) -> Int64:
    """By the bit length of the noise: the gain at its power of two, slope and bend from there, ``[3, 33]``."""

    def gain(noise: int) -> int:
        level = np.float32(np.float32(noise) / np.float32(1 << (_SMOOTHING_BITS - _CORRECTION_BITS)))
        base = float(level + np.float32(spec.pcan_offset))
        value = np.float32(1 << _GAIN_BITS) * np.float32(base ** float(-np.float32(spec.pcan_strength)))
        return 32767 if value > 32767 else int(value + np.float32(0.5))

    table = np.zeros((33, 3), dtype=np.int64)
    table[:2, 0] = gain(0), gain(1)
    for bits in range(2, 33):
        first = 1 << (bits - 1)
        start, middle, end = (gain(x) for x in (first, first + first // 2, 2 * first - (bits == 32)))
        slope = 4 * (middle - start) - (end - start)
        table[bits] = start, slope, end - start - slope
    return np.ascontiguousarray(table.T.astype(np.int16).astype(np.int64))


def _bit_length(values: Int64) -> Int32:
    return np.frexp(values.astype(np.float64))[1]


def _square_root(squares: Float64) -> Int64:
    """Rounded to nearest; below 2**32 it saturates at 16 bits."""
    root = np.floor(np.sqrt(squares))
    root += squares - root * root > root
    root -= (root == 1 << 16) & (squares < 1 << 32)
    return root.astype(np.int64)


def _log(signal: Int64, table: Int64) -> Int64:
    """64 times the natural logarithm of ``8 * signal``, the fraction of the binary one by a table; 0 for 0."""
    value = np.maximum(signal << _CORRECTION_BITS, 1)
    bits = _bit_length(value).astype(np.int64) - 1
    fraction = ((value << 16) >> bits) - 65536
    segment = fraction >> 9
    low = table[segment]
    rise = ((table[segment + 1] - low) * (fraction & 511)) >> 16
    binary = (bits << 16) + fraction + low + rise
    natural = (_LN2 * binary + 32768) >> 16
    scaled: Int64 = np.minimum(((natural << 6) + 32768) >> 16, _LARGEST)
    return scaled


def _turns(n: int, of: int) -> Int32:
    """``[2, n]``: cosine and sine of minus ``i / of`` turns in 15 bits."""
    angle = -2.0 * np.pi * np.arange(n) / of
    return np.floor(0.5 + 32767 * np.stack((np.cos(angle), np.sin(angle)))).astype(np.int32)


TWIDDLES = _turns(_HALF, _HALF)
"""``[2, 256]``: cosines and sines of the complex FFT."""
_TWIDDLES = {
    n_done: TWIDDLES[:, np.outer(np.arange(n_done), np.arange(1, 4)) * (64 // n_done)][..., None, None]
    for n_done in (4, 16, 64)
}
"""By the length of the transforms that a pass joins: ``[2, n_done, 3, 1, 1]``."""
SPLIT = np.floor(
    0.5 + 32767 * np.stack([f(-np.pi * (np.arange(1, _HALF // 2 + 1) / _HALF + 0.5)) for f in (np.cos, np.sin)])
).astype(np.int32)
"""``[2, 128]``: cosines and sines by which the real FFT comes out of the complex one."""


def _scaled(values: Int32, factor: int) -> Int32:
    """``values * factor / 2**15``, rounded half up."""
    product: Int32 = values * np.int32(factor)
    product += np.int32(1 << 14)
    product >>= np.int32(15)
    return product


def _times(z: Int32, turns: Int32) -> Int32:
    """Complex product ``z * turns / 2**15``, real and imaginary parts along axis 0."""
    by_cosine: Int32 = z * turns[0]
    by_sine = z * turns[1]
    by_cosine[0] -= by_sine[1]
    by_cosine[1] += by_sine[0]
    by_cosine += np.int32(1 << 14)
    by_cosine >>= np.int32(15)
    return by_cosine


def _energies(samples: Int32) -> Float64:
    """Squared magnitudes ``[256, n]`` of the real FFT of ``samples [512, n]``, each over 512; bin 0 is left 0.

    Even and odd samples are one complex signal, whose transform is taken apart. Under a Hann window no sum leaves
    int16, so none wraps around.
    """
    n = samples.shape[1]
    z = _fft(np.ascontiguousarray(samples.reshape(_HALF, 2, n).swapaxes(0, 1)))
    there, back = z[:, 1 : _HALF // 2 + 1], z[:, : _HALF // 2 - 1 : -1].copy()
    np.negative(back[1], out=back[1])
    there, back = _scaled(there, 32767 // 2), _scaled(back, 32767 // 2)
    even = there + back
    odd = _times(there - back, SPLIT[..., None])
    energy = np.zeros((_HALF, n))
    for part, sign, kept in ((slice(1, _HALF // 2 + 1), 1, energy), (slice(None, _HALF // 2 - 1, -1), -1, energy)):
        real, imaginary = even[0] + sign * odd[0], odd[1] + sign * even[1]
        real >>= 1
        imaginary >>= 1
        kept[part] = real * real + imaginary * imaginary
    return energy


def _fft(z: Int32) -> Int32:
    """Complex FFT over 256 of ``z [2, 256, n]``: four passes of radix 4 with decimation in time."""
    n = z.shape[2]
    for n_done in (1, 4, 16, 64):
        parts = _scaled(z, 32767 // 4).reshape(2, n_done, 4, -1, n)
        turned = parts[:, :, 1:]
        if n_done > 1:
            turned = _times(turned, _TWIDDLES[n_done])
        z = _butterflies(parts[:, :, 0], turned[:, :, 0], turned[:, :, 1], turned[:, :, 2]).reshape(2, -1, n)
    return z


def _butterflies(a: Int32, b: Int32, c: Int32, d: Int32) -> Int32:
    """The four outputs ``[2, 4, ...]`` of a pass."""
    out = np.empty((2, 4, *a.shape[1:]), dtype=np.int32)
    total, difference = b + d, b - d
    outer, inner = a + c, a - c
    np.add(outer, total, out=out[:, 0])
    np.subtract(outer, total, out=out[:, 2])
    np.add(inner[0], difference[1], out=out[0, 1])
    np.subtract(inner[1], difference[0], out=out[1, 1])
    np.subtract(inner[0], difference[1], out=out[0, 3])
    np.add(inner[1], difference[0], out=out[1, 3])
    return out
