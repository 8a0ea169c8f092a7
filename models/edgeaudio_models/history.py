"""How a training went, epoch by epoch: what a learning curve is drawn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRow:
    """One finished epoch."""

    epoch: int
    """Its number, from 1."""
    loss: float
    """Mean loss of its steps on augmented clips."""
    learning_rate: float
    """Of its last step."""
    score: float
    """Validation figure of the averaged weights; its name is ``chosen_by`` in the metrics of the checkpoint."""
    seconds: float
    """Time it took, judging included."""


History = tuple[HistoryRow, ...]


def format_history(history: Sequence[HistoryRow]) -> str:
    """JSON text: a list of one object an epoch."""
    return json.dumps([asdict(row) for row in history], indent=1) + "\n"


def parse_history(text: str) -> History:
    """Inverse of :func:`format_history`; SpecError where a row is not one."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON: {error}") from error
    return history_of(rows)


def history_of(rows: Any) -> History:
    """Rows from plain values as JSON or a training state holds them.

    Raises:
        SpecError: ``rows`` is no list of objects with exactly the fields of :class:`HistoryRow`, all numbers.
    """
    names = [entry.name for entry in fields(HistoryRow)]
    if not isinstance(rows, list) or not all(_is_row(row, names) for row in rows):
        raise SpecError(f"history={str(rows)[:60]} must be a list of objects with the numbers {names}")
    return tuple(HistoryRow(**row) for row in rows)


def _is_row(row: Any, names: list[str]) -> bool:
    return isinstance(row, dict) and sorted(row) == sorted(names) and all(type(v) in (int, float) for v in row.values())
