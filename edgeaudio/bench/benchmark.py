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
from edgeaudio.bench.timing import DEFAULT_ROUNDS, Contender, Timing, time_side_by_side
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.front_end import FrontEnd, Implementation, front_end_in_use
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import AudioStream

CHUNKS_MS = (10, 100)
"""What a caller pushes: one hop, or a typical audio callback."""


SECTIONS = ("front_end", "engines", "pipeline")
"""Kinds of contenders; all are timed in one pass, so figures of different sections may be compared."""


def benchmark(path: Path, *, rounds: int = DEFAULT_ROUNDS) -> dict[str, Any]:
    """Time front end, engines and the whole pipeline of a bundle; see README for the meaning of each figure."""
    bundle = open_bundle(path)
    engines = bundle.engines()
    timings = _time_sections(_contenders(bundle, engines), rounds=rounds)
    front_end, network, pipeline = (timings[section] for section in SECTIONS)
    return {
        "bundle": bundle.manifest.name,
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "numpy": np.__version__},
        "unit": "microseconds per 10 ms of audio",
        "front_end": _rows(front_end),
        "engines": _rows(network),
        "pipeline": {
            name: {**row, "real_time_factor": round(row["median_us"] / 1e4, 6)} for name, row in _rows(pipeline).items()
        },
        "front_end_in_use": front_end_in_use(bundle.features),
        "front_end_ratio_to_pymicro_features": _ratios(front_end),
        "cold_start": {engine: measure_cold_start(path, engine) for engine in engines},
        "installed_bytes": installed_bytes(),
        "sizes_bytes": {
            artifact.path: artifact.size for artifact in bundle.manifest.artifacts if artifact.role != "golden"
        },
    }


def _contenders(bundle: Bundle, engines: tuple[str, ...]) -> dict[str, dict[str, Contender]]:
    audio = speech_like_audio(bundle.features.sample_rate)
    return {
        "front_end": _front_end_contenders(bundle, audio),
        "engines": engine_contenders(bundle, engines, audio),
        "pipeline": _pipeline_contenders(bundle, engines, audio),
    }


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
    contenders = {
        f"{name}, {ms} ms": Contender(
            call=_pushing(FrontEnd(bundle.features, implementation=name).process, _chunks(audio, ms, rate)),
            audio_ms=ms,
        )
        for name in _front_ends(bundle)
        for ms in CHUNKS_MS
    }
    return {**contenders, **_pymicro_features(audio, rate)}


def _pymicro_features(audio: npt.NDArray[np.int16], rate: int) -> dict[str, Contender]:
    try:
        from pymicro_features import MicroFrontend
    except ModuleNotFoundError:
        return {}
    # It takes 10 ms at a call and no more, as bytes.
    raw = itertools.cycle([chunk.tobytes() for chunk in itertools.islice(_chunks(audio, 10, rate), 100)])
    return {"pymicro-features, 10 ms": Contender(call=_pushing(MicroFrontend().process_samples, raw), audio_ms=10)}


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
        # The other front end beside the fastest engine is enough to see what it costs.
        for suffix, front_end in (variants if engine == engines[0] else variants[:1])
    }
