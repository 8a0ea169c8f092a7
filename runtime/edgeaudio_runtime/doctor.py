"""What a bundle is, and whether this device can run it and hears well: ``--info`` and ``--doctor``."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime import __version__
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import EdgeAudioError
from edgeaudio_runtime.front_end import front_end_choice, front_end_in_use
from edgeaudio_runtime.selftest import self_test

_EXTRAS = {"resample": "soxr", "mic": "sounddevice"}
_QUIET_DBFS = -50.0
"""A recording whose loudest 0.1 s is below this says little to any model."""
_CLIPPED_SHARE = 1e-3
_FULL_SCALE = 32767 / 32768
_DC_SHARE = 0.02
_SILENT_DBFS = -120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor."""

    subject: str
    ok: bool
    text: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"subject": self.subject, "ok": self.ok, "text": self.text}


def bundle_info(bundle: Bundle) -> dict[str, Any]:
    """What ``--info`` prints: name, task, labels, times in milliseconds, engines, licences."""
    manifest, spec, clock = bundle.manifest, bundle.features, bundle.clock
    frame_ms = 1000 * spec.hop_length / spec.sample_rate
    return {
        "name": manifest.name,
        "task": manifest.task,
        "mode": manifest.mode,
        "labels": list(manifest.labels),
        "background_labels": list(manifest.background_labels),
        "sample_rate": spec.sample_rate,
        "features": manifest.features_hash,
        "front_end": front_end_in_use(spec),
        "step_ms": clock.step_frames * frame_ms,
        "latency_ms": manifest.network.latency_frames * frame_ms,
        "receptive_field_ms": manifest.network.receptive_field_frames * frame_ms,
        "quantization": manifest.quantization.to_dict(),
        "artifacts": list(manifest.engines),
        "usable_engines": list(bundle.engines()),
        "size_bytes": sum(artifact.size for artifact in manifest.artifacts),
        "has_golden": bundle.has_golden,
        "certified": bool(bundle.parity and bundle.parity.get("passed")),
    }


def examine(bundle: Bundle, chunks: Iterable[npt.NDArray[Any]] | None = None) -> list[Finding]:
    """Look at the platform, every engine of the bundle and, if given, a recording at the bundle's rate."""
    versions = f"edgeaudio-runtime {__version__}, Python {platform.python_version()}, numpy {np.__version__}"
    findings = [
        Finding(subject="platform", ok=True, text=f"{versions}, {platform.machine()} {platform.system()}"),
        Finding(subject="bundle", ok=True, text=f"{bundle.name}: every artifact has its sha256"),
        Finding(subject="front end", ok=True, text=front_end_choice(bundle.features)),
    ]
    findings += [_engine(bundle, engine) for engine in bundle.manifest.engines]
    findings += [_extra(extra, module) for extra, module in _EXTRAS.items()]
    if chunks is not None:
        findings += _recording(Levels.of(chunks, bundle.features.sample_rate))
    return findings


def _engine(bundle: Bundle, engine: str) -> Finding:
    subject = f"engine {engine}"
    if engine not in bundle.engines():
        remedy = f"pip install 'edgeaudio-runtime[{engine}]' adds it"
        return Finding(subject=subject, ok=True, text=f"not installed; {remedy}")
    try:
        report = self_test(bundle, engine=engine)
    except EdgeAudioError as error:
        return Finding(subject=subject, ok=False, text=str(error))
    failed = [stage.name for stage in report.stages if not stage.passed]
    outcome = f"self-test FAILED at {failed}" if failed else "self-test passed"
    return Finding(subject=subject, ok=report.passed, text=f"{report.version}, numerics {report.numerics}, {outcome}")


def _extra(extra: str, module: str) -> Finding:
    present = importlib.util.find_spec(module) is not None
    text = f"{module} is installed" if present else f"not installed; pip install 'edgeaudio-runtime[{extra}]' adds it"
    return Finding(subject=f"extra {extra}", ok=True, text=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Levels of a recording, full scale being 1."""

    seconds: float
    peak: float
    mean: float
    """Offset from zero (DC)."""
    loudest_dbfs: float
    """Level of the loudest chunk, its own mean taken off, in dB relative to a full-scale square wave."""
    clipped_share: float
    """Share of samples at either end of the scale."""

    @classmethod
    def of(cls, chunks: Iterable[npt.NDArray[Any]], sample_rate: int) -> Levels:
        """Measure chunk by chunk; the recording need not fit into memory."""
        n_samples, n_clipped, total, peak, loudest = 0, 0, 0.0, 0.0, 0.0
        for chunk in chunks:
            if not len(chunk):
                continue
            real = chunk.astype(np.float64) / (32768 if chunk.dtype == np.int16 else 1)
            n_samples += len(real)
            n_clipped += int(np.count_nonzero(np.abs(real) >= _FULL_SCALE))
            total += float(real.sum())
            peak, loudest = max(peak, float(np.abs(real).max())), max(loudest, float(real.var()))
        n = max(n_samples, 1)
        return cls(
            seconds=n_samples / sample_rate,
            peak=peak,
            mean=total / n,
            loudest_dbfs=10 * float(np.log10(loudest)) if loudest > 0 else _SILENT_DBFS,
            clipped_share=n_clipped / n,
        )


def _recording(levels: Levels) -> list[Finding]:
    if levels.seconds == 0:
        return [Finding(subject="recording", ok=False, text="no samples; is the source connected?")]
    loud = levels.loudest_dbfs >= _QUIET_DBFS
    clipped, centred = levels.clipped_share > _CLIPPED_SHARE, abs(levels.mean) <= _DC_SHARE
    level = f"{levels.seconds:.1f} s, loudest chunk {levels.loudest_dbfs:.0f} dBFS, peak {levels.peak:.3f}"
    clipping = f"{100 * levels.clipped_share:.2f} % of samples at full scale"
    offset = f"mean {levels.mean:+.4f} of full scale"
    return [
        Finding(subject="level", ok=loud, text=level if loud else f"{level}; too quiet, raise the gain"),
        Finding(subject="clipping", ok=not clipped, text=f"{clipping}; lower the gain" if clipped else clipping),
        Finding(subject="dc offset", ok=centred, text=offset if centred else f"{offset}; check the microphone's bias"),
    ]
