"""The ladder of one bundle: every pair of neighbours on the way from PCM to events, each with its own tolerance.

Reals are compared by tolerance, codes exactly; ``docs/numerics.md`` gives the reason for each number here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.as_is import by_hand_stage, is_as_is
from edgeaudio.parity.float_reference import FloatReference
from edgeaudio.parity.inside import inside_stages
from edgeaudio.parity.micro import micro_stages
from edgeaudio.parity.probe_audio import Int16, probe_stream, random_chunks
from edgeaudio.parity.promises import frames_stage, golden_stages, promises_stage
from edgeaudio.parity.references import (
    KALDI_STAGE,
    kaldi_can_express,
    kaldi_features,
    librosa_can_express,
    librosa_features,
    pymicro_integers,
)
from edgeaudio.parity.stages import (
    Stage,
    compare_codes,
    compare_reals,
    compare_sequences,
    compare_sqnr,
    compare_tolerant,
    missing_values,
)
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import EngineError
from edgeaudio_runtime.features import FeatureSpec, MelSpec, MicrofrontendSpec
from edgeaudio_runtime.front_end import compute_features, front_end_in_use
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.presets import MICROFRONTEND
from edgeaudio_runtime.programs import artifact_signature, in_stream, load_integer_graph, load_native
from edgeaudio_runtime.quantization import dequantize, quantize
from edgeaudio_runtime.selftest import decision
from edgeaudio_runtime.stream import AudioStream, LogitStream
from edgeaudio_runtime.tolerances import EXACT, OTHER_NUMERICS_INT16_LSB, CodeTolerance, code_tolerance

if TYPE_CHECKING:
    from edgeaudio_export.step_graph import StepGraph

LIBROSA_ATOL = 1e-5
"""Nats. Window and FFT in float64 and mel and log in float32 stay within 1e-6 of all-float64; the rest is headroom."""
KALDI_ATOL, KALDI_HARD_ATOL, KALDI_SHARE = 1e-4, 5e-3, 2e-2
"""Nats. kaldi-native-fbank computes in float32 throughout, and its own error grows where a band lies far below its
neighbours: of 80 bands 2 values in 10,000 were off by more than 1e-4 and none by 5e-4, of 128 narrower ones 7 in 1,000
and none by 2e-3."""
NATIVE_ATOL = 1e-5
"""Nats. C computes all in float64 and rounds once, numpy runs mel and log in float32: the difference is numpy's error,
measured at 2e-6."""
NATIVE_CODES_SHARE = 1e-3
"""A feature on the boundary of two codes may fall to either: an error of 2e-6 nats on codes of 0.1 nats, 2e-5."""
NATIVE_INT16_CODES_SHARE = 0.02
"""The same on int16 codes of 4e-4 nats: 5e-3."""
TORCH_ATOL, TORCH_HARD_ATOL, TORCH_SHARE = 1e-4, 1e-3, 1e-3
"""Nats. The training front end may sum in another order; near the log floor that is magnified."""
FLOAT_EXPORT_DB = 100.0
"""Torch float against the float ONNX: the same operations in another order of summation."""
QUANTIZATION_DB = 10.0
"""Float logits against int8 logits on any audio: below this it is another network. The task metric judges the cost."""
SIMULATION_LSB, SIMULATION_SHARE = 3, 0.1
"""The simulation adds up in float32: a sum on the boundary of two codes may fall to either."""
OTHER_KERNELS = CodeTolerance(lsb=16, share=1.0)
"""LiteRT's reference kernels round every layer by another rule, so what they say is recorded and held to be the same
network, no more: 43 % of the logits were measured off on kws-12-small, by up to 5 codes."""
SIMULATION_INT16_LSB = OTHER_NUMERICS_INT16_LSB
"""int16 logits of the simulation: float32 rounded to codes at every layer, as ONNX Runtime computes them."""
MIN_CODES = 50_000
"""Logit codes every engine is compared on, in one chain of steps without reset."""
TORCH_STEPS, FLOAT_STEPS = 500, 2500
"""Steps of the stages that run in torch (a millisecond each) and in the float ONNX."""
WINDOWED_SECONDS = 55
"""Probe audio for networks that look at windows or at whole recordings, which may not last longer than a minute."""
FRONT_END_SECONDS = 20
"""Seconds of probe audio for the stages that compare features."""
RESET_SECONDS = 2
"""Seconds that a stream hears once more after a flush and after a reset."""
ARTIFACTS = {"native": "C core", "numpy": "numpy engine", "onnxruntime": "model.onnx", "litert": "model.tflite"}
"""What is at fault where an engine alone strays."""

Features = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TorchSide:
    """What only a checkpoint can answer: the float network and, while exporting, the quantizer's simulation."""

    offline: Callable[[Features], Features]
    """Float logits ``[T_out, n_labels]`` of features ``[T, n_features]``, the whole stream in one call."""
    streaming: Callable[[Features], Features]
    """The same, step by step with explicit state."""
    simulation: Callable[[Features], Features] | None = None
    """Dequantized logits of the quantizer's int8 simulation."""
    step: Callable[[], StepGraph] | None = None
    """One step of the float network, for the stages inside of it; made when it is asked for."""
    recovered: bool = False
    """Whether the recovery steps of the export were done to ``step``."""


def run_ladder(
    bundle: Bundle,
    clips: Sequence[Int16],
    *,
    torch_side: TorchSide | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Stage]:
    """Compare all neighbours on one long stream made of the bundle's golden recording and ``clips``.

    Args:
        bundle: What to prove.
        clips: Recordings ``[n]`` at the bundle's rate, may be empty.
        torch_side: Where the checkpoint is at hand.
        seed: Of levels, gaps and chunks.
        progress: Called with the name of each stage when it is done.

    Raises:
        ParityError: The bundle has no float reference and there is no checkpoint.
    """
    stages = []
    with one_torch_thread():
        for stage in _Ladder(bundle, clips, seed=seed).stages(torch_side):
            stages.append(stage)
            if progress is not None:
                progress(stage.name)
    return stages


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One network step is too little work to share: on a busy machine a second thread slows it a hundredfold."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference_program(bundle: Bundle) -> tuple[Program, str]:
    """What engines are held to, and its name: the integer graph; without one ONNX Runtime's model as it is written."""
    if "numpy" in bundle.manifest.engines:
        return bundle.program("numpy"), "integer graph, numpy"
    if "onnxruntime" not in bundle.manifest.engines:
        return bundle.program("litert"), "model.tflite"
    from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

    initial = tuple(state.initial for state in bundle.manifest.network.states)
    model = bundle.read("model.onnx")
    program = OnnxRuntimeProgram(model, artifact_signature(bundle), initial, exact=False, optimize=False)
    return in_stream(bundle, program), "model.onnx, not optimized"


def other_kernels(bundle: Bundle) -> Iterator[tuple[str, Program]]:
    """The bundle's models on the same engines set otherwise: not optimized, and on their reference kernels."""
    if bundle.manifest.mode != "streaming" or bundle.manifest.quantization.method != "static_w8a8":
        return
    signature = artifact_signature(bundle)
    initial = tuple(state.initial for state in bundle.manifest.network.states)
    exact = bundle.manifest.quantization.exact_engines
    if "onnxruntime" in bundle.manifest.engines:
        from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

        model, is_exact = bundle.read("model.onnx"), "onnxruntime" in exact
        yield (
            "onnxruntime, not optimized",
            OnnxRuntimeProgram(model, signature, initial, exact=is_exact, optimize=False),
        )
    if "litert" in bundle.manifest.engines:
        from edgeaudio_runtime.engines.litert_engine import LiteRtProgram

        model = bundle.read("model.tflite")
        yield "litert, reference kernels", LiteRtProgram(model, signature, initial, kernels="reference")


class _Ladder:
    """The probe stream and its features and codes, computed once for all stages."""

    def __init__(self, bundle: Bundle, clips: Sequence[Int16], *, seed: int) -> None:
        self.bundle, self.seed, network = bundle, seed, bundle.manifest.network
        self.step = network.step_frames
        n_steps = -(-MIN_CODES // (network.n_labels * network.outputs_per_step)) + 1
        rate = bundle.features.sample_rate
        length = max(n_steps * self.step * bundle.features.hop_length, FRONT_END_SECONDS * rate)
        if bundle.manifest.mode != "streaming":  # a window is a whole network's work, and a recording is heard at once
            length = min(length, WINDOWED_SECONDS * rate)
        self.audio = probe_stream([bundle.golden.pcm, *clips], n_samples=length, sample_rate=rate, seed=seed)
        self.head = np.concatenate([self.audio[: (FRONT_END_SECONDS - 1) * rate], np.zeros(rate, dtype=np.int16)])
        self._answers: dict[str, Codes] = {}
        self.reference, self.reference_name = reference_program(bundle)
        self._programs = list(self._all_programs())  # first of all: what cannot be loaded is known before any work

    @cached_property
    def features(self) -> Features:
        """Of the whole stream."""
        return compute_features(self.bundle.features, self.audio, multiple_of=self.step)

    @cached_property
    def codes(self) -> Codes:
        """What the network gets."""
        return quantize(self.features, self.bundle.manifest.network.input_quant)

    @cached_property
    def logits(self) -> Codes:
        """What the reference answers in one call."""
        return self.reference.session().run(self.codes)

    def stages(self, torch_side: TorchSide | None) -> Iterator[Stage]:
        """All rungs, from PCM up; none beyond a front end that does not even keep count of its frames."""
        frames = frames_stage(self.bundle.features, self.head, multiple_of=self.step)
        yield frames
        if not frames.passed:
            return
        if is_as_is(self.bundle):
            yield from self._as_it_is()
            yield from self._golden()
            return
        if self._graph is not None:
            yield promises_stage(self.bundle, self._graph)
        reference = FloatReference(self.bundle, network=None if torch_side is None else torch_side.offline)
        yield from self._front_end()
        if torch_side is not None:
            yield from self._torch(torch_side, reference)
            yield from self._inside(torch_side)
        yield self._quantization(reference)
        for program in self._programs:
            yield from self._engine(program)
        for name, program in other_kernels(self.bundle):
            wanted = f"{self.reference_name}, one call", self.logits
            tolerance = EXACT if self._is_exact(program) else OTHER_KERNELS
            yield compare_tolerant(f"engine {name}", wanted, (name, self._chained(program)), tolerance)
        yield from micro_stages(self.bundle, self.codes, self.logits)
        yield from self._golden()

    def _golden(self) -> Iterator[Stage]:
        """What made the golden data plays them again: the integer graph, else the engine that there is."""
        bundle = self.bundle
        program = self.reference if self._graph is not None else bundle.program(bundle.manifest.engines[0])
        yield from golden_stages(bundle, program)

    @cached_property
    def _graph(self) -> IntegerGraph | None:
        return load_integer_graph(self.bundle) if "numpy" in self.bundle.manifest.engines else None

    def _all_programs(self) -> Iterator[Program]:
        """Every engine of the bundle, and the C core where it computes this graph."""
        if "numpy" in self.bundle.manifest.engines:
            with suppress(EngineError):
                yield load_native(self.bundle)
        for engine in self.bundle.manifest.engines:
            yield self.bundle.program(engine)

    def _as_it_is(self) -> Iterator[Stage]:
        """Of a model without a float network: the engine against a plain interpreter instead."""
        yield from self._front_end()
        program = self.bundle.program("litert")
        yield by_hand_stage(self.bundle, program, self.features)
        yield from self._engine(program)

    def _front_end(self) -> Iterator[Stage]:
        spec = self.bundle.features
        ours = compute_features(spec, self.head, multiple_of=self.step, implementation="numpy")
        if isinstance(spec, MicrofrontendSpec):
            yield from self._fixed_point(spec, ours)
            return
        nats = _units_per_nat(spec)
        if isinstance(spec, MelSpec) and librosa_can_express(spec):
            theirs = librosa_features(spec, self.head, len(ours))
            yield compare_reals(
                "front end", ("librosa float64", theirs / nats), ("numpy", ours / nats), atol=LIBROSA_ATOL, unit="nats"
            )
        yield from self._kaldi(spec, ours, nats)
        yield from self._native_front_end(spec, ours, nats)
        if not isinstance(spec, MelSpec):
            return
        yield compare_reals(
            "training front end", ("numpy", ours / nats), ("torch", self._torch_features() / nats),
            atol=TORCH_ATOL, unit="nats", allowed_share=TORCH_SHARE, hard_atol=TORCH_HARD_ATOL,
        )  # fmt: skip

    def _kaldi(self, spec: FeatureSpec, ours: Features, nats: float) -> Iterator[Stage]:
        """Against kaldi-native-fbank, where it speaks of the same features and is installed."""
        if not isinstance(spec, MelSpec) or not kaldi_can_express(spec):
            return
        theirs = kaldi_features(spec, self.head, len(ours))
        if theirs is not None:
            yield compare_reals(
                KALDI_STAGE, ("kaldi-native-fbank float32", theirs / nats), ("numpy", ours / nats),
                atol=KALDI_ATOL, unit="nats", allowed_share=KALDI_SHARE, hard_atol=KALDI_HARD_ATOL,
            )  # fmt: skip

    def _fixed_point(self, spec: MicrofrontendSpec, features: Features) -> Iterator[Stage]:
        """Integers of numpy against those of the package that has the C code, and against our own C."""
        ours = np.rint(features / spec.output_scale).astype(np.int64)
        theirs = pymicro_integers(self.head, len(ours)) if spec == MICROFRONTEND else None
        if theirs is not None:
            yield compare_codes("front end", ("pymicro-features", theirs), ("numpy", ours))
        if front_end_in_use(spec) == "native":
            native = compute_features(spec, self.head, multiple_of=self.step, implementation="native")
            integers = np.rint(native / spec.output_scale).astype(np.int64)
            yield compare_codes("native front end", ("numpy", ours), ("native", integers))

    def _native_front_end(self, spec: FeatureSpec, ours: Features, nats: float) -> Iterator[Stage]:
        """C against numpy: in nats, and in the codes the network gets; nothing where there is no C."""
        if front_end_in_use(spec) != "native":
            return
        native = compute_features(spec, self.head, multiple_of=self.step, implementation="native")
        yield compare_reals(
            "native front end", ("numpy", ours / nats), ("native", native / nats), atol=NATIVE_ATOL, unit="nats"
        )
        quant = self.bundle.manifest.network.input_quant
        yield compare_codes(
            "native feature codes", ("numpy", quantize(ours, quant)), ("native", quantize(native, quant)),
            allowed_share=NATIVE_INT16_CODES_SHARE if quant.dtype == "int16" else NATIVE_CODES_SHARE,
        )  # fmt: skip

    def _torch_features(self) -> Features:
        import torch

        from edgeaudio_models.torch_front_end import TorchFrontEnd

        front_end = TorchFrontEnd(self.bundle.features, multiple_of=self.step)
        with torch.no_grad():
            batch = front_end(torch.from_numpy(self.head.astype(np.float32) / 32768)[None])
        features: Features = batch[0].numpy()
        return features

    def _torch(self, side: TorchSide, reference: FloatReference) -> Iterator[Stage]:
        features = self.features[: TORCH_STEPS * self.step]
        offline = side.offline(features)
        yield compare_sqnr(
            "float streaming", ("torch, one call", offline), ("torch, steps", side.streaming(features)),
            at_least_db=FLOAT_EXPORT_DB,
        )  # fmt: skip
        if reference.name != "torch":
            yield compare_sqnr(
                "float export", ("torch", offline), (reference.name, reference.run(features)),
                at_least_db=FLOAT_EXPORT_DB,
            )  # fmt: skip
        if side.simulation is not None:
            simulated = quantize(side.simulation(features), self.bundle.manifest.network.output_quant)
            yield compare_codes(
                "lowering", ("int8 simulation", simulated), (self.reference_name, self.logits[: len(simulated)]),
                allowed_lsb=SIMULATION_INT16_LSB if simulated.dtype == np.int16 else SIMULATION_LSB,
                allowed_share=SIMULATION_SHARE,
            )  # fmt: skip

    def _inside(self, side: TorchSide) -> Iterator[Stage]:
        """Weights, layers and states, where the float network is the one that was quantized."""
        recipe = self.bundle.manifest.quantization.recipe
        recovery = set(recipe.get("recovery", ()))
        rewritten = not recovery <= {"ranges", "bias_correction"} and not side.recovered
        if side.step is None or self._graph is None or rewritten or self.bundle.manifest.mode != "streaming":
            return
        yield from inside_stages(
            side.step(), self._graph, self.features,
            per_channel=recipe.get("per_channel", True), soft_rounding="adaround" in recovery,
            biases=side.recovered or "bias_correction" not in recovery,
        )  # fmt: skip

    def _quantization(self, reference: FloatReference) -> Stage:
        wanted = reference.run(self.features[: FLOAT_STEPS * self.step])
        real = dequantize(self.logits[: len(wanted)], self.bundle.manifest.network.output_quant)
        return compare_sqnr(
            "quantization", (reference.name, wanted), (self.reference_name, real), at_least_db=QUANTIZATION_DB
        )

    def _engine(self, program: Program) -> Iterator[Stage]:
        name, exact, steps = program.engine, self._is_exact(program), self._answer(program)
        offline = f"{self.reference_name}, one call"
        stage = self._held(
            compare_tolerant, f"engine {name}", (offline, self.logits), (f"{name}, chained steps", steps),
            self._tolerance(program),
        )  # fmt: skip
        yield stage if stage.passed or stage.culprits else replace(stage, culprits=(self._at_fault(name),))
        chunks = random_chunks(self.audio, seed=self.seed)
        stream = LogitStream(self.bundle.features, program)
        parts = [*(stream.process(chunk)[0] for chunk in chunks), stream.flush()[0]]
        # What an engine answers never depends on the chunks, whether or not it is what numpy answers.
        whole = (offline, self.logits) if exact and stage.passed else (f"{name}, chained steps", steps)
        yield self._held(compare_codes, f"streaming {name}", whole, ("PCM in random chunks", np.concatenate(parts)))
        yield self._again(program, stream)
        kind, of_event = ("events", dict) if exact else ("decisions", decision)
        yield compare_sequences(
            f"{kind} {name}",
            (f"{self.reference.engine}, one chunk", [of_event(event) for event in self._reference_events]),
            ("PCM in random chunks", [of_event(event) for event in self._events(program, chunks)]),
            compared=len(self.logits),
        )  # fmt: skip

    @staticmethod
    def _held(compare: Callable[..., Stage], name: str, reference: Any, candidate: Any, *rule: Any) -> Stage:
        """A comparison, or a failed stage where it cannot be made because something is missing."""
        return missing_values(name, reference, candidate) or compare(name, reference, candidate, *rule)

    def _again(self, program: Program, used: LogitStream) -> Stage:
        """A stream that was flushed, and then reset in the middle of a recording, against a fresh one."""
        part = self.audio[: RESET_SECONDS * self.bundle.features.sample_rate]
        fresh = LogitStream(self.bundle.features, program)
        wanted = np.concatenate([fresh.process(part)[0], fresh.flush()[0]])
        after_flush = [used.process(part)[0], used.flush()[0]]
        used.process(part)
        used.reset()
        again = np.concatenate([*after_flush, used.process(part)[0], used.flush()[0]])
        reference = ("fresh stream", np.concatenate([wanted, wanted]))
        return self._held(compare_codes, f"reset {program.engine}", reference, ("after flush, after reset", again))

    def _answer(self, program: Program) -> Codes:
        """Logit codes of the chain of steps, computed once."""
        if program.engine not in self._answers:
            self._answers[program.engine] = self._chained(program)
        return self._answers[program.engine]

    def _at_fault(self, engine: str) -> str:
        """Which file or engine strays: the one that differs, unless all others agree with each other against numpy."""
        answers = {program.engine: self._answer(program) for program in self._programs}
        answers[engine] = self._answers[engine]
        agreeing = {name for name, codes in answers.items() if np.array_equal(codes, answers[engine])}
        suspects = {"numpy": ARTIFACTS["numpy"], "numpy native": "model.json"}
        others = " ".join(sorted(set(answers) - agreeing, reverse=True)) if len(agreeing) > 1 else ""
        return suspects.get(others, ARTIFACTS.get(engine, engine))

    def _is_exact(self, program: Program) -> bool:
        return program.numerics == self.bundle.manifest.quantization.requantization

    def _tolerance(self, program: Program) -> CodeTolerance:
        method = self.bundle.manifest.quantization.method
        return code_tolerance(program.signature.output_quant, exact=self._is_exact(program), method=method)

    def _chained(self, program: Program) -> Codes:
        """Logit codes of the whole stream, one step a call and state carried from each to the next."""
        session = program.session()
        size = len(self.codes) if self.bundle.manifest.mode == "whole" else self.step
        return np.concatenate([session.run(self.codes[i : i + size]) for i in range(0, len(self.codes), size)])

    @cached_property
    def _reference_events(self) -> list[dict[str, object]]:
        return self._events(self.reference, [self.audio])

    def _events(self, program: Program, chunks: Sequence[Int16]) -> list[dict[str, object]]:
        stream = AudioStream(self.bundle, program=program)
        events = [event for chunk in chunks for event in stream.process(chunk)]
        return [event.to_dict() for event in (*events, *stream.flush())]


def _units_per_nat(spec: FeatureSpec) -> float:
    """By how much a feature can change where every log mel is off by one nat: the affine, and the sum of a DCT."""
    if not isinstance(spec, MelSpec):
        return 1.0
    return abs(spec.affine_scale) * (float(np.sqrt(2 * spec.n_mels)) if spec.n_dct else 1.0)
