"""Float and int8 on the same recordings under every condition, and what that says of the int8 model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.as_is import is_as_is
from edgeaudio.parity.conditions import Condition, all_conditions, white_noise
from edgeaudio.parity.float_reference import FloatNetwork, FloatReference
from edgeaudio.parity.statistics import compare_decisions
from edgeaudio.parity.task import LabelledClips, check_known
from edgeaudio.parity.verdict import INFERIOR, NON_INFERIOR, NOT_ENOUGH_DATA, judge_task
from edgeaudio.parity.word_errors import SpokenString, score_strings
from edgeaudio.progress import Progress
from edgeaudio.sweep.hearings import float_decisions, hear
from edgeaudio.sweep.variants import VARIANTS
from edgeaudio.zoo.noise import Noise, in_noise, open_noise
from edgeaudio.zoo.string_figures import in_noise as strings_in_noise
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.quantization import quantize

if TYPE_CHECKING:
    from edgeaudio_models.streaming import StreamingModule

MOST_CLIPS = 1000
"""Clips, or strings, that are heard under every condition unless asked otherwise."""

Decisions = npt.NDArray[np.intp]


class Subject(Protocol):
    """Recordings with a float and an int8 network to hear them."""

    n: int
    """Recordings."""

    def measure(self, condition: Condition, progress: Progress | None = None) -> dict[str, Any]:
        """Float against int8 under a condition, as ``TaskResult.to_dict`` or ``WordErrorResult.to_dict``."""
        ...


class ClipSubject:
    """Labelled clips, each scored from reset by its last step."""

    def __init__(
        self,
        bundle: Bundle,
        program: Program,
        clips: LabelledClips,
        *,
        float_network: FloatNetwork | None = None,
        module: StreamingModule | None = None,
    ) -> None:
        """Take the clips.

        Args:
            bundle: A keyword bundle.
            program: Its int8 engine.
            clips: With labels of the bundle.
            float_network: The reference of a bundle without a float model.
            module: The float network in torch, which hears many clips at once; else each is heard by itself.

        Raises:
            ParityError: The bundle came as it is, it knows a label of the clips not, or it has no float reference.
        """
        _check_compared(bundle)
        index = check_known(bundle, clips)
        self.n, self._bundle, self._clips, self._module = len(clips.labels), bundle, clips, module
        self._truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
        self._reference = None if module is not None else FloatReference(bundle, network=float_network)
        self._session, self._signature = program.session(), program.signature

    def measure(self, condition: Condition, progress: Progress | None = None) -> dict[str, Any]:
        """See :class:`Subject`."""
        clips, step = changed_clips(self._clips, condition), self._signature.step_frames
        features = hear(clips, VARIANTS[:1], spec=self._bundle.features, step_frames=step, progress=progress)
        candidate = np.array([self._int8(one) for one in features[:, 0]], dtype=np.intp)
        result = compare_decisions(self._truth, self._float(features), candidate, self._clips.speakers)
        return result.to_dict()

    def _int8(self, features: npt.NDArray[np.float32]) -> int:
        self._session.reset()
        return int(self._session.run(quantize(features, self._signature.input_quant))[-1].argmax())

    def _float(self, features: npt.NDArray[np.float32]) -> Decisions:
        if self._module is not None:
            return float_decisions(self._module, features)[:, 0]
        assert self._reference is not None
        return np.array([self._reference.run(one)[-1].argmax() for one in features[:, 0]], dtype=np.intp)


class StringSubject:
    """Strings of words, read by the decoder of a CTC bundle."""

    def __init__(
        self,
        bundle: Bundle,
        program: Program,
        strings: Sequence[SpokenString],
        *,
        float_network: FloatNetwork | None = None,
    ) -> None:
        """Take the strings; arguments as of :class:`ClipSubject`."""
        _check_compared(bundle)
        self.n, self._strings = len(strings), strings
        self._bundle, self._program, self._network = bundle, program, float_network

    def measure(self, condition: Condition, progress: Progress | None = None) -> dict[str, Any]:
        """See :class:`Subject`."""
        strings = changed_strings(self._strings, condition)
        result = score_strings(
            self._bundle, self._program, strings, hearings=VARIANTS[:1], float_network=self._network, progress=progress
        )
        return result.to_dict()


def changed_clips(clips: LabelledClips, condition: Condition) -> LabelledClips:
    """The clips as they sound under a condition."""
    if condition.noise is not None:
        return in_noise(clips, condition.noise, condition.snr_db)
    if condition.change is None:
        return clips
    return replace(clips, waveforms=np.stack([condition.change(samples) for samples in clips.waveforms]))


def changed_strings(strings: Sequence[SpokenString], condition: Condition) -> Sequence[SpokenString]:
    """The strings as they sound under a condition."""
    if condition.noise is not None:
        return strings_in_noise(strings, condition.noise, condition.snr_db)
    if condition.change is None:
        return strings
    return [replace(string, samples=condition.change(string.samples)) for string in strings]


def spread_clips(clips: LabelledClips, most: int) -> LabelledClips:
    """At most so many clips, of every label and within it of every speaker by their share."""
    n = len(clips.labels)
    if n <= most:
        return clips
    order = sorted(range(n), key=lambda i: (clips.labels[i], clips.speakers[i], i))
    kept = sorted(order[i] for i in np.linspace(0, n - 1, most).round().astype(int))
    return LabelledClips(
        waveforms=clips.waveforms[kept],
        labels=tuple(clips.labels[i] for i in kept),
        speakers=tuple(clips.speakers[i] for i in kept),
    )


def conditions_of(bundle: Bundle, folder: Path) -> list[Condition]:
    """Every condition for a bundle, with white noise and with the recorded noise that lies in the corpus, if any."""
    from edgeaudio_models.corpora.folders import NOISE_FOLDER
    from edgeaudio_models.corpora.speech_commands import noise_files

    rate = bundle.features.sample_rate
    noises: list[Noise] = [white_noise(rate)]
    if noise_files(folder):
        noises.append(open_noise(f"recorded noise={folder / NOISE_FOLDER}/*", sample_rate=rate, n_samples=rate))
    return all_conditions(rate, bundle.features.hop_length, noises)


def sweep_conditions(
    subject: Subject,
    conditions: Sequence[Condition],
    *,
    budget: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Hear all recordings under every condition.

    Args:
        subject: Recordings and networks.
        conditions: From :func:`conditions_of`.
        budget: Loss that is accepted under each, as a share; None takes that of the metric.
        progress: Called with (recordings heard, recordings under all conditions).

    Returns:
        The section of the certificate: a row for each condition, the worst of them, and the verdict on all.
    """
    rows, total = [], subject.n * len(conditions)
    for number, condition in enumerate(conditions):

        def heard(done: int, _: int | None, before: int = number * subject.n) -> None:
            if progress is not None:
                progress(before + done, total)

        found = judged(subject.measure(condition, heard), n_conditions=len(conditions), budget=budget)
        rows.append({"name": condition.name, "kind": condition.kind, **found})
    return {
        "n": subject.n,
        "n_conditions": len(rows),
        "budget": rows[0]["budget"],
        "worst": min(rows, key=_gained)["name"],
        "verdict": _overall([row["verdict"] for row in rows]),
        "conditions": rows,
    }


def judged(task: Mapping[str, Any], *, n_conditions: int, budget: float | None = None) -> dict[str, Any]:
    """A result with its verdict, "inferior" only where the interval for all conditions together says so too.

    Of many conditions one would fall outside its own 95 % interval by chance; see
    ``docs/decisions/0015-conditions-are-judged-together.md``.
    """
    alone, together = judge_task(task, budget), judge_task({**task, "ci95": widened(task, n_conditions)}, budget)
    assert alone is not None
    assert together is not None
    accused = alone["verdict"] == INFERIOR
    verdict = NOT_ENOUGH_DATA if accused and together["verdict"] != INFERIOR else alone["verdict"]
    return {**task, "budget": alone["budget"], "verdict": verdict}


def widened(task: Mapping[str, Any], n_conditions: int) -> list[float]:
    """The 95 % interval of the difference, for ``n_conditions`` at once: Bonferroni, by quantiles of the normal.

    Each end is moved away from ``delta`` by ``z(1 - 0.025 / n_conditions) / z(0.975)``. Percentiles of the resamples so
    far out would rest on a handful of draws.
    """
    normal = NormalDist()
    factor = normal.inv_cdf(1 - 0.025 / n_conditions) / normal.inv_cdf(0.975)
    return [task["delta"] + factor * (end - task["delta"]) for end in task["ci95"]]


def _gained(row: Mapping[str, Any]) -> float:
    """What int8 gains: errors count against it."""
    delta: float = row["delta"]
    return -delta if row["metric"] == "word_error_rate" else delta


def _overall(verdicts: Sequence[str]) -> str:
    if INFERIOR in verdicts:
        return INFERIOR
    return NON_INFERIOR if set(verdicts) == {NON_INFERIOR} else NOT_ENOUGH_DATA


def _check_compared(bundle: Bundle) -> None:
    if is_as_is(bundle):
        raise ParityError(
            f"bundle={bundle.name!r} came as it is, without a float network to compare with; leave --robustness out"
        )
