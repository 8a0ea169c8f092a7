"""What is wrong with a recording, each fault in one line with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeaudio_runtime.record import Record
from edgeaudio_runtime.recording import (
    MAX_SECONDS,
    Float32,
    Recording,
    band_levels_db,
    clipped_share,
    cutoff,
    dbfs,
    holes,
    speech_and_noise_dbfs,
    voice,
)

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

TARGET_DBFS = -26.0
"""Speech level that ITU-T P.56 and G.712 call nominal; what the gain advice aims at without a bundle."""
_QUIET_DBFS = -50.0
_CLIPPED_SHARE = 1e-3
_DC_SHARE = 0.02
_TOP_HZ = 7000.0
_BAND_SHARE = 0.8
"""Audio that ends below this share of what the bundle listens to is narrow."""
_RATES = (8000, 11_025, 16_000, 22_050, 32_000, 44_100)
_STEEP_DB = 35.0
"""Real speech at 16 kHz falls by at most 32 dB within 750 Hz (300 recordings of four corpora, some of them Opus); a
resampler's filter by 33 and more."""
_PITCH_HZ, _CENTRE_HZ, _CENTRE_WEIGHT = 150.0, 420.0, 0.4
_SPEED = 1.15
"""The logarithm of pitch over 150 Hz, plus 0.4 times that of the spectral centre over 420 Hz, lies within 1.15
of 0 for all but one of 600 recordings of those corpora; a third of the speed moves it by -1.54."""
_VOICED_S, _VOICED_SHARE = 0.25, 0.4
"""Too little voice says nothing about speed."""


class Finding(Record):
    """One line of the doctor."""

    subject: str
    ok: bool
    text: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"subject": self.subject, "ok": self.ok, "text": self.text}


class Expectation(Record):
    """What a listener wants to hear."""

    sample_rate: int | None = None
    """Hz; None where any will do."""
    top_hz: float = _TOP_HZ
    """Highest frequency that is looked at."""
    target_dbfs: float = TARGET_DBFS
    """Speech level to aim at."""
    quiet_dbfs: float = _QUIET_DBFS
    """Speech below this is too quiet."""
    of: str = "speech recognizers like"
    """Whose target that is."""

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Expectation:
        """Rate and band of its features; level of its golden recording, and how far below that it was calibrated."""
        spec = bundle.features
        top = float(getattr(spec, "f_max", spec.sample_rate / 2))
        values: dict[str, Any] = {"sample_rate": spec.sample_rate, "top_hz": min(top, _TOP_HZ)}
        if bundle.has_golden and len(bundle.golden.pcm):
            level, _ = speech_and_noise_dbfs((bundle.golden.pcm / 32768).astype(np.float32), spec.sample_rate)
            lowest = min(_levels(bundle.manifest.quantization.calibration), default=0.0)
            values |= {"target_dbfs": level, "quiet_dbfs": max(-70.0, min(_QUIET_DBFS, level + lowest - 6.0))}
            values["of"] = f"{bundle.name} was tested at"
        return cls(**values)


def _levels(calibration: Mapping[str, Any]) -> list[float]:
    levels = calibration.get("levels_db")
    return [float(level) for level in levels if isinstance(level, (int, float))] if isinstance(levels, list) else []


def examine_recording(
    recording: Recording, expected: Expectation, *, channel: int | None = None, resample: bool = False
) -> list[Finding]:
    """Look for every fault this module knows.

    Args:
        recording: As the source gives it, before any conversion.
        expected: What will listen.
        channel: The one to be heard; None for the only one, or the first that is not silent.
        resample: Whether another rate will be converted.
    """
    if not len(recording.samples):
        return [Finding(subject="recording", ok=False, text="no samples; is the source connected?")]
    findings = [_rate(recording, expected, resample), *_channels(recording, channel)]
    samples = recording.samples[:, _heard(recording.samples, channel)]
    if samples.min() == samples.max():
        value = f"every sample is {samples[0]:g}"
        remedy = "the microphone is muted or dead, or it is the wrong device or channel"
        return [*findings, Finding(subject="silence", ok=False, text=f"{value}; {remedy}")]
    return [*findings, *_sound(samples, recording, expected)]


def _heard(samples: Float32, channel: int | None) -> int:
    if channel is not None and 0 <= channel < samples.shape[1]:
        return channel
    return next(iter(_alive(samples)), 0)


def _alive(samples: Float32) -> list[int]:
    return [index for index, column in enumerate(samples.T) if column.min() < column.max()]


def _sound(samples: Float32, recording: Recording, expected: Expectation) -> Iterator[Finding]:
    yield _level(samples, recording, expected)
    yield _clipping(samples)
    yield _offset(samples)
    yield _holes(samples, recording.sample_rate)
    yield _band(samples, recording.sample_rate, expected)
    yield _speed(samples, recording.sample_rate)


def _rate(recording: Recording, expected: Expectation, resample: bool) -> Finding:
    rate, wanted = recording.sample_rate, expected.sample_rate
    beginning = "" if recording.seconds <= MAX_SECONDS else f", of which the first {MAX_SECONDS:g} s are examined"
    text = f"{recording.seconds:.1f} s at {rate} Hz{beginning}"
    if wanted in (None, rate) or resample:
        return Finding(subject="recording", ok=True, text=text)
    return Finding(subject="recording", ok=False, text=f"{text}; the bundle hears {wanted} Hz, add --resample")


def _channels(recording: Recording, channel: int | None) -> Iterator[Finding]:
    samples, n_channels = recording.samples, recording.samples.shape[1]
    if n_channels == 1:
        return
    if channel is None or not 0 <= channel < n_channels:
        text = f"{n_channels}, none of them chosen; add --channel 0 (up to {n_channels - 1})"
        yield Finding(subject="channels", ok=False, text=text)
    alive = _alive(samples)
    dead = [index for index in range(n_channels) if index not in alive]
    if dead:
        remedy = f"choose one of {alive} with --channel" if alive else "is anything connected?"
        # A dead channel beside the one that is heard does no harm.
        harmless = channel is not None and channel in alive
        yield Finding(subject="channels", ok=harmless, text=f"{dead} of {n_channels} are silent; {remedy}")
    if n_channels > 1 and len(alive) == n_channels and (samples == samples[:, :1]).all():
        text = f"all {n_channels} are identical, a mono signal; one microphone is connected"
        yield Finding(subject="channels", ok=True, text=text)


def _level(samples: Float32, recording: Recording, expected: Expectation) -> Finding:
    speech, noise = speech_and_noise_dbfs(samples, recording.sample_rate)
    peak = dbfs(float(abs(samples).max()) ** 2)
    text = f"speech {speech:.0f} dBFS, background {noise:.0f}, peak {peak:.0f}"
    target = f"{expected.target_dbfs:.0f}, which {expected.of}"
    gain = expected.target_dbfs - speech
    if speech < expected.quiet_dbfs:
        advice = f"too quiet, raise the capture gain by {gain:.0f} dB to {target}"
        return Finding(subject="level", ok=False, text=f"{text}; {advice}")
    return Finding(subject="level", ok=True, text=f"{text}; {gain:+.0f} dB from {target}")


def _clipping(samples: Float32) -> Finding:
    share = clipped_share(samples)
    text = f"{100 * share:.2f} % of samples cut off at {dbfs(float(abs(samples).max()) ** 2):.0f} dBFS"
    if share <= _CLIPPED_SHARE:
        return Finding(subject="clipping", ok=True, text=text)
    return Finding(subject="clipping", ok=False, text=f"{text}; lower the gain by 6 dB or more, at its first stage")


def _offset(samples: Float32) -> Finding:
    mean = float(samples.mean(dtype="float64"))
    text = f"mean {mean:+.4f} of full scale"
    if abs(mean) <= _DC_SHARE:
        return Finding(subject="dc offset", ok=True, text=text)
    return Finding(subject="dc offset", ok=False, text=f"{text}; check the microphone's bias, or high-pass at 50 Hz")


def _holes(samples: Float32, sample_rate: int) -> Finding:
    found = holes(samples, sample_rate)
    if not found:
        return Finding(subject="dropped samples", ok=True, text="no holes of zeros")
    start, duration = found[0]
    text = f"holes of zeros: {len(found)}, the first at {start:.2f} s for {1000 * duration:.0f} ms"
    remedy = "use larger buffers, another USB port or a less busy machine"
    return Finding(subject="dropped samples", ok=False, text=f"{text}; {remedy}")


def _band(samples: Float32, sample_rate: int, expected: Expectation) -> Finding:
    edge, fall = cutoff(band_levels_db(samples, sample_rate))
    needed = min(expected.top_hz, sample_rate / 2)
    if fall < _STEEP_DB or edge >= _BAND_SHARE * needed:
        return Finding(subject="bandwidth", ok=True, text=f"up to {needed:.0f} Hz or more")
    text = f"nothing above {edge:.0f} Hz, where {needed:.0f} Hz are listened to"
    was = next(rate for rate in (*_RATES, sample_rate) if rate >= 2 * edge)
    remedy = f"it was recorded at {was} Hz or came through a telephone; record at {expected.sample_rate or 16_000} Hz"
    return Finding(subject="bandwidth", ok=False, text=f"{text}; {remedy}")


def _speed(samples: Float32, sample_rate: int) -> Finding:
    heard = voice(samples, sample_rate)
    if heard is None or heard.voiced_s < _VOICED_S or heard.voiced_share < _VOICED_SHARE:
        return Finding(subject="speed", ok=True, text="too little voice to tell whether the sample rate is true")
    text = f"voice of {heard.pitch_hz:.0f} Hz"
    score = log(heard.pitch_hz / _PITCH_HZ) + _CENTRE_WEIGHT * log(max(heard.centre_hz, 1.0) / _CENTRE_HZ)
    if abs(score) <= _SPEED:
        return Finding(subject="speed", ok=True, text=text)
    fast = score > 0
    true = sample_rate // 3 if fast else sample_rate * 3
    remedy = f"if this is speech, its rate is less than the {sample_rate} Hz it says, perhaps {true} Hz"
    if not fast:
        remedy = remedy.replace("less", "more")
    way = "too fast" if fast else "too slow"
    return Finding(subject="speed", ok=False, text=f"{text}, it plays {way}; {remedy}: correct the label")
