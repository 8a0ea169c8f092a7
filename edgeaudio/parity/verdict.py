"""What an interval says about a budget: not inferior, inferior, or not enough data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeaudio_runtime.errors import ParityError

NON_INFERIOR, INFERIOR, NOT_ENOUGH_DATA = "non-inferior", "inferior", "not enough data"
ACCURACY_BUDGET = 0.003
"""Accuracy that int8 may lose against float."""
WORD_ERROR_BUDGET = 0.005
"""Word error rate that int8 may add to that of float."""


def judge_change(interval: tuple[float, float], budget: float) -> str:
    """Verdict on a change whose 95 % interval is known, where up is better.

    A non-inferiority test by confidence interval (Wellek, Testing Statistical Hypotheses of Equivalence and
    Noninferiority, 2nd edition, 2010): the whole interval above ``-budget`` shows that no more than the budget is lost,
    the whole interval below it that more is, and an interval across it shows neither.

    Args:
        interval: Of ``candidate - reference`` in a figure that is better when higher.
        budget: Loss that is accepted, >= 0, in the same unit.

    Returns:
        "non-inferior", "inferior" or "not enough data".

    Raises:
        ParityError: ``budget`` is negative.
    """
    if not budget >= 0:
        raise ParityError(f"budget={budget:g} must be >= 0: it is what may be lost")
    low, high = interval
    if low >= -budget:
        return NON_INFERIOR
    return INFERIOR if high < -budget else NOT_ENOUGH_DATA


def judge_task(task: Mapping[str, Any], budget: float | None = None) -> dict[str, Any] | None:
    """Budget and verdict of a task as a certificate has it; None where there is no float network to compare with.

    Args:
        task: From ``TaskResult.to_dict`` or ``WordErrorResult.to_dict``.
        budget: Loss that is accepted, as a share; None takes that of the metric.

    Raises:
        ParityError: ``budget`` is negative.
    """
    if task.get("ci95") is None:
        return None
    low, high = task["ci95"]
    errors = task["metric"] == "word_error_rate"
    accepted = budget if budget is not None else WORD_ERROR_BUDGET if errors else ACCURACY_BUDGET
    gained = (-high, -low) if errors else (low, high)
    return {"budget": accepted, "verdict": judge_change(gained, accepted)}
