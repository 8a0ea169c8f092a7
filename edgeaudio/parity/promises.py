"""Rungs that hold a bundle to its own words: its manifest, the number of frames it promises, its golden data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeaudio.parity.as_trained import compare_settings
from edgeaudio.parity.stages import Stage, compare_codes
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.selftest import SelfTestStage, self_test

GOLDEN = {
    "pcm -> features": "features",
    "features -> codes": "codes",
    "codes -> logits": "logits",
    "logits -> events": "events",
}
"""Stages of the self-test that compare with a golden file, and the name of the file."""


def promises_stage(bundle: Bundle, graph: IntegerGraph) -> Stage:
    """A stage that holds what the manifest says of rounding and states to the integer graph."""
    wanted: dict[str, object] = {"requantization": graph.requantization}
    given: dict[str, object] = {"requantization": bundle.manifest.quantization.requantization}
    for state in graph.states:
        tensor = graph.tensors[state.input]
        wanted[f"state {state.name}"] = (tensor.shape, tensor.dtype, state.initial)
    for promised in bundle.manifest.network.states:
        given[f"state {promised.name}"] = (tuple(promised.shape), promised.dtype, promised.initial)
    return compare_settings("promises", wanted, given, ends=("integer graph", "manifest"), rule="equal")


def frames_stage(spec: FeatureSpec, samples: np.ndarray, *, multiple_of: int) -> Stage:
    """A stage that counts the frames of recordings of several lengths, against ``ceil((N - first_offset) / hop)``."""
    hop, most = spec.hop_length, len(samples)
    lengths = sorted({1, hop - 1, hop, hop + 1, multiple_of * hop + 1, spec.win_length, most // 3, most} - {0})
    wanted = [-(-spec.n_frames(n) // multiple_of) * multiple_of for n in lengths]
    found = [len(compute_features(spec, samples[:n], multiple_of=multiple_of)) for n in lengths]
    return compare_codes(
        "frame count", ("ceil((samples - first_offset) / hop)", np.array(wanted)), ("front end", np.array(found))
    )


def golden_stages(bundle: Bundle, program: Program) -> Iterator[Stage]:
    """The golden data of a bundle, replayed on ``program``: a stage a file, nothing where there are none."""
    if not bundle.has_golden:
        return
    try:
        report = self_test(bundle, program=program)
    except BundleError as error:
        yield Stage(
            name="golden data", reference="golden", candidate="this bundle", compared=1, mismatches=1,
            tolerance=str(error), passed=False, culprits=("golden",),
        )  # fmt: skip
        return
    yield from (_golden(stage) for stage in report.stages if stage.name in GOLDEN)


def _golden(stage: SelfTestStage) -> Stage:
    name, codes = f"golden {GOLDEN[stage.name]}", stage.unit == "max_lsb"
    return Stage(
        name=name, reference="golden data", candidate=stage.candidate,
        compared=max(1, stage.compared), mismatches=stage.mismatches,
        max_lsb=int(stage.error) if codes else None, max_abs_error=None if codes else stage.error,
        tolerance="as the self-test of a device", passed=stage.passed, culprits=() if stage.passed else (name,),
    )  # fmt: skip
