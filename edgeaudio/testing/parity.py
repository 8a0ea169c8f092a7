"""Two models, the same inputs: how far apart are their outputs?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeaudio.parity.stages import Stage, compare_codes, compare_reals, compare_sqnr
from edgeaudio.testing.models import Array, as_function
from edgeaudio_runtime.errors import ParityError

Case = Array | tuple[Array, ...]
"""What goes into a model once: one array, or one for each input."""

LISTED_DISTANCES = 6
"""Distances in codes that a message lists."""


def assert_parity(
    reference: Any,
    candidate: Any,
    cases: Sequence[Case],
    *,
    max_codes: int | None = None,
    atol: float | None = None,
    min_sqnr_db: float | None = None,
    allowed_share: float = 0.0,
) -> list[Stage]:
    """Assert that ``candidate`` says what ``reference`` says; all cases together, each output for itself.

    Args:
        reference: What is right: a callable, a torch module, or the path of an ``.onnx`` or ``.tflite`` file.
        candidate: What is judged; the same kinds.
        cases: Inputs of one call each. Give many, and chained ones for what keeps state: one call proves little.
        max_codes: For integers, the largest difference that is allowed; 0 is exact.
        atol: For reals, the largest absolute difference that is allowed, in the unit of the output.
        min_sqnr_db: For reals whose single values may differ, the least ratio of signal to error, in dB.
        allowed_share: Share of the values that may be outside ``max_codes`` or ``atol``.

    Returns:
        One stage for each output, with what was compared and how far apart it was.

    Raises:
        AssertionError: They are further apart; the message says which output, how many values, how far and where.
        ParityError: Not exactly one of the three limits, no cases, or models that give different numbers of outputs.
    """
    limits = {"max_codes": max_codes, "atol": atol, "min_sqnr_db": min_sqnr_db}
    if sum(value is not None for value in limits.values()) != 1:
        raise ParityError(f"give exactly one of {', '.join(limits)}: it is the rule that the outputs are held to")
    if not cases:
        raise ParityError("cases=[] must hold inputs to compare on")
    (first_name, first), (second_name, second) = as_function(reference), as_function(candidate)
    stages = []
    for index, (wanted, given) in enumerate(zip(*_outputs(first, second, cases), strict=True)):
        name, ends = f"output {index}", ((first_name, wanted), (second_name, given))
        if max_codes is not None:
            _check_integers(name, wanted, given)
            stage = compare_codes(name, *ends, allowed_lsb=max_codes, allowed_share=allowed_share)
        elif atol is not None:
            stage = compare_reals(name, *ends, atol=atol, unit="", allowed_share=allowed_share)
        else:
            assert min_sqnr_db is not None
            stage = compare_sqnr(name, *ends, at_least_db=min_sqnr_db)
        stages.append(stage)
        if not stage.passed:
            raise AssertionError(_message(stage, wanted, given))
    return stages


def _outputs(first: Any, second: Any, cases: Sequence[Case]) -> tuple[list[Array], list[Array]]:
    """Every output of both over all cases, one case after the other in one flat array."""
    answers = []
    for function in (first, second):
        said = [function(*(case if isinstance(case, tuple) else (case,))) for case in cases]
        answers.append(said)
    for case, (wanted, given) in enumerate(zip(*answers, strict=True)):
        shapes = [[list(part.shape) for part in parts] for parts in (wanted, given)]
        if shapes[0] != shapes[1]:
            raise ParityError(f"cases[{case}]: outputs of shapes {shapes[0]} and {shapes[1]}; they must be the same")
    flat = [[np.concatenate([part.ravel() for part in parts]) for parts in zip(*said, strict=True)] for said in answers]
    return flat[0], flat[1]


def _check_integers(name: str, *parts: Array) -> None:
    for part in parts:
        if not np.issubdtype(part.dtype, np.integer):
            raise ParityError(f"{name}: max_codes compares integers, these are {part.dtype}; take atol or min_sqnr_db")


def _message(stage: Stage, wanted: Array, given: Array) -> str:
    distance = np.abs(wanted.astype(np.float64) - given)
    worst = int(np.argmax(np.nan_to_num(distance, nan=np.inf)))
    lines = [
        f"{stage.name}: {stage.candidate} is not {stage.reference} (rule: {stage.tolerance})",
        f"  {stage.mismatches:,} of {stage.compared:,} values outside; worst at {worst}: "
        f"{wanted[worst]} is {given[worst]}",
    ]
    if stage.max_lsb is not None:
        values, counts = np.unique(distance.astype(np.int64), return_counts=True)
        shown = [f"{value}: {count:,}" for value, count in zip(values, counts, strict=True)][:LISTED_DISTANCES]
        lines.append(f"  values by distance in codes: {', '.join(shown)}{', ...' if len(values) > len(shown) else ''}")
    elif stage.sqnr_db is not None:
        lines.append(f"  signal to error {stage.sqnr_db:.1f} dB, largest error {stage.max_abs_error:.3g}")
    return "\n".join(lines)
