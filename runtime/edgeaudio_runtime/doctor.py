"""What a bundle is, and whether this device can run it and hears well: ``--info`` and ``--doctor``."""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from edgeaudio_runtime import __version__
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import AudioError, EdgeAudioError
from edgeaudio_runtime.front_end import front_end_choice, front_end_in_use
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.recording_findings import Finding
from edgeaudio_runtime.selftest import self_test

_ENGINES = {"onnxruntime": ("onnxruntime",), "litert": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")}
"""Engine to the modules of which one must load."""
_EXTRAS = {"resample": "soxr", "flac": "soundfile", "mic": "sounddevice", "wyoming": "wyoming"}


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
        "usable_engines": list(bundle.usable_engines()),
        "size_bytes": sum(artifact.size for artifact in manifest.artifacts),
        "has_golden": bundle.has_golden,
        "certified": bool(bundle.parity and bundle.parity.get("passed")),
    }


def examine(bundle: Bundle | None = None) -> list[Finding]:
    """Look at the platform, the engines and the extras; with a bundle, replay its golden data on each engine."""
    versions = f"edgeaudio-runtime {__version__}, Python {platform.python_version()}, numpy {np.__version__}"
    findings = [Finding(subject="platform", ok=True, text=f"{versions}, {platform.machine()} {platform.system()}")]
    if bundle is None:
        findings += [_front_end(front_end_choice(preset("log_mel"))), *map(_package, _ENGINES)]
    else:
        findings += [
            Finding(subject="bundle", ok=True, text=f"{bundle.name}: every artifact has its sha256"),
            _front_end(front_end_choice(bundle.features)),
            *(
                _engine(bundle, engine)
                for engine in dict.fromkeys((*bundle.usable_engines(), *bundle.manifest.engines))
            ),
        ]
    return [*findings, *(_extra(extra, module) for extra, module in _EXTRAS.items())]


def _front_end(choice: str) -> Finding:
    return Finding(subject="front end", ok=True, text=choice)


def _package(engine: str) -> Finding:
    """Whether the library of an engine loads; one that is not there is no fault without a bundle that wants it."""
    subject = f"engine {engine}"
    for module in _ENGINES[engine]:
        package = module.partition(".")[0]
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == package:
                continue
            return _broken(engine, error)
        except Exception as error:  # built for another numpy, Python or processor: any type at all
            return _broken(engine, error)
        return Finding(subject=subject, ok=True, text=f"{_version(package)} loads")
    return Finding(subject=subject, ok=True, text=f"not installed; pip install 'edgeaudio-runtime[{engine}]' adds it")


def _broken(engine: str, error: Exception) -> Finding:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    remedy = f"pip install --force-reinstall 'edgeaudio-runtime[{engine}]'"
    return Finding(subject=f"engine {engine}", ok=False, text=f"installed, but does not load ({reason}); {remedy}")


def _engine(bundle: Bundle, engine: str) -> Finding:
    subject = f"engine {engine}"
    if engine not in (*bundle.engines(), "native"):
        remedy = f"pip install 'edgeaudio-runtime[{engine}]' adds it"
        return Finding(subject=subject, ok=True, text=f"not installed; {remedy}")
    try:
        report = self_test(bundle, engine=engine)
    except EdgeAudioError as error:
        return Finding(subject=subject, ok=False, text=str(error))
    except Exception as error:  # an engine's library may fail in any way
        return _broken(engine, error)
    failed = [stage.name for stage in report.stages if not stage.passed]
    outcome = f"self-test FAILED at {failed}; copy the bundle again" if failed else "self-test passed"
    return Finding(subject=subject, ok=report.passed, text=f"{report.version}, numerics {report.numerics}, {outcome}")


def _extra(extra: str, module: str) -> Finding:
    subject = f"extra {extra}"
    try:
        found = _microphones() if extra == "mic" else ""
        importlib.import_module(module)
    except ModuleNotFoundError:
        text = f"not installed; pip install 'edgeaudio-runtime[{extra}]' adds it"
    except Exception as error:  # a missing shared library, mostly; a fault only when it is asked for
        text = f"installed, but does not load: {' '.join(str(error).split())}"
    else:
        text = f"{_version(module)}{found}"
    return Finding(subject=subject, ok=True, text=text)


def _microphones() -> str:
    from edgeaudio_runtime.microphone import import_sounddevice

    try:
        library = import_sounddevice()
    except AudioError as error:
        raise error.__cause__ or error from error
    inputs = [device for device in library.query_devices() if device["max_input_channels"] > 0]
    named = [
        f"{d['index']} {d['name']} ({d['max_input_channels']} ch, {d['default_samplerate']:.0f} Hz)" for d in inputs
    ]
    return f", inputs: {'; '.join(named)}" if named else ", but no input device is there"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package.replace('_', '-'))}"
    except PackageNotFoundError:
        return f"{package} of unknown version"
