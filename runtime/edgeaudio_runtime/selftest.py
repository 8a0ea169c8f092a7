"""The self-test of a bundle: replay its golden data on this device, stage by stage, so that a failure names its stage.

Features are held to a tolerance (the float libraries of two machines differ in the last bit); all after them is codes
and agrees exactly, except where an engine declares other numerics than the bundle's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.ctc_decoder import DecoderConfig
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import MelSpec
from edgeaudio_runtime.front_end import compute_features, front_end_in_use
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.listener import open_listener
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.record import Record
from edgeaudio_runtime.stream import LogitStream
from edgeaudio_runtime.tolerances import CodeTolerance, code_tolerance

if TYPE_CHECKING:
    from edgeaudio_runtime.engines.base import Program

FEATURE_ATOL = 1e-3
"""Largest deviation of a feature before its affine (nats for a natural log): the FFTs of two numpy versions, and of
numpy and C, differ in the last bits, which a logarithm near its floor magnifies; a real defect is 0.01 and more."""
FEATURE_TIGHT_ATOL = 1e-4
"""Deviation within which all but :data:`FEATURE_LOOSE_SHARE` of the features must lie."""
FEATURE_LOOSE_SHARE = 1e-3
_CHUNK_SEED = 20_240_229
_MAX_CHUNK = 4000


class SelfTestStage(Record):
    """One comparison."""

    name: str
    reference: str
    candidate: str
    compared: int
    """Values compared."""
    mismatches: int
    """Values outside the stage's rule; for an engine with other numerics, values that differ at all."""
    error: float
    """Largest deviation, in the unit that ``unit`` names."""
    unit: str
    """"max_lsb" or "max_abs_error"."""
    passed: bool

    def describe(self) -> str:
        """One line for people."""
        error = f"{self.error:g}" if self.unit == "max_lsb" else f"{self.error:.2e}"
        return f"{self.name}: {self.mismatches} of {self.compared} values off, {self.unit} {error} ({self.candidate})"

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as a stage of the parity certificate."""
        names = ("name", "reference", "candidate", "compared", "mismatches", "passed")
        return {**{name: getattr(self, name) for name in names}, self.unit: self.error}


class SelfTestReport(Record):
    """Outcome for one engine."""

    engine: str
    numerics: str
    version: str
    """Package and version that computed."""
    stages: tuple[SelfTestStage, ...]

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(stage.passed for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """JSON form of ``edgeaudio-run --selftest --json``."""
        return {
            "passed": self.passed,
            "engine": self.engine,
            "numerics": self.numerics,
            "version": self.version,
            "stages": [stage.to_dict() for stage in self.stages],
        }


def self_test(bundle: Bundle, *, engine: str = "auto", program: Program | None = None) -> SelfTestReport:
    """Replay the golden data of ``bundle`` on one engine.

    Args:
        bundle: With golden data.
        engine: As for ``Bundle.program``.
        program: A program already loaded; ``engine`` is then ignored.

    Raises:
        BundleError: No golden data, or they contradict each other in shape.
        EngineError: The engine is not installed.
    """
    if not bundle.has_golden:
        raise BundleError(f"{bundle.path} has no golden data to replay; export it again")
    golden, program = bundle.golden, bundle.program(engine) if program is None else program
    exact = program.numerics == bundle.manifest.quantization.requantization
    logits, method = bundle.manifest.network.output_quant, bundle.manifest.quantization.method
    stages = (
        _features_stage(bundle, golden),
        _codes_stage(bundle, golden),
        _logits_stage(golden, program, code_tolerance(logits, exact=exact, method=method)),
        _events_stage(bundle, golden),
        *(() if exact else (_decisions_stage(bundle, golden, program),)),
        _chunks_stage(bundle, golden, program),
    )
    return SelfTestReport(engine=program.engine, numerics=program.numerics, version=program.version, stages=stages)


def _features_stage(bundle: Bundle, golden: Golden) -> SelfTestStage:
    spec = bundle.features
    features = compute_features(spec, golden.pcm, multiple_of=bundle.manifest.network.step_frames)
    _check_shape("features", features, golden.features)
    gain = abs(spec.affine_scale) if isinstance(spec, MelSpec) else 1.0
    with np.errstate(invalid="ignore"):  # infinities in damaged golden data: no number, which fails below
        deviation = np.abs(features.astype(np.float64) - golden.features) / gain
    worst = float(deviation.max(initial=0.0))
    loose = int(np.count_nonzero(~(deviation <= FEATURE_TIGHT_ATOL)))
    return SelfTestStage(
        name="pcm -> features", reference="golden", candidate=f"{front_end_in_use(spec)} front end",
        compared=deviation.size, mismatches=loose, error=worst, unit="max_abs_error",
        passed=worst <= FEATURE_ATOL and loose <= FEATURE_LOOSE_SHARE * deviation.size,
    )  # fmt: skip


def _codes_stage(bundle: Bundle, golden: Golden) -> SelfTestStage:
    with np.errstate(over="ignore", invalid="ignore"):  # damaged features fail the comparison, not the arithmetic
        codes = quantize(golden.features, bundle.manifest.network.input_quant)
    return _exact("features -> codes", "quantize", golden.codes, codes)


def _logits_stage(golden: Golden, program: Program, tolerance: CodeTolerance) -> SelfTestStage:
    logits = program.session().run(golden.codes)
    stage = _exact("codes -> logits", program.engine, golden.logits, logits)
    passed = stage.mismatches <= tolerance.share * stage.compared and stage.error <= tolerance.lsb
    return replace(stage, passed=passed)


def _events_stage(bundle: Bundle, golden: Golden) -> SelfTestStage:
    events = [event.to_dict() for event in _events(bundle, golden, golden.logits)]
    wrong = _unequal(golden.events, events)
    return SelfTestStage(
        name="logits -> events", reference="golden", candidate=bundle.task,
        compared=max(len(golden.events), len(events)), mismatches=wrong,
        error=0.0, unit="max_abs_error", passed=wrong == 0,
    )  # fmt: skip


def _decisions_stage(bundle: Bundle, golden: Golden, program: Program) -> SelfTestStage:
    """On other numerics scores and times may move a little; what was heard may not."""
    events = _events(bundle, golden, program.session().run(golden.codes))
    reference = [decision(event) for event in golden.events]
    wrong = _unequal(reference, [decision(event.to_dict()) for event in events])
    return SelfTestStage(
        name="decisions", reference="golden", candidate=program.engine,
        compared=max(len(reference), len(events)), mismatches=wrong, error=0.0, unit="max_abs_error", passed=wrong == 0,
    )  # fmt: skip


def _chunks_stage(bundle: Bundle, golden: Golden, program: Program) -> SelfTestStage:
    whole, cut = LogitStream(bundle.features, program), LogitStream(bundle.features, program)
    offline = np.concatenate((whole.process(golden.pcm)[0], whole.flush()[0]))
    parts = [cut.process(chunk)[0] for chunk in _random_chunks(golden.pcm)]
    stage = _exact("random chunks", program.engine, offline, np.concatenate((*parts, cut.flush()[0])))
    return replace(stage, reference="one chunk")


def _random_chunks(pcm: npt.NDArray[np.int16]) -> Iterator[npt.NDArray[np.int16]]:
    rng, position = np.random.default_rng(_CHUNK_SEED), 0
    while position < len(pcm):
        size = int(rng.integers(0, _MAX_CHUNK))
        yield pcm[position : position + size]
        position += size


def _events(bundle: Bundle, golden: Golden, logits: npt.NDArray[Any]) -> list[Event]:
    listener = open_listener(bundle, _config(bundle, golden))
    return [*listener.hear(logits, golden.features), *listener.finish()]


def _config(bundle: Bundle, golden: Golden) -> DetectorConfig | DecoderConfig | None:
    if golden.config is None:
        return None
    kind = DetectorConfig if bundle.task == "keyword" else DecoderConfig
    return kind.from_dict(golden.config)


def decision(event: dict[str, Any]) -> tuple[Any, ...]:
    """What of an event's JSON form was decided: all but its scores and times."""
    return tuple(event.get(name) for name in ("event", "label", "text", "final"))


def _unequal(reference: list[Any], candidate: list[Any]) -> int:
    same = [a == b for a, b in zip(reference, candidate, strict=False)].count(True)
    return max(len(reference), len(candidate)) - same


def _exact(name: str, candidate_name: str, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> SelfTestStage:
    _check_shape(name, candidate, reference)
    difference = np.abs(candidate.astype(np.int32) - reference.astype(np.int32))
    wrong = int(np.count_nonzero(difference))
    return SelfTestStage(
        name=name, reference="golden", candidate=candidate_name, compared=difference.size,
        mismatches=wrong, error=float(difference.max(initial=0)), unit="max_lsb", passed=wrong == 0,
    )  # fmt: skip


def _check_shape(name: str, candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
    if candidate.shape != reference.shape:
        found, wanted = list(candidate.shape), list(reference.shape)
        raise BundleError(f"{name}: golden data have shape {wanted}, this device yields {found}; export it again")
