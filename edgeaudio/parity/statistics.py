"""Float against int8 on the same clips: accuracy, agreement and intervals that respect speakers."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Accuracy of two engines on the same clips, each heard once or in several fixed ways."""

    metric: str
    """"accuracy": the share of decisions whose top label is the right one."""
    reference: float
    """Accuracy of the float reference."""
    candidate: float
    """Accuracy of the int8 model."""
    delta: float
    """``candidate - reference``; negative is a loss."""
    ci95: tuple[float, float]
    """95 % interval of ``delta``, bootstrapped over speakers; where no clip differs, see :func:`unseen_change`."""
    candidate_ci95: tuple[float, float]
    """95 % interval of ``candidate``, bootstrapped over speakers."""
    reference_ci95: tuple[float, float]
    """95 % interval of ``reference``, bootstrapped over speakers."""
    agreement: float
    """Share of decisions on which both give the same label."""
    agreement_ci95: tuple[float, float]
    """95 % interval of ``agreement``, bootstrapped over speakers."""
    only_reference: int
    """Decisions that only the float reference got right."""
    only_candidate: int
    """Decisions that only the int8 model got right."""
    mcnemar_p: float
    """Exact two-sided p-value of McNemar's test on the first hearing of every clip: further hearings of a clip, unlike
    the pairs the test assumes, are not independent. It takes the clips for independent, so it is too small where
    speakers matter; ``ci95`` is not."""
    n: int
    """Number of clips."""
    n_hearings: int
    """Decisions about each clip."""
    n_speakers: int
    """Number of resampled units: speakers, and each clip without one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the two accuracies are called "float" and "int8" there."""
        names = {
            "reference": "float",
            "reference_ci95": "float_ci95",
            "candidate": "int8",
            "candidate_ci95": "int8_ci95",
            "only_reference": "only_float",
            "only_candidate": "only_int8",
        }
        values = asdict(self)
        return {names.get(key, key): list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def compare_decisions(
    truth: Decisions, reference: Decisions, candidate: Decisions, speakers: Sequence[str], *, seed: int = 0
) -> TaskResult:
    """Paired comparison of two sets of decisions on the same clips.

    Args:
        truth: Right label index of each clip, ``[n]``.
        reference: Label index the float model chose, ``[n]``, or ``[n, hearings]`` of each clip heard in fixed ways.
        candidate: Label index the int8 model chose, of the same shape.
        speakers: Speaker of each clip; an empty string makes the clip a unit of its own.
        seed: Of the bootstrap.

    Raises:
        ParityError: no clips, or lengths differ.

    Hearings of one clip and clips of one speaker are not independent, so whole speakers are drawn with replacement
    (cluster bootstrap, percentile interval; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 3.8).
    """
    n = len(truth)
    if n == 0 or not n == len(reference) == len(candidate) == len(speakers):
        raise ParityError(
            f"{n} labels, {len(reference)} and {len(candidate)} decisions, "
            f"{len(speakers)} speakers; all four must be one number > 0"
        )
    first, second = reference.reshape(n, -1), candidate.reshape(n, -1)
    if first.shape != second.shape:
        raise ParityError(f"{first.shape[1]} and {second.shape[1]} hearings of each clip; both must be one number")
    right = np.stack([first == truth[:, None], second == truth[:, None], first == second], axis=2)
    samples = resample_by_speaker(right.mean(axis=1), speakers, seed)
    accuracy = right.mean(axis=(0, 1))
    lost, won = right[..., 0] & ~right[..., 1], ~right[..., 0] & right[..., 1]
    change = percentile_interval(samples[:, 1] - samples[:, 0])
    return TaskResult(
        metric="accuracy",
        reference=float(accuracy[0]),
        candidate=float(accuracy[1]),
        delta=float(accuracy[1] - accuracy[0]),
        ci95=change if lost.any() or won.any() else unseen_change(n),
        candidate_ci95=percentile_interval(samples[:, 1]),
        reference_ci95=percentile_interval(samples[:, 0]),
        agreement=float(accuracy[2]),
        agreement_ci95=percentile_interval(samples[:, 2]),
        only_reference=int(lost.sum()),
        only_candidate=int(won.sum()),
        mcnemar_p=mcnemar_p(int(lost[:, 0].sum()), int(won[:, 0].sum())),
        n=n,
        n_hearings=first.shape[1],
        n_speakers=len(_units(speakers)[0]),
    )


def unseen_change(n: int) -> tuple[float, float]:
    """Interval of a change that none of ``n`` clips shows: resampling them would call it exactly zero.

    Where a share of ``-ln(0.05) / n`` of all clips were decided otherwise, ``n`` of them would show none with a
    probability of 5 % (the rule of three; Hanley and Lippman-Hand, JAMA 249, 1983). Hearings of a clip add nothing.
    """
    most = min(1.0, -math.log(0.05) / n)
    return -most, most


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: how likely is so uneven a split of the discordant pairs if both are as good?

    ``min(1, 2 P(X <= min(b, c)))`` with X ~ Binomial(b + c, 1/2); 1 without discordant pairs.
    """
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def resample_by_speaker(
    values: npt.NDArray[np.float64],
    speakers: Sequence[str],
    seed: int,
    *,
    sizes: npt.NDArray[np.integer[Any]] | None = None,
) -> npt.NDArray[np.float64]:
    """Means of ``values [n, k]`` over resampled speakers: ``[N_RESAMPLES, k]``; of ``sizes [n]`` things each, if given.

    A speaker that is an empty string makes the value a unit of its own.
    """
    names, unit = _units(speakers)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, unit, values)
    counts = np.bincount(unit, weights=sizes, minlength=len(names)).astype(np.float64)
    generator = np.random.default_rng(seed)
    # How often each speaker is drawn is multinomial; its weights give the means without indexing clips.
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=N_RESAMPLES)
    means: npt.NDArray[np.float64] = (weights @ sums) / (weights @ counts)[:, None]
    return means


def _units(speakers: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    keys = [speaker or f"\0clip {index}" for index, speaker in enumerate(speakers)]
    names, unit = np.unique(keys, return_inverse=True)
    return list(names), unit


def percentile_interval(samples: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval: the 2.5th and the 97.5th percentile of ``samples [N_RESAMPLES]``."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
