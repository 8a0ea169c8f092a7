"""The task metric: float against int8 on the same labelled clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.float_reference import FloatNetwork, FloatReference
from edgeaudio.parity.statistics import TaskResult, compare_decisions
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import quantize

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
    reference: npt.NDArray[np.intp]
    candidate: npt.NDArray[np.intp]
    """Label indices ``[n]``."""
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
    float_network: FloatNetwork | None = None,
    progress: Progress | None = None,
) -> TaskScores:
    """Score every clip from reset by its last step, in float and in int8.

    Raises:
        ParityError: A clip has a label the bundle does not know, or the bundle has no float reference and there is no
            ``float_network``.
    """
    index = check_known(bundle, clips)
    reference, session = FloatReference(bundle, network=float_network), program.session()
    decisions = np.zeros((len(clips.labels), 2), dtype=np.intp)
    for i, samples in enumerate(clips.waveforms):
        features = compute_features(bundle.features, samples, multiple_of=program.signature.step_frames)
        session.reset()
        codes = session.run(quantize(features, program.signature.input_quant))
        decisions[i] = reference.run(features)[-1].argmax(), codes[-1].argmax()
        if progress is not None:
            progress(i + 1, len(clips.labels))
    truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
    return TaskScores(truth=truth, reference=decisions[:, 0], candidate=decisions[:, 1], speakers=clips.speakers)


def decide_clips(
    bundle: Bundle, program: Program, clips: LabelledClips, *, progress: Progress | None = None
) -> npt.NDArray[np.intp]:
    """Label index ``[n]`` that a program chooses for each clip: from reset, by its last step."""
    session, decisions = program.session(), np.zeros(len(clips.labels), dtype=np.intp)
    for i, samples in enumerate(clips.waveforms):
        features = compute_features(bundle.features, samples, multiple_of=program.signature.step_frames)
        session.reset()
        decisions[i] = session.run(quantize(features, program.signature.input_quant))[-1].argmax()
        if progress is not None:
            progress(i + 1, len(clips.labels))
    return decisions


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
    return {"data": data, "split": split, "subsets": subsets, "by_label": by_label}
