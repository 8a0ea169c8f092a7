"""Float against int8 on the same clips: accuracy, agreement and an interval that respects speakers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import ParityError

Decisions = npt.NDArray[np.integer[Any]]

N_RESAMPLES = 10_000
"""Bootstrap resamples; the percentile ends then repeat to about 0.02 points between seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """Accuracy of two engines on the same clips."""

    metric: str
    """"accuracy": the share of clips whose top label is the right one."""
    reference: float
    """Accuracy of the float reference."""
    candidate: float
    """Accuracy of the int8 model."""
    delta: float
    """``candidate - reference``; negative is a loss."""
    ci95: tuple[float, float]
    """95 % interval of ``delta``, bootstrapped over speakers."""
    candidate_ci95: tuple[float, float]
    """95 % interval of ``candidate``, bootstrapped over speakers."""
    agreement: float
    """Share of clips on which both give the same label."""
    n: int
    """Number of clips."""
    n_speakers: int
    """Number of resampled units: speakers, and each clip without one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the two accuracies are called "float" and "int8" there."""
        names = {"reference": "float", "candidate": "int8", "candidate_ci95": "int8_ci95"}
        values = asdict(self)
        return {names.get(key, key): list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def compare_decisions(
    truth: Decisions, reference: Decisions, candidate: Decisions, speakers: list[str], *, seed: int = 0
) -> TaskResult:
    """Paired comparison of two sets of decisions ``[n]`` on the same clips.

    Args:
        truth: Right label index of each clip, ``[n]``.
        reference: Label index the float model chose, ``[n]``.
        candidate: Label index the int8 model chose, ``[n]``.
        speakers: Speaker of each clip; an empty string makes the clip a unit of its own.
        seed: Of the bootstrap.

    Raises:
        ParityError: no clips, or lengths differ.

    Clips of one speaker are not independent, so whole speakers are drawn with replacement (cluster bootstrap,
    percentile interval; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
    """
    n = len(truth)
    if n == 0 or not n == len(reference) == len(candidate) == len(speakers):
        raise ParityError(
            f"{n} labels, {len(reference)} and {len(candidate)} decisions, "
            f"{len(speakers)} speakers; all four must be one number > 0"
        )
    right = np.stack([reference == truth, candidate == truth], axis=1).astype(np.float64)
    samples = _resample_by_speaker(right, speakers, seed)
    differences = samples[:, 1] - samples[:, 0]
    accuracy = right.mean(axis=0)
    return TaskResult(
        metric="accuracy",
        reference=float(accuracy[0]),
        candidate=float(accuracy[1]),
        delta=float(accuracy[1] - accuracy[0]),
        ci95=_percentiles(differences),
        candidate_ci95=_percentiles(samples[:, 1]),
        agreement=float((reference == candidate).mean()),
        n=n,
        n_speakers=len(_units(speakers)[0]),
    )


def _resample_by_speaker(values: npt.NDArray[np.float64], speakers: list[str], seed: int) -> npt.NDArray[np.float64]:
    """Means of ``values [n, k]`` over resampled speakers: ``[N_RESAMPLES, k]``."""
    names, unit = _units(speakers)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, unit, values)
    counts = np.bincount(unit, minlength=len(names)).astype(np.float64)
    generator = np.random.default_rng(seed)
    # How often each speaker is drawn is multinomial; its weights give the means without indexing clips.
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=N_RESAMPLES)
    means: npt.NDArray[np.float64] = (weights @ sums) / (weights @ counts)[:, None]
    return means


def _units(speakers: list[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    keys = [speaker or f"\0clip {index}" for index, speaker in enumerate(speakers)]
    names, unit = np.unique(keys, return_inverse=True)
    return list(names), unit


def _percentiles(samples: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
