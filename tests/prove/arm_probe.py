"""What a machine makes of a few bundles, for comparison with another: run by :mod:`tests.prove.arm`.

    python arm_probe.py OUTPUT BUNDLE...

Needs the runtime alone. Prints one JSON object; features go to OUTPUT as .npy files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio_runtime.bundle import PREFERENCE, Bundle, open_bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import BundleError, EngineError
from edgeaudio_runtime.front_end import FrontEnd, choose_implementation
from edgeaudio_runtime.listener import open_listener
from edgeaudio_runtime.selftest import self_test
from edgeaudio_runtime.stream import AudioStream


def probe(path: Path, output: Path) -> dict[str, Any]:
    """Features by both front ends; for each engine logits of the golden codes, events of both ways, its self-test."""
    bundle = open_bundle(path)
    front_ends = ["numpy"]
    if choose_implementation(bundle.features) == "native":
        front_ends.append("native")
    for front_end in front_ends:
        np.save(output / f"{path.name}.{front_end}.npy", features(bundle, front_end))
    engines = {program.engine: heard_by(bundle, program, front_ends) for program in programs(bundle)}
    return {"front_ends": front_ends, "engines": engines}


def programs(bundle: Bundle) -> Iterator[Program]:
    """A program of every engine that runs the bundle here."""
    for name in PREFERENCE:
        with contextlib.suppress(EngineError, BundleError):
            yield bundle.program(name)


def features(bundle: Bundle, front_end: Any) -> np.ndarray:
    """Features of the golden audio."""
    source = FrontEnd(bundle.features, implementation=front_end)
    return np.concatenate([source.process(bundle.golden.pcm), source.flush(bundle.manifest.network.step_frames)])


def heard_by(bundle: Bundle, program: Program, front_ends: list[Any]) -> dict[str, Any]:
    """Codes to logits to events, PCM to events, and the self-test of one engine."""
    golden = bundle.golden
    logits = program.session().run(golden.codes)
    listener = open_listener(bundle)
    events = [event.to_dict() for event in (*listener.hear(logits, golden.features), *listener.finish())]
    report = self_test(bundle, program=program)
    return {
        "version": program.version,
        "numerics": program.numerics,
        "logits": hashlib.sha256(logits.tobytes()).hexdigest(),
        "logits_off": int(np.count_nonzero(logits != golden.logits)),
        "codes_to_events": events,
        "pcm_to_events": {name: listen(bundle, program, name) for name in front_ends},
        "selftest": report.passed,
        "failed_stages": [stage.describe() for stage in report.stages if not stage.passed],
    }


def listen(bundle: Bundle, program: Any, front_end: Any) -> list[dict[str, Any]]:
    """Events of the golden audio through the whole stream."""
    stream = AudioStream(bundle, program=program, front_end=front_end)
    return [event.to_dict() for event in (*stream.process(bundle.golden.pcm), *stream.flush())]


if __name__ == "__main__":
    found = {Path(name).name: probe(Path(name), Path(sys.argv[1])) for name in sys.argv[2:]}
    sys.stdout.write(json.dumps({"machine": platform.machine(), "numpy": np.__version__, "bundles": found}) + "\n")
