"""One rung of the ladder: a reference, a candidate, a metric, a tolerance and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.tolerances import CodeTolerance

LISTED_DISTANCE = 8
"""Largest distance in codes that is counted by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The outcome of comparing two neighbours."""

    name: str
    """What is compared."""
    reference: str
    """Who is right by definition."""
    candidate: str
    """Who is judged."""
    compared: int
    """How many values were compared."""
    mismatches: int
    """How many of them are outside the tolerance."""
    max_lsb: int | None = None
    """Largest difference in codes, where codes are compared."""
    codes_apart: dict[str, int] | None = None
    """Values by their distance in codes, where codes are compared: "0" to "8", and "more" for all beyond."""
    max_abs_error: float | None = None
    """Largest difference in the unit of the values, where reals are compared."""
    sqnr_db: float | None = None
    """Signal to error ratio of the candidate; None where there is no error or it means nothing."""
    tolerance: str
    """The rule behind ``passed``, in words."""
    passed: bool
    """The verdict."""
    culprits: tuple[str, ...] = ()
    """What it is that differs, where it has a name: fields, layers, states, files."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form: fields that do not apply are left out."""
        fields = {key: value for key, value in asdict(self).items() if value is not None and key != "culprits"}
        return {**fields, "culprits": list(self.culprits)} if self.culprits else fields


def missing_values(
    name: str, reference: tuple[str, npt.NDArray[Any]], candidate: tuple[str, npt.NDArray[Any]]
) -> Stage | None:
    """A failed stage where two streams ``[n, ...]`` differ in length; None where they can be compared."""
    wanted, given = len(reference[1]), len(candidate[1])
    if wanted == given:
        return None
    return Stage(
        name=name,
        reference=reference[0],
        candidate=candidate[0],
        compared=max(reference[1].size, 1),
        mismatches=abs(wanted - given) * max(reference[1].size // max(wanted, 1), 1),
        tolerance=f"of one length; {given} for {wanted}",
        passed=False,
        culprits=("length",),
    )


def compare_codes(
    name: str,
    reference: tuple[str, npt.NDArray[Any]],
    candidate: tuple[str, npt.NDArray[Any]],
    *,
    allowed_lsb: int = 0,
    allowed_share: float = 0.0,
) -> Stage:
    """Compare integer codes of one shape.

    Args:
        name: Of the stage.
        reference: Its name and its codes.
        candidate: Its name and its codes.
        allowed_lsb: Largest difference that is not a mismatch.
        allowed_share: Share of the codes that may mismatch; 0 demands all.

    Raises:
        ParityError: shapes differ or there is nothing to compare.
    """
    left, right = _checked(name, reference[1], candidate[1])
    distance = np.abs(left.astype(np.int64) - right.astype(np.int64))
    mismatches = int((distance > allowed_lsb).sum())
    rule = "exact" if allowed_lsb == 0 else f"at most {allowed_lsb} code{'s' if allowed_lsb > 1 else ''}"
    if allowed_share:
        rule += f" on {100 * (1 - allowed_share):g} % of values"
    return Stage(
        name=name,
        reference=reference[0],
        candidate=candidate[0],
        compared=left.size,
        mismatches=mismatches,
        max_lsb=int(distance.max()),
        codes_apart=_histogram(distance),
        tolerance=rule,
        passed=mismatches <= allowed_share * left.size,
    )


def _histogram(distance: npt.NDArray[np.int64]) -> dict[str, int]:
    counts = np.bincount(np.minimum(distance.ravel(), LISTED_DISTANCE + 1))
    names = [*(str(i) for i in range(LISTED_DISTANCE + 1)), "more"]
    return {name: int(count) for name, count in zip(names, counts, strict=False) if count}


def compare_tolerant(
    name: str,
    reference: tuple[str, npt.NDArray[Any]],
    candidate: tuple[str, npt.NDArray[Any]],
    tolerance: CodeTolerance,
) -> Stage:
    """Compare codes of one shape: none may be off by more than ``tolerance.lsb``, ``tolerance.share`` of them at all.

    ``mismatches`` counts all that are off.

    Raises:
        ParityError: shapes differ or there is nothing to compare.
    """
    stage = compare_codes(name, reference, candidate)
    assert stage.max_lsb is not None
    passed = stage.max_lsb <= tolerance.lsb and stage.mismatches <= tolerance.share * stage.compared
    if not tolerance.lsb:
        return stage
    rule = f"none off by more than {tolerance.lsb}"
    if tolerance.share < 1:
        rule += f", at most {100 * tolerance.share:g} % off"
    return replace(stage, tolerance=rule, passed=passed)


def compare_reals(
    name: str,
    reference: tuple[str, npt.NDArray[Any]],
    candidate: tuple[str, npt.NDArray[Any]],
    *,
    atol: float,
    unit: str,
    allowed_share: float = 0.0,
    hard_atol: float | None = None,
) -> Stage:
    """Compare real values: ``|candidate - reference| <= atol`` on all but ``allowed_share``, all within ``hard_atol``.

    Raises:
        ParityError: shapes differ or there is nothing to compare.
    """
    left, right = _checked(name, reference[1], candidate[1])
    error = np.abs(left.astype(np.float64) - right.astype(np.float64))
    mismatches = int((~(error <= atol)).sum())
    worst = float(error.max())
    rule = f"within {atol:g} {unit}"
    if allowed_share:
        rule += f" on {100 * (1 - allowed_share):g} % of values"
    if hard_atol is not None:
        rule += f", all within {hard_atol:g}"
    passed = mismatches <= allowed_share * left.size and (hard_atol is None or worst <= hard_atol)
    return Stage(
        name=name,
        reference=reference[0],
        candidate=candidate[0],
        compared=left.size,
        mismatches=mismatches,
        max_abs_error=worst,
        sqnr_db=sqnr_db(left, right),
        tolerance=rule,
        passed=passed,
    )


def compare_sqnr(
    name: str, reference: tuple[str, npt.NDArray[Any]], candidate: tuple[str, npt.NDArray[Any]], *, at_least_db: float
) -> Stage:
    """Compare real values by their signal to error ratio, where single values may legitimately differ."""
    left, right = _checked(name, reference[1], candidate[1])
    ratio = sqnr_db(left, right)
    passed = ratio is None or ratio >= at_least_db
    return Stage(
        name=name,
        reference=reference[0],
        candidate=candidate[0],
        compared=left.size,
        mismatches=0 if passed else left.size,
        max_abs_error=float(np.abs(left.astype(np.float64) - right).max()),
        sqnr_db=ratio,
        tolerance=f"at least {at_least_db:g} dB",
        passed=passed,
    )


def compare_sequences(
    name: str, reference: tuple[str, Sequence[Any]], candidate: tuple[str, Sequence[Any]], *, compared: int
) -> Stage:
    """Compare two lists of events for equality; ``compared`` is the number of steps they were decided from."""
    left, right = list(reference[1]), list(candidate[1])
    mismatches = sum(a != b for a, b in zip(left, right, strict=False)) + abs(len(left) - len(right))
    return Stage(
        name=name,
        reference=reference[0],
        candidate=candidate[0],
        compared=compared,
        mismatches=mismatches,
        tolerance=f"the same {len(left)} events",
        passed=mismatches == 0,
    )


def sqnr_db(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> float | None:
    """``10 log10(sum(reference^2) / sum((reference - candidate)^2))`` in dB; None when the two are equal."""
    signal = reference.astype(np.float64)
    noise = float(np.square(signal - candidate.astype(np.float64)).sum())
    if noise == 0:
        return None
    return float(10 * np.log10(max(float(np.square(signal).sum()), np.finfo(np.float64).tiny) / noise))


def _checked(
    name: str, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if reference.shape != candidate.shape:
        raise ParityError(
            f"stage {name!r}: reference has shape {reference.shape}, candidate {candidate.shape}; they must be the same"
        )
    if reference.size == 0:
        raise ParityError(f"stage {name!r}: nothing to compare; give audio of at least one network step")
    return reference, candidate
