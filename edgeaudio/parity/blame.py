"""Where accuracy is lost: the same clips through the pipeline, one part swapped at a time, from float to the device.

The first path is what was trained: reference front end, float network. Each further one swaps one part for what runs on
the device; what the answers lose there is that part's, with an interval over speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.evidence import PARTS, evidence, first_failure
from edgeaudio.parity.float_view import FloatView
from edgeaudio.parity.probe_audio import random_chunks
from edgeaudio.parity.references import librosa_can_express, librosa_features
from edgeaudio.parity.stages import Stage
from edgeaudio.parity.statistics import TaskResult, compare_decisions
from edgeaudio.parity.task import LabelledClips, check_known
from edgeaudio.parity.verdict import ACCURACY_BUDGET, INFERIOR, judge_change
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.programs import load_integer_graph
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import LogitStream

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]
Network = Callable[[Float32], Float32]
"""Logits ``[T_out, n_labels]`` of features ``[T, n_features]``."""
Progress = Callable[[int, int], None]
_UNKNOWN = -2
"""Index of a label that the bundle does not have; -1 is no event."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained, from the checkpoint."""

    features: FeatureSpec
    """Front end of the training."""
    network: Network
    """The float network, whole streams."""
    detector: DetectorConfig
    """Settings of the recipe."""
    labels: tuple[str, ...] = ()
    """What its outputs stand for; none takes the bundle's word for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one part costs."""

    name: str
    """One of :data:`PARTS`."""
    swapped: str
    """What took the place of what."""
    before: float
    """Share of clips answered rightly before the swap."""
    after: float
    """And after it."""
    ci95: tuple[float, float]
    """95 % interval of ``after - before``, bootstrapped over speakers."""
    agreement: float
    """Share of clips with the same answer."""
    verdict: str
    """"non-inferior", "inferior" or "not enough data", by the budget."""
    evidence: tuple[str, ...] = ()
    """Stages of the ladder that failed and speak of this part, with what they name: fields, layers, states, files."""

    @property
    def loss(self) -> float:
        """``before - after``."""
        return self.before - self.after

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        fields = {**asdict(self), "ci95": list(self.ci95), "loss": self.loss, "evidence": list(self.evidence)}
        return fields if self.evidence else {key: value for key, value in fields.items() if key != "evidence"}


def find_blame(
    bundle: Bundle,
    trained: Trained,
    clips: LabelledClips,
    *,
    program: Program,
    budget: float = ACCURACY_BUDGET,
    seed: int = 0,
    stages: Sequence[Stage] = (),
    progress: Progress | None = None,
) -> list[Part]:
    """Swap one part at a time on the same clips.

    Args:
        bundle: A streaming keyword bundle with an integer graph.
        trained: What it was made from.
        clips: Labelled recordings.
        program: What runs on the device.
        budget: Loss that is accepted, as a share of the clips.
        seed: Of the random chunks.
        stages: Of the ladder; those that failed are evidence against the part they speak of.
        progress: Called with (clips done, clips in all).

    Raises:
        ParityError: The bundle is of another kind, or has no integer graph.
    """
    if bundle.task != "keyword" or bundle.manifest.mode != "streaming" or "numpy" not in bundle.manifest.engines:
        raise ParityError(f"bundle={bundle.name!r}: blame is found for streaming keyword bundles with an integer graph")
    paths, index = _Paths(bundle, trained, program, seed=seed), check_known(bundle, clips)
    answers = np.zeros((len(clips.labels), len(PARTS) + 2), dtype=np.intp)
    for i, samples in enumerate(clips.waveforms):
        answers[i] = list(paths.answers(samples))
        if progress is not None:
            progress(i + 1, len(clips.labels))
    truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
    reported = np.where(np.isin(truth, paths.background), -1, truth)
    found, failed = [], evidence([stage.to_dict() for stage in stages])
    for column, (name, swapped) in enumerate(zip(PARTS, paths.swaps(), strict=True)):
        # The last part is judged by events.
        first, wanted = (column, truth) if name != "threshold" else (column + 1, reported)
        result = compare_decisions(wanted, answers[:, first], answers[:, first + 1], clips.speakers)
        found.append(_part(name, swapped, result, budget, failed.get(name, ())))
    return found


def blamed(parts: list[Part]) -> list[str]:
    """Names of the parts that are shown to lose more than the budget, the costliest first."""
    return [part.name for part in sorted(parts, key=lambda part: -part.loss) if part.verdict == INFERIOR]


def suspects(parts: list[Part], stages: Sequence[Stage] = ()) -> list[str]:
    """Names of the parts to look at, the likeliest first.

    The part of the first stage that failed: what a front end breaks may be paid for in the activations. Then those that
    are :func:`blamed`, then all others that some stage is evidence against.
    """
    first = first_failure([stage.to_dict() for stage in stages])
    named = [part.name for part in parts if part.evidence]
    return list(dict.fromkeys([*([] if first is None else [first[1]]), *blamed(parts), *named]))


def _part(name: str, swapped: str, result: TaskResult, budget: float, failed: tuple[str, ...]) -> Part:
    return Part(
        name=name,
        swapped=swapped,
        before=result.reference,
        after=result.candidate,
        ci95=result.ci95,
        agreement=result.agreement,
        verdict=judge_change(result.ci95, budget),
        evidence=failed,
    )


class _Paths:
    """All ways from samples to an answer."""

    def __init__(self, bundle: Bundle, trained: Trained, program: Program, *, seed: int) -> None:
        graph = load_integer_graph(bundle)
        self._bundle, self._trained, self._program, self._seed = bundle, trained, program, seed
        self._weights, self._integer = FloatView(graph), bundle.program("numpy")
        self._step, self._quant = graph.step_frames, bundle.manifest.network.output_quant
        self._by_librosa = librosa_can_express(trained.features)
        self.background = [bundle.labels.index(label) for label in bundle.background_labels]
        given = {label: i for i, label in enumerate(bundle.labels)}
        self._as_trained = [given.get(label, _UNKNOWN) for label in trained.labels or bundle.labels]
        # One stream for all clips, as on a device: what it keeps of one clip is heard in the next.
        self._stream = LogitStream(bundle.features, program)

    def swaps(self) -> tuple[str, ...]:
        """What each part swaps, in words."""
        front_end = "librosa" if self._by_librosa else "numpy"
        return (
            f"{front_end}, as trained -> the bundle's, as it runs",
            "float weights -> int8 weights, activations still float",
            "float activations -> int8: the integer graph",
            f"the integer graph in numpy -> {self._program.engine}",
            "the clip in one call -> PCM in random chunks, on a stream that heard others",
            "outputs by the checkpoint's labels -> by the bundle's",
            "events by the recipe's settings -> by the bundle's, on the same logits",
        )

    def answers(self, samples: Int16) -> Iterator[int]:
        """Label by each path: as trained, then with each part swapped in; last two are events (-1: none)."""
        bundle, network = self._bundle, self._bundle.manifest.network
        reference = self._reference_features(samples)
        yield self._meant(self._trained.network(reference))
        features = compute_features(bundle.features, samples, multiple_of=self._step)
        for logits in (self._trained.network(features), self._weights(features)):
            yield self._meant(logits)
        codes = quantize(features, network.input_quant)
        for program in (self._integer, self._program):
            yield self._meant(program.session().run(codes))
        stream = self._stream
        said, heard = zip(*(stream.process(chunk) for chunk in random_chunks(samples, seed=self._seed)), strict=True)
        last_codes, last_features = stream.flush()
        streamed, features = np.concatenate([*said, last_codes]), np.concatenate([*heard, last_features])
        yield self._meant(streamed)
        yield int(streamed[-1].argmax())
        # A stream that loses steps is judged by those it has.
        n_frames = len(streamed) // network.outputs_per_step * self._step
        loudness = activity(bundle.features, features)[:n_frames]
        for config in (self._trained.detector, bundle.detector_config):
            yield self._event(config, streamed, loudness)

    def _meant(self, logits: npt.NDArray[Any]) -> int:
        """The bundle's index of the label that training meant by the last step's answer."""
        return self._as_trained[int(logits[-1].argmax())]

    def _reference_features(self, samples: Int16) -> Float32:
        spec = self._trained.features
        ours = compute_features(spec, samples, multiple_of=self._step, implementation="numpy")
        if self._by_librosa and isinstance(spec, MelSpec):
            return librosa_features(spec, samples, len(ours)).astype(np.float32)
        return ours

    def _event(self, config: DetectorConfig, codes: npt.NDArray[Any], loudness: Float32) -> int:
        bundle = self._bundle
        detector = KeywordDetector(
            config, labels=bundle.labels, background_labels=bundle.background_labels, output_quant=self._quant,
            clock=bundle.clock,
        )  # fmt: skip
        events = [*detector.process(codes, loudness), *detector.flush()]
        return bundle.labels.index(max(events, key=lambda event: event.score).label) if events else -1
