"""The benchmark of one bundle."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.bench.cold_start import measure_cold_start
from edgeaudio.bench.footprint import installed_bytes
from edgeaudio.bench.peers import RATE, peer_front_ends, peer_pipelines
from edgeaudio.bench.timing import DEFAULT_ROUNDS, Contender, Timing, time_side_by_side
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.front_end import FrontEnd, Implementation, front_end_in_use
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import AudioStream

CHUNKS_MS = (10, 100)
"""What a caller pushes: one hop, or a typical audio callback."""


SECTIONS = ("front_end", "engines", "pipeline")
"""Kinds of contenders; all are timed in one pass, so figures of different sections may be compared."""


def benchmark(
    path: Path, *, rounds: int = DEFAULT_ROUNDS, audio: npt.NDArray[np.int16] | None = None
) -> dict[str, Any]:
    """Time front end, engines and the whole pipeline of a bundle; see docs/speed.md for the meaning of each figure.

    Args:
        path: The bundle.
        rounds: Of interleaved timing.
        audio: What is heard, at the bundle's rate, at least a second; None means :func:`speech_like_audio`.
    """
    bundle = open_bundle(path)
    audio = speech_like_audio(bundle.features.sample_rate) if audio is None else audio
    engines = bundle.usable_engines()
    contenders, missing = _contenders(bundle, engines, audio)
    timings = _time_sections(contenders, rounds=rounds)
    front_end, network, pipeline = (timings[section] for section in SECTIONS)
    stream = AudioStream(bundle)
    return {
        "bundle": bundle.manifest.name,
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "numpy": np.__version__},
        "engine_versions": {engine: bundle.program(engine).version for engine in engines},
        "audio": {
            "seconds": round(len(audio) / bundle.features.sample_rate, 3),
            "events": len(stream.process(audio)) + len(stream.flush()),
        },
        "unit": "microseconds per 10 ms of audio",
        "front_end": _rows(front_end),
        "engines": _rows(network),
        "pipeline": {name: {**row, **_factors(row)} for name, row in _rows(pipeline).items()},
        "not_measured": missing,
        "front_end_in_use": front_end_in_use(bundle.features),
        "front_end_ratio_to_pymicro_features": _ratios(front_end),
        "cold_start": {engine: measure_cold_start(path, engine) for engine in engines},
        "installed_bytes": installed_bytes(),
        "sizes_bytes": {
            artifact.path: artifact.size for artifact in bundle.manifest.artifacts if artifact.role != "golden"
        },
    }


def _factors(row: dict[str, float]) -> dict[str, float]:
    """Processor time for a second of audio, in seconds: of the median round, and of the 95th of a hundred."""
    names = {"real_time_factor": "median_us", "real_time_factor_p95": "p95_us"}
    return {factor: round(row[name] / 1e4, 6) for factor, name in names.items()}


def _contenders(
    bundle: Bundle, engines: tuple[str, ...], audio: npt.NDArray[np.int16]
) -> tuple[dict[str, dict[str, Contender]], dict[str, str]]:
    """What is timed, by section, and what is not, with the reason."""
    sections = {
        "front_end": _front_end_contenders(bundle, audio),
        "engines": engine_contenders(bundle, engines, audio),
        "pipeline": _pipeline_contenders(bundle, engines, audio),
    }
    if bundle.features.sample_rate != RATE:
        return sections, {"other packages": f"they hear {RATE} Hz, the bundle {bundle.features.sample_rate}"}
    front_ends, no_front_ends = peer_front_ends(audio)
    pipelines, no_pipelines = peer_pipelines(audio)
    sections["front_end"] |= front_ends
    sections["pipeline"] |= pipelines
    return sections, {**no_front_ends, **no_pipelines}


def _time_sections(sections: dict[str, dict[str, Contender]], *, rounds: int) -> dict[str, dict[str, Timing]]:
    """Every contender of every section in every round: a busy moment of the machine hits all alike."""
    flat = {(section, name): one for section, contenders in sections.items() for name, one in contenders.items()}
    timings = time_side_by_side(flat, rounds=rounds)
    return {section: {name: timings[section, name] for name in names} for section, names in sections.items()}


def _rows(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    return {name: timing.to_dict() for name, timing in timings.items()}


def _ratios(timings: dict[str, Timing]) -> dict[str, float]:
    peer = timings.get("pymicro-features, 10 ms")
    if peer is None:
        return {}
    return {
        name: round(timing.median_us / peer.median_us, 3)
        for name, timing in timings.items()
        if name != "pymicro-features, 10 ms"
    }


def speech_like_audio(sample_rate: int, seconds: int = 10) -> npt.NDArray[np.int16]:
    """Noise under a syllable-rate envelope; timing does not depend on what is said."""
    generator = np.random.default_rng(0)
    time = np.arange(sample_rate * seconds) / sample_rate
    envelope = np.clip(np.sin(2 * np.pi * 3 * time), 0.02, 1)
    samples: npt.NDArray[np.int16] = (4000 * envelope * generator.standard_normal(len(time))).astype(np.int16)
    return samples


def recorded_audio(bundle: Path, recording: Path) -> npt.NDArray[np.int16]:
    """A recording at the rate of ``bundle``, at least a second of it.

    Raises:
        SpecError: it is shorter.
        AudioError: it cannot be read.
    """
    from edgeaudio_models.audio_files import read_audio

    rate = open_bundle(bundle).features.sample_rate
    samples, _ = read_audio(recording, sample_rate=rate)
    if len(samples) < rate:
        raise SpecError(f"{recording} has {len(samples)} samples, must be at least {rate}, a second; take a longer one")
    return samples


def _chunks(audio: npt.NDArray[np.int16], chunk_ms: int, sample_rate: int) -> Iterator[npt.NDArray[np.int16]]:
    size = sample_rate * chunk_ms // 1000
    return itertools.cycle([audio[i : i + size] for i in range(0, len(audio) - size + 1, size)])


def _pushing(push: Callable[[Any], object], chunks: Iterator[Any]) -> Callable[[], object]:
    return lambda: push(next(chunks))


def _front_ends(bundle: Bundle) -> tuple[Implementation, ...]:
    """What can compute the features of ``bundle`` here, the default first."""
    return ("native", "numpy") if front_end_in_use(bundle.features) == "native" else ("numpy",)


def _front_end_contenders(bundle: Bundle, audio: npt.NDArray[np.int16]) -> dict[str, Contender]:
    rate = bundle.features.sample_rate
    return {
        f"{name}, {ms} ms": Contender(
            call=_pushing(FrontEnd(bundle.features, implementation=name).process, _chunks(audio, ms, rate)),
            audio_ms=ms,
        )
        for name in _front_ends(bundle)
        for ms in CHUNKS_MS
    }


def engine_contenders(bundle: Bundle, engines: tuple[str, ...], audio: npt.NDArray[np.int16]) -> dict[str, Contender]:
    """One network step at a call in each of ``engines``, by its name."""
    network = bundle.manifest.network
    features = FrontEnd(bundle.features).process(audio)
    codes = quantize(features, network.input_quant)
    steps = [
        np.ascontiguousarray(codes[i : i + network.step_frames])
        for i in range(0, len(codes) - network.step_frames, network.step_frames)
    ]
    step_ms = 1000 * network.step_frames * bundle.features.hop_length / bundle.features.sample_rate
    return {
        engine: Contender(call=_pushing(bundle.program(engine).session().run, itertools.cycle(steps)), audio_ms=step_ms)
        for engine in engines
    }


def _pipeline_contenders(
    bundle: Bundle, engines: tuple[str, ...], audio: npt.NDArray[np.int16]
) -> dict[str, Contender]:
    rate = bundle.features.sample_rate
    step_ms = 1000 * bundle.manifest.network.step_frames * bundle.features.hop_length // rate
    default, *others = _front_ends(bundle)
    variants: list[tuple[str, Implementation]] = [("", default), *((f", {name} front end", name) for name in others)]
    return {
        f"{engine}, {ms} ms{suffix}": Contender(
            call=_pushing(AudioStream(bundle, engine=engine, front_end=front_end).process, _chunks(audio, ms, rate)),
            audio_ms=ms,
        )
        for engine in engines
        for ms in sorted({step_ms, 100})
        for suffix, front_end in variants
    }
