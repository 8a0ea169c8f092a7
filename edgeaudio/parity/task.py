"""The task metric: float against int8 on the same labelled clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.float_reference import FloatNetwork, FloatReference, has_float_file
from edgeaudio.parity.statistics import TaskResult, compare_decisions
from edgeaudio.sweep.variants import VARIANTS, Variant
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program, Session
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import QuantParams, quantize

if TYPE_CHECKING:
    from edgeaudio_models.streaming import StreamingModule

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LabelledClips:
    """Clips of one length with what was said and by whom."""

    waveforms: npt.NDArray[np.int16]
    """``[n, samples]``."""
    labels: tuple[str, ...]
    """Label of each clip, from the labels of the bundle."""
    speakers: tuple[str, ...]
    """Speaker of each clip; empty where unknown."""


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """What both models said of every clip."""

    truth: npt.NDArray[np.intp]
    """Right label index of each clip, ``[n]``."""
    reference: npt.NDArray[np.intp]
    candidate: npt.NDArray[np.intp]
    """Label indices that the float and the int8 model chose, ``[n]`` or ``[n, hearings]``."""
    speakers: tuple[str, ...]

    def result(self, keep: npt.NDArray[np.bool_] | None = None) -> TaskResult:
        """Accuracy, loss and agreement, of all clips or of those where ``keep [n]`` holds."""
        kept = np.ones(len(self.truth), dtype=bool) if keep is None else keep
        speakers = [speaker for speaker, k in zip(self.speakers, kept, strict=True) if k]
        return compare_decisions(self.truth[kept], self.reference[kept], self.candidate[kept], speakers)


def score_clips(
    bundle: Bundle,
    program: Program,
    clips: LabelledClips,
    *,
    hearings: Sequence[Variant] = VARIANTS[:1],
    float_network: FloatNetwork | None = None,
    module: StreamingModule | None = None,
    progress: Progress | None = None,
) -> TaskScores:
    """Score every clip in every hearing from reset by its last step, in float and in int8.

    Args:
        bundle: A keyword bundle.
        program: Its int8 engine.
        clips: With labels of the bundle.
        hearings: Fixed shifts and gains; the default is the clip as it is.
        float_network: The reference of a bundle without a float model.
        module: The same in torch, which answers all hearings of a clip at once.
        progress: Called with (clips done, clips in all).

    Raises:
        ParityError: A clip has a label the bundle does not know, or the bundle has no float reference and there is no
            ``float_network`` and no ``module``.
    """
    from edgeaudio.sweep.hearings import float_decisions

    index, spec, signature = check_known(bundle, clips), bundle.features, program.signature
    if has_float_file(bundle):
        module = None  # the bundle is held to what it carries
    alone = None if module is not None else FloatReference(bundle, network=float_network)
    session, shape = program.session(), (len(clips.labels), len(hearings))
    reference, candidate = np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.intp)
    for i, samples in enumerate(clips.waveforms):
        heard = (hearing.apply(samples, spec.sample_rate) for hearing in hearings)
        features = np.stack([compute_features(spec, one, multiple_of=signature.step_frames) for one in heard])
        candidate[i] = [last_label(session, one, signature.input_quant) for one in features]
        if module is not None:
            reference[i] = float_decisions(module, features[None])[0]
        elif alone is not None:
            reference[i] = [alone.run(one)[-1].argmax() for one in features]
        if progress is not None:
            progress(i + 1, len(clips.labels))
    truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
    return TaskScores(truth=truth, reference=reference, candidate=candidate, speakers=clips.speakers)


def decide_clips(
    bundle: Bundle, program: Program, clips: LabelledClips, *, progress: Progress | None = None
) -> npt.NDArray[np.intp]:
    """Label index ``[n]`` that a program chooses for each clip: from reset, by its last step."""
    session, decisions = program.session(), np.zeros(len(clips.labels), dtype=np.intp)
    for i, samples in enumerate(clips.waveforms):
        features = compute_features(bundle.features, samples, multiple_of=program.signature.step_frames)
        decisions[i] = last_label(session, features, program.signature.input_quant)
        if progress is not None:
            progress(i + 1, len(clips.labels))
    return decisions


def last_label(session: Session, features: npt.NDArray[np.float32], input_quant: QuantParams) -> int:
    """Label index that a session chooses by the last step of features ``[T, n_features]``, from reset."""
    session.reset()
    return int(session.run(quantize(features, input_quant))[-1].argmax())


def check_known(bundle: Bundle, clips: LabelledClips) -> dict[str, int]:
    """Index of each label of the bundle; raises ParityError for clips of other labels."""
    index = {label: i for i, label in enumerate(bundle.labels)}
    strangers = sorted(set(clips.labels) - set(index))
    if strangers:
        raise ParityError(
            f"labels {strangers} of the data are not among the bundle's {list(bundle.labels)}; "
            "map them to _unknown_ first"
        )
    return index


def task_details(labels: Sequence[str], scores: TaskScores, *, data: str, split: str) -> dict[str, Any]:
    """What a certificate says of the task beside the comparison itself: the clips, the subsets, the labels.

    Args:
        labels: Of the model, in the order of its outputs.
        scores: What both models said.
        data: Name of the corpus.
        split: The split that was scored.
    """
    silent = np.array([label == "_silence_" for label in labels])
    subsets = {}
    if silent[scores.truth].any() and not silent[scores.truth].all():
        subsets["without _silence_"] = scores.result(~silent[scores.truth]).to_dict()
    by_label = {
        label: {
            "n": int((scores.truth == index).sum()),
            "float": float((scores.reference == index)[scores.truth == index].mean()),
            "int8": float((scores.candidate == index)[scores.truth == index].mean()),
        }
        for index, label in enumerate(labels)
        if (scores.truth == index).any()
    }
    matrices = {
        "labels": list(labels),
        "float": confusion(scores.truth, scores.reference, len(labels)),
        "int8": confusion(scores.truth, scores.candidate, len(labels)),
    }
    return {"data": data, "split": split, "subsets": subsets, "by_label": by_label, "confusion": matrices}


def confusion(truth: npt.NDArray[np.intp], decided: npt.NDArray[np.intp], n_labels: int) -> list[list[int]]:
    """Counts ``[n_labels, n_labels]`` of the clips in their first hearing: row the right label, column the answer."""
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (truth, decided.reshape(len(truth), -1)[:, 0]), 1)
    rows: list[list[int]] = counts.tolist()
    return rows
