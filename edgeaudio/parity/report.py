"""The certificate as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeaudio.card import worst


def render_stages(document: Mapping[str, Any]) -> str:
    """A table for people: one line a stage, the task below, the verdict last."""
    lines = [f"{'':8s}{'stage':24s}{'compared':>12s}{'outside':>9s}  {'worst':12s}rule"]
    for row in document["stages"]:
        verdict, counts = "ok" if row["passed"] else "FAILED", f"{row['compared']:12,d}{row['mismatches']:9,d}"
        lines.append(f"{verdict:8s}{row['name']:24s}{counts}  {worst(row):12s}{row['tolerance']}")
    if document.get("task"):
        lines += _task(document["task"])
    lines.append("passed" if document["passed"] else "did not pass")
    return "\n".join(lines)


def _task(task: Mapping[str, Any]) -> Iterator[str]:
    if task["ci95"] is None:
        yield from _lone_task(task)
        return
    low, high = task["ci95"]
    unit = task.get("unit", "clips")
    by = "string" if unit == "strings" else "speaker"
    yield (
        f"{task['metric'].replace('_', ' ')} on {task['n']} {unit}: float {task['float']:.2%}, "
        f"int8 {task['int8']:.2%}, "
        f"difference {100 * task['delta']:+.2f} points (95 % by {by} {100 * low:+.2f} to {100 * high:+.2f}), "
        f"same answer {task['agreement']:.2%}"
    )
    if unit == "strings":
        yield f"  {task['n_words']} words heard in {task['n_hearings']} ways; speakers: {task['n_speakers']}"
    for name, other in task.get("subsets", {}).items():
        yield f"  {name}: float {other['float']:.2%}, int8 {other['int8']:.2%} on {other['n']} clips"


def _lone_task(task: Mapping[str, Any]) -> Iterator[str]:
    """Of a model that came as it is there is nothing to compare."""
    low, high = task["int8_ci95"]
    yield f"accuracy on {task['n']} clips: {task['int8']:.2%} (95 % by speaker {low:.2%} to {high:.2%})"
    for name, other in task.get("subsets", {}).items():
        yield f"  {name}: {other['int8']:.2%} on {other['n']} clips"
