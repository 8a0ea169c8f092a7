"""The streaming front end: PCM chunks of any length in, feature frames out, on one frame grid from the first sample.

What a frame holds never depends on how the audio was cut into chunks; memory does not grow with time. The samples lie
in one buffer; what turns its frames into features is the C transform where it was built and covers the specification,
else the numpy one.
"""

from __future__ import annotations

import os
from math import lcm
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec, MicrofrontendSpec, PcmSpec
from edgeaudio_runtime.frame_transform import FrameTransform, preemphasize
from edgeaudio_runtime.native import LARGEST_RADIX, NativeTransform, load_library, native_covers
from edgeaudio_runtime.samples import INT16_SCALE, Samples, checked_scale
from edgeaudio_runtime.whole_recording import check_multiple, end_of_frames, padded_frames, whole_recording_features

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK_FRAMES = 16
"""Frames computed at once: enough to hide the cost of a numpy call, small enough to stay in the cache."""

Implementation = Literal["auto", "native", "numpy"]
"""Who computes the frames: the C transform, numpy, or C where it can ("auto")."""

IMPLEMENTATION_VARIABLE = "EDGEAUDIO_FRONT_END"
"""Environment variable that says what "auto" means: "native", "numpy" or "auto"."""


class FrontEnd:
    """Turns a stream of samples into features as ``spec`` says.

    Args:
        spec: A streamable specification.
        multiple_of: Frames come in multiples of this, such as the frames of a network step; the others wait as samples.
        implementation: Who computes; see :func:`choose_implementation`.

    Raises:
        SpecError: ``spec`` looks at the whole recording, or this front end does not know its kind, or ``multiple_of``
            is < 1, or the implementation cannot be had.

    One instance serves one stream; it is not for use from two threads at once.
    """

    def __init__(self, spec: FeatureSpec, *, multiple_of: int = 1, implementation: Implementation = "auto") -> None:
        if not isinstance(spec, (PcmSpec, MicrofrontendSpec)):
            spec = mel_spec_of(spec)
        check_multiple(multiple_of)
        if isinstance(spec, MelSpec) and not spec.streamable:
            raise SpecError(
                f"utterance={spec.utterance!r} and edge={spec.edge!r} need the whole recording, they cannot"
                " stream; use compute_features in a windowed bundle, or the streamable preset of the same name"
            )
        self._spec = spec
        self._scale = INT16_SCALE
        self._multiple_of, self._n_features = multiple_of, spec.n_features
        self._win_length, self._hop_length = spec.win_length, spec.hop_length
        self._emphasizes = isinstance(spec, MelSpec) and spec.preemphasis > 0 and spec.preemphasis_scope == "stream"
        self._longest_piece = BLOCK_FRAMES * spec.hop_length
        # Less than a window, and fewer frames than a multiple, wait for their end, so a piece always fits and completes
        # at most BLOCK_FRAMES frames beside those that waited.
        n_waiting = spec.win_length - 1 + (multiple_of - 1) * spec.hop_length
        self._buffer = np.zeros(n_waiting + self._longest_piece)
        self._implementation = choose_implementation(spec, implementation)
        self._transform = self._open_transform(BLOCK_FRAMES + multiple_of - 1)
        self.reset()

    def _open_transform(self, block_frames: int) -> _Transform:
        if isinstance(self._spec, PcmSpec):
            return _RawTransform(self._spec, self._buffer, self._scale)
        if isinstance(self._spec, MicrofrontendSpec):
            return _fixed_point_transform(self._spec, self._buffer, self._scale, self._implementation)
        opened = _NumpyTransform if self._implementation == "numpy" else NativeTransform
        return opened(self._spec, self._buffer, block_frames, self._scale)

    @property
    def spec(self) -> MelSpec | PcmSpec | MicrofrontendSpec:
        """The specification this front end computes."""
        return self._spec

    @property
    def implementation(self) -> Literal["native", "numpy"]:
        """Who computes the frames."""
        return self._implementation

    @property
    def n_samples(self) -> int:
        """Samples pushed since the last reset."""
        return self._n_samples

    @property
    def n_frames(self) -> int:
        """Frames returned since the last reset."""
        return self._n_frames

    def reset(self) -> None:
        """Forget the stream: the next sample is sample 0."""
        self._n_samples = 0
        self._n_frames = 0
        self._next_slot = 0
        self._last_sample: float | None = None
        if isinstance(self._spec, MicrofrontendSpec):
            self._transform.reset()  # type: ignore[attr-defined]  # the only transforms that remember
        self._skip = max(0, self._spec.first_offset)
        self._fill = max(0, -self._spec.first_offset)
        self._buffer[: self._fill] = 0.0

    def process(self, samples: Samples) -> Float32:
        """Push a chunk and return the frames it completes.

        Args:
            samples: 1-D, int16, or float32 with full scale at -1..1; any length, 0 included. float32 beyond -1..1 is
                taken as it is, neither clipped nor rescaled, up to ``samples.PEAK_LIMIT``.

        Returns:
            Features ``[n_frames, n_features]`` in the units after the affine; ``n_frames`` may be 0.

        Raises:
            SpecError: wrong type, dtype or shape, NaN, infinity, or float32 on the int16 scale; nothing was pushed.
        """
        scale = checked_scale(samples)
        if scale != self._scale:
            self._change_scale(scale)
        return self._push(samples)

    def flush(self, multiple_of: int = 1) -> Float32:
        """Push digital silence until the tail is out, return the outstanding frames, then reset.

        Args:
            multiple_of: The number of frames since the reset is ``spec.n_frames(samples pushed)`` rounded up to the
                least common multiple of this and the constructor's.

        Raises:
            SpecError: ``multiple_of`` is < 1.
        """
        spec = self._spec
        check_multiple(multiple_of)
        common_multiple = lcm(multiple_of, self._multiple_of)
        end = end_of_frames(spec, padded_frames(spec, self._n_samples, common_multiple))
        silence = np.zeros(max(0, end - self._n_samples), dtype=np.int16)
        features = self._push(silence)
        self.reset()
        return features

    def _change_scale(self, scale: float) -> None:
        # The buffer holds samples as they come, the window brings them to -1..1. Powers of two: nothing is rounded.
        self._buffer[: self._fill] *= self._scale / scale
        if self._last_sample is not None:
            self._last_sample *= self._scale / scale
        self._scale = scale
        self._transform.set_sample_scale(scale)

    def _push(self, samples: npt.NDArray[Any]) -> Float32:
        self._n_samples += len(samples)
        if self._skip:
            samples = self._skip_samples(samples)
        if len(samples) <= self._longest_piece:
            return self._push_piece(samples)
        starts = range(0, len(samples), self._longest_piece)
        return np.concatenate([self._push_piece(samples[i : i + self._longest_piece]) for i in starts])

    def _skip_samples(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        n_skipped = min(self._skip, len(samples))
        if n_skipped:
            self._last_sample = float(samples[n_skipped - 1])
        self._skip -= n_skipped
        return samples[n_skipped:]

    def _push_piece(self, samples: npt.NDArray[Any]) -> Float32:
        n, buffer = len(samples), self._buffer
        if self._fill + n > len(buffer):
            self._compact()
        end = self._fill + n
        buffer[self._fill : end] = samples
        if self._emphasizes and n:
            self._emphasize(buffer[self._fill : end])
        self._fill, first = end, self._next_slot
        n_ready = (end - self._win_length) // self._hop_length + 1 - first
        n_frames = n_ready - n_ready % self._multiple_of
        if n_frames <= 0:
            return np.empty((0, self._n_features), dtype=np.float32)
        self._next_slot += n_frames
        self._n_frames += n_frames
        return self._transform.features(first, n_frames)

    def _emphasize(self, signal: Float64) -> None:
        assert isinstance(self._spec, MelSpec)
        last = float(signal[-1])
        preemphasize(signal, self._spec, self._last_sample)
        self._last_sample = last

    def _compact(self) -> None:
        # Moves what coming frames need to the start of the buffer, on the grid, so that slots stay slots.
        start = self._next_slot * self._spec.hop_length
        kept = self._fill - start
        self._buffer[:kept] = self._buffer[start : self._fill]
        self._fill, self._next_slot = kept, 0


class _Transform(Protocol):
    """Turns the frames that lie in one buffer into features; slot j starts at sample ``j * hop_length`` of it."""

    def set_sample_scale(self, sample_scale: float) -> None: ...

    def features(self, first: int, n: int) -> Float32: ...


class _NumpyTransform:
    def __init__(self, spec: MelSpec, buffer: Float64, block_frames: int, sample_scale: float) -> None:
        transform = FrameTransform(spec, block_frames, sample_scale)
        self._features, self.set_sample_scale = transform.features, transform.set_sample_scale
        self._slots = _slots(spec, buffer)

    def features(self, first: int, n: int) -> Float32:
        return self._features(self._slots[first : first + n])


class _RawTransform:
    def __init__(self, spec: PcmSpec, buffer: Float64, sample_scale: float) -> None:
        self._slots = _slots(spec, buffer)
        self.set_sample_scale(sample_scale)

    def set_sample_scale(self, sample_scale: float) -> None:
        self._scale = sample_scale

    def features(self, first: int, n: int) -> Float32:
        return (self._slots[first : first + n] * self._scale).astype(np.float32)


class _FixedPointTransform:
    """Samples as int16, float ones rounded and clipped to it."""

    def __init__(self, spec: MicrofrontendSpec, buffer: Float64, sample_scale: float) -> None:
        from edgeaudio_runtime.microfrontend import Microfrontend

        self._slots, self._microfrontend = _slots(spec, buffer), Microfrontend(spec)
        self.reset = self._microfrontend.reset
        self.set_sample_scale(sample_scale)

    def set_sample_scale(self, sample_scale: float) -> None:
        self._to_int16 = sample_scale / INT16_SCALE

    def features(self, first: int, n: int) -> Float32:
        frames = np.clip(np.rint(self._slots[first : first + n] * self._to_int16), -32768, 32767)
        return self._microfrontend.features(frames.astype(np.int16))


def _fixed_point_transform(
    spec: MicrofrontendSpec, buffer: Float64, sample_scale: float, implementation: str
) -> _Transform:
    if implementation == "numpy":
        return _FixedPointTransform(spec, buffer, sample_scale)
    from edgeaudio_runtime.native_microfrontend import NativeMicrofrontend, native_function

    return NativeMicrofrontend(spec, buffer, sample_scale, native_function())


def _slots(spec: FeatureSpec, buffer: Float64) -> Float64:
    # The view of all slots costs nothing per call.
    slots: Float64 = np.lib.stride_tricks.sliding_window_view(buffer, spec.win_length)[:: spec.hop_length]
    return slots


def choose_implementation(spec: FeatureSpec, wanted: Implementation = "auto") -> Literal["native", "numpy"]:
    """Who computes the frames of ``spec`` here.

    Args:
        spec: A streamable specification.
        wanted: "native", "numpy", or "auto": what the environment variable ``EDGEAUDIO_FRONT_END`` says, and without it
            "native" where the library was built and covers ``spec``, else "numpy".

    Raises:
        SpecError: the choice is unknown, or "native" is demanded and cannot be had.
    """
    demanded = os.environ.get(IMPLEMENTATION_VARIABLE, "auto") if wanted == "auto" else wanted
    if demanded not in get_args(Implementation):
        name = "implementation" if wanted == demanded else IMPLEMENTATION_VARIABLE
        raise SpecError(f"{name}={demanded!r} must be one of {list(get_args(Implementation))}")
    obstacle = _obstacle(spec)
    if demanded == "native" and obstacle:
        raise SpecError(f"implementation='native' cannot be had: {obstacle}; use 'auto' or 'numpy'")
    return "numpy" if demanded == "numpy" or obstacle else "native"


def front_end_in_use(spec: FeatureSpec) -> Literal["native", "numpy"]:
    """Who computes ``spec`` here where nobody demands otherwise; what looks at the whole recording, numpy does."""
    return choose_implementation(spec) if spec.streamable else "numpy"


def front_end_choice(spec: FeatureSpec) -> str:
    """:func:`front_end_in_use`, and for numpy the reason, in words."""
    in_use = front_end_in_use(spec)
    if in_use == "native":
        return "native (C)"
    if not spec.streamable:
        return "numpy: these features look at the whole recording"
    obstacle = _obstacle(spec)
    return f"numpy: {obstacle}" if obstacle else f"numpy: {IMPLEMENTATION_VARIABLE} says so"


def _obstacle(spec: FeatureSpec) -> str | None:
    """Why the C transform cannot compute ``spec`` here."""
    if not isinstance(spec, (MelSpec, MicrofrontendSpec)):
        return "raw samples need no transform"
    library = load_library()
    if library is None or (isinstance(spec, MicrofrontendSpec) and not hasattr(library, "edgeaudio_micro_features")):
        return "its library was not built with this installation, or does not load (install with a C compiler at hand)"
    if isinstance(spec, MelSpec) and not native_covers(spec):
        return f"half of n_fft={spec.n_fft} has a prime factor above {LARGEST_RADIX}"
    return None


def mel_spec_of(spec: FeatureSpec) -> MelSpec:
    """``spec``, if this front end computes its kind.

    Raises:
        SpecError: another kind.
    """
    if not isinstance(spec, MelSpec):
        kind = getattr(spec, "kind", type(spec).__name__)
        remedy = "take one of the presets"
        if isinstance(spec, MicrofrontendSpec):
            remedy = "it has no torch form to train with, so compute its features beforehand by compute_features"
        raise SpecError(f"feature kind {kind!r} must be 'mel' for this front end; {remedy}")
    return spec


def compute_features(
    spec: FeatureSpec, samples: Samples, multiple_of: int = 1, *, implementation: Implementation = "auto"
) -> Float32:
    """Features of a whole recording: what ``process`` and ``flush(multiple_of)`` of a fresh front end return together.

    Args:
        spec: Any specification; one that looks at the whole recording is allowed here.
        samples: The recording, as for :meth:`FrontEnd.process`.
        multiple_of: The number of frames is ``spec.n_frames(len(samples))`` rounded up to this.
        implementation: As for :class:`FrontEnd`; what looks at the whole recording is always computed by numpy.

    Returns:
        Features ``[n_frames, n_features]`` in the units after the affine.

    Raises:
        SpecError: as for :class:`FrontEnd` and its methods.
    """
    if isinstance(spec, MelSpec) and not spec.streamable:
        signal = samples.astype(np.float64) * checked_scale(samples)
        return whole_recording_features(spec, signal, multiple_of)
    front_end = FrontEnd(spec, implementation=implementation)
    ready = front_end.process(samples)
    return np.concatenate([ready, front_end.flush(multiple_of)])
