"""What a sweep found, as values and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeaudio.parity.statistics import TaskResult
from edgeaudio.sweep.grid import Cell
from edgeaudio.sweep.variants import Variant

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One row of the table."""

    cell: Cell
    """How it was quantized."""
    refused: str | None = None
    """The one line with which its path refused it; the rest is empty then."""
    task: TaskResult | None = None
    """Against the float network on the same hearings, in the numpy engine."""
    task_without_silence: TaskResult | None = None
    """The same without the clips of ``_silence_``; None where there are none."""
    bytes_by_engine: dict[str, int] = field(default_factory=dict)
    """Size of what each engine reads; an engine that cannot run the method is missing."""
    us_per_step: dict[str, float] = field(default_factory=dict)
    """Median microseconds of one network step by engine."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.cell.name,
            **self.cell.to_dict(),
            "refused": self.refused,
            "task": None if self.task is None else self.task.to_dict(),
            "task_without_silence": None if self.task_without_silence is None else self.task_without_silence.to_dict(),
            "bytes": self.bytes_by_engine,
            "us_per_step": self.us_per_step,
        }


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The whole table."""

    checkpoint: str
    """Name of the checkpoint."""
    digest: str
    """Digest of its directory."""
    data: str
    """Name of the corpus."""
    split: str
    """Split of the corpus."""
    variants: tuple[Variant, ...]
    """Ways each clip was heard."""
    cells: tuple[CellResult, ...]
    """Rows in the order of the grid."""
    environment: dict[str, str]
    """Versions of what computed."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Name of the chosen cell by method."""
    chosen_on: str = ""
    """Split the choice was made on; empty where none was made."""
    command: str = ""
    """Command line that computes the same again."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "checkpoint": self.checkpoint,
            "checkpoint_digest": self.digest,
            "data": self.data,
            "split": self.split,
            "variants": [variant.to_dict() for variant in self.variants],
            "chosen": self.chosen,
            "chosen_on": self.chosen_on,
            "cells": [cell.to_dict() for cell in self.cells],
            "environment": self.environment,
        }


def with_choice(result: SweepResult, earlier: Path) -> SweepResult:
    """Mark one cell of each method; a test split is for reporting, so there the choice of ``earlier`` stands.

    Args:
        result: The table.
        earlier: ``sweep.json`` of the validation split; it need not exist.

    The chosen cell is the one that most often answers as the float network does; of equals the more accurate, then
    the first. Agreement, not accuracy, because it is the sharper measure of what quantization changed and does not
    depend on how often each label occurs.
    """
    if result.split != "test":
        return replace(result, chosen=best_by_method(result.cells), chosen_on=result.split)
    if not earlier.is_file():
        return result
    document = json.loads(earlier.read_text("utf-8"))
    if document["checkpoint_digest"] != result.digest:
        return result
    return replace(result, chosen=document["chosen"], chosen_on=document["chosen_on"])


def best_by_method(cells: tuple[CellResult, ...]) -> dict[str, str]:
    """Name of the best cell of each method that has one."""
    best: dict[str, tuple[float, float, str]] = {}
    for row in cells:
        if row.task is None:
            continue
        rank = (row.task.agreement, row.task.candidate, row.cell.name)
        if row.cell.method not in best or rank[:2] > best[row.cell.method][:2]:
            best[row.cell.method] = rank
    return {method: rank[2] for method, rank in best.items()}
