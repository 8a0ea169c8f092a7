"""PCM in, events out: the front end, an engine's session and a detector or decoder joined for one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import FrontEnd, Implementation, compute_features
from edgeaudio_runtime.listener import Listener, open_listener
from edgeaudio_runtime.native_pipeline import FeatureSource, native_pipeline
from edgeaudio_runtime.quantization import Quantizer

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]

MAX_WINDOWED_SAMPLES = 60 * 48_000
"""A windowed bundle hears its clip as a whole; longer ones than this (a minute at 48 kHz) are refused."""


class LogitStream:
    """Front end and network of one stream: samples in, logit codes out."""

    def __init__(
        self,
        spec: FeatureSpec,
        program: Program,
        *,
        front_end: Implementation = "auto",
        source: FeatureSource | None = None,
    ) -> None:
        """Join a feature specification and a program; with ``source`` the features come from there.

        Raises:
            SpecError: The network does not take the features' number of values, or ``front_end`` cannot be had.
        """
        if spec.n_features != program.signature.n_features:
            wanted = program.signature.n_features
            raise SpecError(f"n_features={spec.n_features} of the features must be {wanted}, what the network takes")
        signature = program.signature
        self._step_frames = signature.step_frames
        self._front_end: FeatureSource = source or (
            FrontEnd(spec, multiple_of=self._step_frames, implementation=front_end)
            if spec.streamable and not signature.whole
            else _WholeRecording(spec)
        )
        self._quantize = Quantizer(signature.input_quant, ndim=2)
        self._session = program.session()
        self._no_codes: Codes = self._session.run(self._quantize(np.empty((0, spec.n_features), dtype=np.float32)))

    def process(self, samples: Samples) -> tuple[Codes, Features]:
        """Take the next samples, any number of them.

        Args:
            samples: int16, or float32 in -1..1, 1-D, at the specification's rate.

        Returns:
            Logit codes of the steps these samples completed, ``[k, n_labels]``, and the features
            ``[n, n_features]`` that went into them.

        Raises:
            SpecError: Another dtype or shape, NaN, or a scale that cannot be meant; the stream is as before.
        """
        return self._run(self._front_end.process(samples))

    def flush(self) -> tuple[Codes, Features]:
        """End the stream: the outstanding frames, filled up with silence to a whole step; then as after a reset."""
        results = self._run(self._front_end.flush(multiple_of=self._step_frames))
        self._session.reset()
        return results

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0 of a new stream."""
        self._front_end.reset()
        self._session.reset()

    def _run(self, features: Features) -> tuple[Codes, Features]:
        if not len(features):  # as with most chunks that are shorter than a step
            return self._no_codes, features
        return self._session.run(self._quantize(features)), features


class AudioStream:
    """Listen with a bundle: push samples as they come, get events as soon as they are certain.

    The audio may be cut in any way; the events are the same, bit for bit. Memory does not grow with time. One instance
    serves one stream and one thread; streams opened from one bundle share nothing they change. Times are seconds of
    audio since the stream began or was last reset or flushed.

        stream = AudioStream(open_bundle("bundle"))
        for chunk in chunks:
            for event in stream.process(chunk):
                ...
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        program: Program | None = None,
        front_end: Implementation = "auto",
    ) -> None:
        """Open a stream.

        Args:
            bundle: From :func:`~edgeaudio_runtime.bundle.open_bundle`.
            engine: "numpy", "onnxruntime", "litert" or "auto".
            program: A program from ``bundle.program``, to be shared by many streams; ``engine`` is then ignored.
            front_end: "native", "numpy" or "auto", see :func:`~edgeaudio_runtime.front_end.choose_implementation`.

        Raises:
            EngineError: The engine is not installed.
            BundleError: The bundle has no artifact for it, or broken settings.
        """
        self.program = bundle.program(engine) if program is None else program
        self.sample_rate = bundle.features.sample_rate
        self._pipeline = open_pipeline(bundle.features, self.program, open_listener(bundle), front_end)
        self._process = self._pipeline.process  # bound once

    def process(self, samples: Samples, *, sample_rate: int | None = None) -> list[Event]:
        """Take the next samples and return the events they complete.

        Args:
            samples: int16, or float32 in -1..1, 1-D, any length, 0 included.
            sample_rate: Checked against the bundle's when given.

        Raises:
            SpecError: Another dtype, shape or rate, or NaN; the stream is as before.
        """
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise SpecError(f"sample_rate={sample_rate} must be {self.sample_rate}, the bundle's; resample first")
        return self._process(samples)

    def flush(self) -> list[Event]:
        """End the stream, return what was outstanding, and begin anew."""
        return self._pipeline.flush()

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0 of a new stream."""
        self._pipeline.reset()


class Pipeline(Protocol):
    """From samples to events, see :class:`AudioStream`."""

    def process(self, samples: Samples) -> list[Event]:
        """Take the next samples."""
        ...

    def flush(self) -> list[Event]:
        """End the stream."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...


def open_pipeline(
    spec: FeatureSpec,
    program: Program,
    listener: Listener,
    front_end: Implementation,
    source: FeatureSource | None = None,
) -> Pipeline:
    """The way from samples to events, in C where that can be had; with ``source`` the features come from there."""
    native = native_pipeline(spec, program.signature, program.session(), listener, front_end, source)
    if native is not None:
        return native
    return _StagedPipeline(LogitStream(spec, program, front_end=front_end, source=source), listener)


class _StagedPipeline:
    """Front end, session and listener one after the other, as arrays between them."""

    def __init__(self, logits: LogitStream, listener: Listener) -> None:
        self._logits, self._listener = logits, listener

    def process(self, samples: Samples) -> list[Event]:
        return self._listener.hear(*self._logits.process(samples))

    def flush(self) -> list[Event]:
        events = [*self._listener.hear(*self._logits.flush()), *self._listener.finish()]
        self._listener.reset()
        return events

    def reset(self) -> None:
        self._logits.reset()
        self._listener.reset()


def clip_logits(bundle: Bundle, samples: Samples, *, program: Program) -> Codes:
    """Logit codes ``[n_outputs, n_labels]`` of a clip from reset to flush; its last row scores a keyword clip."""
    stream = LogitStream(bundle.features, program)
    return np.concatenate((stream.process(samples)[0], stream.flush()[0]))


class _WholeRecording:
    """The front end of a windowed bundle: all frames come on flush."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self.reset()

    def process(self, samples: Samples) -> Features:
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32):
            raise SpecError(f"samples are {samples.dtype}{list(samples.shape)}, they must be 1-D int16 or float32")
        if self._parts and self._parts[0].dtype != samples.dtype:
            raise SpecError(f"samples are {samples.dtype} after {self._parts[0].dtype}; one recording has one dtype")
        self._n_samples += len(samples)
        if self._n_samples > MAX_WINDOWED_SAMPLES:
            raise SpecError(f"a windowed bundle hears at most {MAX_WINDOWED_SAMPLES} samples at once; cut the audio")
        self._parts.append(samples.copy())
        return self._nothing()

    def flush(self, multiple_of: int = 1) -> Features:
        parts = self._parts
        self.reset()
        if not parts:
            return self._nothing()
        return compute_features(self._spec, np.concatenate(parts), multiple_of=multiple_of)

    def reset(self) -> None:
        self._parts: list[Any] = []
        self._n_samples = 0

    def _nothing(self) -> Features:
        return np.empty((0, self._spec.n_features), dtype=np.float32)
