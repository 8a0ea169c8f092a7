"""Feature specifications: every constant between PCM samples and the features a network was trained on.

A specification is a frozen value, a tagged union over ``kind``. It travels in the bundle, and its hash says whether two
models hear the same thing. :mod:`edgeaudio_runtime.presets` holds the constants, ``docs/presets.md`` explains them.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.record import Record

CANONICAL_VERSION = 1
"""Version of the canonical JSON under the hash; a new field with a default does not change it."""

MICRO_N_FFT = 512
"""Points of the fixed-point FFT."""


class FeatureSpec(Record, ABC):
    """What every kind of feature specification has: a rate, a frame grid and a number of values a frame.

    Frame ``i`` covers the samples ``first_offset + i * hop_length`` up to, not including, ``+ win_length``.
    """

    kind: ClassVar[str]
    """Tag of the union: "mel", "pcm" or "microfrontend"."""

    sample_rate: int
    """Samples a second (Hz)."""
    win_length: int
    """Length of a frame in samples."""
    hop_length: int
    """Samples between the starts of neighbouring frames."""
    first_offset: int = 0
    """First sample of frame 0; negative means that zeros stand before the stream."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _normalize(self, field)
        for name in ("sample_rate", "win_length", "hop_length"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be >= 1")
        if self.hop_length > self.win_length:
            raise SpecError(
                f"hop_length={self.hop_length} must be <= win_length={self.win_length}, or samples are lost"
            )
        if -self.first_offset >= self.win_length:
            raise SpecError(
                f"first_offset={self.first_offset} must be > -win_length={-self.win_length},"
                " so that frame 0 holds a real sample"
            )

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Values a frame."""

    @property
    def streamable(self) -> bool:
        """Whether a frame depends on its own samples (and those before them) alone."""
        return True

    @property
    def hash(self) -> str:
        """``sha256:<hex>`` over versioned canonical JSON: sorted keys, fields that equal their default left out."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        payload = {"kind": self.kind, "version": CANONICAL_VERSION, "fields": kept}
        text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def n_frames(self, n_samples: int) -> int:
        """``ceil((n_samples - first_offset) / hop_length)``: frames of a whole stream, its tail padded with silence.

        Args:
            n_samples: Length of the stream in samples; 0 gives no frame.
        """
        if n_samples == 0:
            return 0
        return max(0, -((self.first_offset - n_samples) // self.hop_length))

    def n_ready_frames(self, n_samples: int) -> int:
        """``1 + floor((n_samples - first_offset - win_length) / hop_length)``: frames that need no padding behind."""
        return max(0, 1 + (n_samples - self.first_offset - self.win_length) // self.hop_length)

    def to_dict(self) -> dict[str, Any]:
        """JSON form with every field, ``kind`` first; floats survive the way there and back exactly."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> FeatureSpec:
        """Inverse of :meth:`to_dict`; dispatches on ``kind``.

        Raises:
            SpecError: unknown kind, unknown or missing field (by name), or a value that breaks its rule.
        """
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise SpecError(f"unknown feature kind {kind!r}; this runtime knows {sorted(KINDS)}")
        spec_type = KINDS[kind]
        known = {f.name: f for f in fields(spec_type)}
        given = {name: value for name, value in values.items() if name != "kind"}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SpecError(f"unknown feature fields {unknown}; this runtime knows {sorted(known)}")
        missing = sorted(name for name, f in known.items() if f.default is MISSING and name not in given)
        if missing:
            raise SpecError(f"missing feature fields {missing}; kind={kind!r} has no default for them")
        return spec_type(**given)


class MelSpec(FeatureSpec):
    """Log-mel features or mel cepstra, the way every float front end of the field computes them.

    ``samples * input_scale`` -> stream pre-emphasis -> frame -> DC removal -> frame pre-emphasis -> window ->
    ``|FFT|**power * spectrum_scale`` -> mel -> log -> utterance rule -> clamp -> DCT ->
    ``(x + affine_offset) * affine_scale``.
    """

    kind: ClassVar[str] = "mel"

    n_fft: int
    """FFT length in samples, >= ``win_length``; the frame stands at the start of the buffer, zeros behind it."""
    n_mels: int
    """Number of mel triangles."""
    f_min: float
    """Left foot of the first triangle in Hz."""
    f_max: float
    """Right foot of the last triangle in Hz, at most half the sample rate."""
    edge: str = "zeros"
    """What stands before the first and behind the last sample: "zeros", or "reflect" (torch.stft; not streamable)."""
    input_scale: float = 1.0
    """Factor on samples in -1..1 (32768.0 for models trained on the int16 range); int16 is divided by 32768 first."""
    dc_removal: str = "none"
    """"none", or "frame": the mean of each frame is subtracted."""
    preemphasis: float = 0.0
    """Coefficient c of ``x[n] - c * x[n-1]``; 0 means none."""
    preemphasis_scope: str = "frame"
    """"frame" (after DC removal, before the window) or "stream" (before framing)."""
    preemphasis_first: str = "zero"
    """What stands before the first sample: "zero", or "self" (Kaldi: ``x[0] - c * x[0]``)."""
    window: str = "hann"
    """"hann", "hamming", "povey" (Hann ** 0.85) or "rectangular"."""
    window_symmetry: str = "periodic"
    """"periodic" (period win_length), "symmetric" (period win_length - 1) or "half_sample" (samples at i + 1/2)."""
    power: int = 2
    """1 for the magnitude, 2 for the power spectrum."""
    spectrum_scale: float = 1.0
    """Factor on the spectrum after ``power``."""
    mel_scale: str = "htk"
    """"htk" (``2595 * log10(1 + f / 700)``) or "slaney" (linear below 1 kHz, logarithmic above)."""
    mel_norm: str = "none"
    """"none" (peak 1) or "slaney" (triangle i times ``2 / (f[i+2] - f[i])``, f in Hz)."""
    triangle_domain: str = "hz"
    """Axis the triangles are straight on: "hz" (librosa, torchaudio) or "mel" (Kaldi, TensorFlow)."""
    bin_rule: str = "all"
    """FFT bins that count: "all", "no_nyquist" (Kaldi), "no_dc" (tf.signal), or "tf_op" (TensorFlow's Mfcc kernel:
    ``floor(1.5 + f_min / width)`` to ``floor(f_max / width)``, width in Hz a bin)."""
    log: str = "ln"
    """"ln", "log10", "10log10" (decibels of power) or "none"."""
    log_floor: float = 1e-6
    """Floor under the logarithm, in units of the mel spectrum."""
    log_floor_mode: str = "add"
    """"add" (``log(x + floor)``) or "max" (``log(max(x, floor))``)."""
    utterance: str = "none"
    """Rule over the whole recording, which cannot stream: "none"; "dynamic_range" (floor at the maximum minus
    ``utterance_range``); "signed_peak" (samples / max(samples)); "centred_peak" (mean removed, / max(abs(samples)))."""
    utterance_range: float = 0.0
    """Distance below the maximum for "dynamic_range", in units of the logarithm (80 dB; 8 for log10)."""
    clamp_min: float | None = None
    """Fixed lower limit after the logarithm, in its units; None means none."""
    clamp_max: float | None = None
    """Fixed upper limit after the logarithm, in its units; None means none."""
    n_dct: int = 0
    """Cepstral coefficients kept of the type II DCT over the mels; 0 means no DCT."""
    dct_norm: str = "ortho"
    """"ortho", or "tf" (every row sqrt(2 / n_mels), so that c0 is sqrt(2) times the ortho one)."""
    dct_lifter: float = 0.0
    """Cepstral lifter L: coefficient k times ``1 + L / 2 * sin(pi * k / L)``; 0 means none."""
    affine_offset: float = 0.0
    """Added to the features, in their units."""
    affine_scale: float = 1.0
    """Factor after the offset; the features leave in these units."""
    input_rounding: str = "half_even"
    """How the model these constants come from rounds features to codes: "half_even", or "truncate" (a C cast)."""

    def __post_init__(self) -> None:
        # Two-argument super(): with slots=True the class is rebuilt and the short form would point at the old one.
        super().__post_init__()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"{name}={getattr(self, name)!r} must be one of {list(choices)}")
        self._check_spectrum()
        self._check_log()
        if not 0 <= self.n_dct <= self.n_mels:
            raise SpecError(f"n_dct={self.n_dct} must be between 0 (no DCT) and n_mels={self.n_mels}")
        for name in ("input_scale", "spectrum_scale", "affine_scale"):
            if getattr(self, name) == 0:
                raise SpecError(f"{name}=0 must not be 0: every feature would be the same; leave it out for 1.0")

    def _check_spectrum(self) -> None:
        if self.n_fft < self.win_length:
            fitting = 1 << (self.win_length - 1).bit_length()
            raise SpecError(
                f"n_fft={self.n_fft} must be >= win_length={self.win_length}; {fitting} is the next power of two"
            )
        if self.n_fft % 2:
            raise SpecError(f"n_fft={self.n_fft} must be even; use {self.n_fft + 1}")
        if self.n_mels < 1:
            raise SpecError(f"n_mels={self.n_mels} must be >= 1")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise SpecError(
                f"f_min={self.f_min} and f_max={self.f_max} must satisfy 0 <= f_min < f_max <= {self.sample_rate / 2}"
                f" Hz, half of sample_rate={self.sample_rate}"
            )
        if self.power not in (1, 2):
            raise SpecError(f"power={self.power} must be 1 (magnitude) or 2 (power)")
        if not 0 <= self.preemphasis < 1:
            raise SpecError(f"preemphasis={self.preemphasis} must be >= 0 and < 1; 0.97 is usual, 0 is none")
        if self.window != "rectangular" and self.win_length < 2:
            raise SpecError(f"win_length={self.win_length} must be >= 2 for window={self.window!r}")

    def _check_log(self) -> None:
        if self.log != "none" and self.log_floor < _SMALLEST_FLOOR:
            raise SpecError(
                f"log_floor={self.log_floor} must be >= {_SMALLEST_FLOOR} (float32) for log={self.log!r};"
                " 1e-06 is the house floor"
            )
        if (self.utterance == "dynamic_range") != (self.utterance_range > 0):
            raise SpecError(
                f"utterance_range={self.utterance_range} must be > 0 with utterance='dynamic_range' and 0 without;"
                f" utterance={self.utterance!r}"
            )
        if self.clamp_min is not None and self.clamp_max is not None and self.clamp_min >= self.clamp_max:
            raise SpecError(f"clamp_min={self.clamp_min} must be < clamp_max={self.clamp_max}")

    @property
    def n_features(self) -> int:
        """Values a frame: ``n_dct``, or ``n_mels`` without a DCT."""
        return self.n_dct or self.n_mels

    @property
    def streamable(self) -> bool:
        """False where a frame depends on the whole recording: an utterance rule or reflected edges."""
        return self.utterance == "none" and self.edge == "zeros"


class PcmSpec(FeatureSpec):
    """Raw samples in -1..1, a frame at a time, for networks that have their front end inside."""

    kind: ClassVar[str] = "pcm"

    @property
    def n_features(self) -> int:
        """Values a frame: its samples."""
        return self.win_length


class MicrofrontendSpec(FeatureSpec):
    """The fixed-point front end of TensorFlow Lite Micro, see :mod:`edgeaudio_runtime.microfrontend`.

    Its FFT always has 512 points. A frame depends on all before it, through an estimate of the noise.
    """

    kind: ClassVar[str] = "microfrontend"

    n_mels: int = 40
    """Number of mel triangles."""
    f_min: float = 125.0
    """Left foot of the first triangle in Hz."""
    f_max: float = 7500.0
    """Right foot of the last triangle in Hz, below half the sample rate."""
    even_smoothing: float = 0.025
    """Weight of a frame in the noise of the channels 0, 2, ..., between 0 and 1."""
    odd_smoothing: float = 0.06
    """The same of the channels 1, 3, ..."""
    min_signal_remaining: float = 0.05
    """Share of a magnitude that the noise leaves at least, between 0 and 1."""
    pcan: bool = True
    """Whether a gain that falls with the noise follows (per-channel amplitude normalization)."""
    pcan_strength: float = 0.95
    """Negative exponent of that gain, between 0 and 1."""
    pcan_offset: float = 80.0
    """Added to the noise below that exponent, >= 1."""
    output_scale: float = 10 / 256
    """Factor on the integers that come out; 10 / 256 makes them 0 to about 26, as microWakeWord and micro_speech do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MICRO_N_FFT // 2 < self.win_length <= MICRO_N_FFT:
            raise SpecError(
                f"win_length={self.win_length} must be {MICRO_N_FFT // 2 + 1} to {MICRO_N_FFT}: the fixed-point FFT has"
                f" {MICRO_N_FFT} points"
            )
        if not 1 <= self.n_mels <= MICRO_N_FFT // 2:
            raise SpecError(
                f"n_mels={self.n_mels} must be 1 to {MICRO_N_FFT // 2}, the bins of the fixed-point FFT; use 40"
            )
        if not 0 <= self.f_min < self.f_max < self.sample_rate / 2:
            raise SpecError(
                f"f_min={self.f_min} and f_max={self.f_max} must satisfy 0 <= f_min < f_max < {self.sample_rate / 2}"
                f" Hz, half of sample_rate={self.sample_rate}"
            )
        for name in ("even_smoothing", "odd_smoothing", "min_signal_remaining", "pcan_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name}={getattr(self, name)} must be between 0 and 1")
        if self.pcan_offset < 1 or self.output_scale == 0:
            raise SpecError(
                f"pcan_offset={self.pcan_offset} must be >= 1 and output_scale={self.output_scale} not 0;"
                " 80.0 and 0.0390625 are usual"
            )

    @property
    def n_features(self) -> int:
        """Values a frame: ``n_mels``."""
        return self.n_mels


KINDS: Mapping[str, type[FeatureSpec]] = {spec.kind: spec for spec in (MelSpec, PcmSpec, MicrofrontendSpec)}
"""Specification class of each ``kind``."""

_SMALLEST_FLOOR = 1e-37

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "edge": ("zeros", "reflect"),
    "dc_removal": ("none", "frame"),
    "preemphasis_scope": ("frame", "stream"),
    "preemphasis_first": ("zero", "self"),
    "window": ("hann", "hamming", "povey", "rectangular"),
    "window_symmetry": ("periodic", "symmetric", "half_sample"),
    "mel_scale": ("htk", "slaney"),
    "mel_norm": ("none", "slaney"),
    "triangle_domain": ("hz", "mel"),
    "bin_rule": ("all", "no_nyquist", "no_dc", "tf_op"),
    "log": ("ln", "log10", "10log10", "none"),
    "log_floor_mode": ("add", "max"),
    "utterance": ("none", "dynamic_range", "signed_peak", "centred_peak"),
    "dct_norm": ("ortho", "tf"),
    "input_rounding": ("half_even", "truncate"),
}


_LARGEST_INTEGER = 2**53
"""Beyond it integers are no longer what their conversion to float64 says."""


def _normalize(spec: FeatureSpec, field: Field[Any]) -> None:
    # 20 and 20.0 must hash alike, and True or "400" must not pass for a number.
    value = getattr(spec, field.name)
    annotation = getattr(field.type, "__name__", str(field.type))
    optional = annotation.endswith("| None")
    wanted = annotation.removesuffix(" | None")
    if value is None and optional:
        return
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise SpecError(f"{field.name} is an integer beyond 2**53; give a number that fits what it means")
    if wanted == "float" and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        object.__setattr__(spec, field.name, float(value))
    elif wanted == "float" or type(value).__name__ != wanted:
        rule = "a finite number" if wanted == "float" else f"of type {wanted}"
        raise SpecError(f"{field.name}={value!r} must be {rule}{' or None' if optional else ''}")
