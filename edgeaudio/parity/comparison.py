"""Two certificates side by side: what the second does worse than the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeaudio.parity.statistics import TaskResult
from edgeaudio.parity.stream_report import accepted, missed, stream_badge
from edgeaudio.parity.stream_section import FALSE_ACCEPT_BUDGET, MISS_BUDGET, judge_ratio
from edgeaudio.parity.stream_statistics import rate_ratio_interval
from edgeaudio.parity.verdict import ACCURACY_BUDGET, INFERIOR, WORD_ERROR_BUDGET, judge_change
from edgeaudio_runtime.errors import ParityError

WORSE, SAME, BETTER, CHANGED = "worse", "same", "better", "changed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One row of a comparison."""

    what: str
    """What is compared."""
    before: str
    """In the first bundle."""
    after: str
    """In the second."""
    verdict: str
    """"worse", "same", "better" or "changed"."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def compare_certificates(
    first: Mapping[str, Any], second: Mapping[str, Any], *, budget: float | None = None
) -> list[Change]:
    """What changed between two certificates.

    A stage that passed and no longer does, or is no longer there, is worse. The figure of the task is compared where
    both were measured on the same data and split: worse by more than ``budget`` is worse. Nothing pairs the two here,
    so an interval cannot be had; :func:`paired_change` has one. Of streams, the miss rate is compared the same way, by
    the budget of misses; false accepts are worse where the interval of the ratio of both rates shows it.

    Args:
        first: What was.
        second: What is now.
        budget: Loss of the task that is accepted, as a share; None takes that of the metric.
    """
    rows = [*_stages(first, second), *_task(first.get("task"), second.get("task"), budget)]
    rows += _streams(first.get("streams"), second.get("streams"))
    return [*rows, *_versions(first["environment"], second["environment"])]


def _stages(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Change]:
    before = {row["name"]: row["passed"] for row in first["stages"]}
    after = {row["name"]: row["passed"] for row in second["stages"]}
    words = {True: "passed", False: "failed", None: "not there"}
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        verdict = SAME if old == new else WORSE if old and not new else BETTER if new and old is False else CHANGED
        if old is None and new is False:
            verdict = WORSE
        yield Change(what=f"stage {name}", before=words[old], after=words[new], verdict=verdict)


def _task(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, budget: float | None) -> Iterator[Change]:
    if not first and not second:
        return
    if not first or not second or any(first.get(key) != second.get(key) for key in ("metric", "data", "split", "n")):
        yield Change(what="task", before=_about(first), after=_about(second), verdict=CHANGED)
        return
    errors = first["metric"] == "word_error_rate"
    accepted = budget if budget is not None else WORD_ERROR_BUDGET if errors else ACCURACY_BUDGET
    gain = (first["int8"] - second["int8"]) if errors else (second["int8"] - first["int8"])
    verdict = SAME if gain == 0 else WORSE if gain < -accepted else BETTER if gain > 0 else CHANGED
    metric = first["metric"].replace("_", " ")
    yield Change(what=f"int8 {metric}", before=f"{first['int8']:.2%}", after=f"{second['int8']:.2%}", verdict=verdict)


def _about(task: Mapping[str, Any] | None) -> str:
    if not task:
        return "not measured"
    return f"{task['metric'].replace('_', ' ')} {task['int8']:.2%} on {task['n']} of {task['data']} ({task['split']})"


def _streams(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Iterator[Change]:
    if not first and not second:
        return
    if not first or not second or _recordings(first) != _recordings(second):
        yield Change(what="streams", before=_said(first), after=_said(second), verdict=CHANGED)
        return
    before, after = first["int8"], second["int8"]
    if before["positives"]:
        rise = after["miss_rate"] - before["miss_rate"]
        verdict = SAME if rise == 0 else WORSE if rise > MISS_BUDGET else BETTER if rise < 0 else CHANGED
        yield Change(what="int8 misses", before=missed(before), after=missed(after), verdict=verdict)
    if before["hours"]:
        counts = before["false_accepts"], after["false_accepts"]
        ratio = rate_ratio_interval(*counts, before["hours"], after["hours"])
        judged = judge_ratio(ratio, FALSE_ACCEPT_BUDGET)
        verdict = SAME if counts[0] == counts[1] else WORSE if judged == INFERIOR else CHANGED
        verdict = BETTER if ratio[1] < 1.0 else verdict
        what = "int8 false accepts an hour"
        yield Change(what=what, before=accepted(before), after=accepted(after), verdict=verdict)


def _recordings(section: Mapping[str, Any]) -> tuple[Any, ...]:
    positives = section["positives"] or {}
    others = [(row["data"], row["n"], round(row["hours"], 6)) for row in section["negatives"]]
    return positives.get("data"), positives.get("n"), others


def _said(section: Mapping[str, Any] | None) -> str:
    return stream_badge(section) if section else "not measured"


def _versions(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted({*first, *second}):
        old, new = first.get(name, "not there"), second.get(name, "not there")
        if old != new:
            yield Change(what=f"version of {name}", before=old, after=new, verdict=CHANGED)


def paired_change(result: TaskResult, *, budget: float = ACCURACY_BUDGET) -> Change:
    """The change of accuracy of two bundles on the same clips, judged by its interval.

    Args:
        result: From :func:`~edgeaudio.parity.statistics.compare_decisions`; its reference is the first bundle.
        budget: Loss that is accepted, as a share.
    """
    judged = judge_change(result.ci95, budget)
    low, high = (100 * value for value in result.ci95)
    verdict = WORSE if judged == INFERIOR else BETTER if low > 0 else SAME if result.delta == 0 else CHANGED
    return Change(
        what=f"int8 accuracy on {result.n} clips, {100 * result.delta:+.2f} points (95 % by speaker {low:+.2f} to "
        f"{high:+.2f}), {judged}, McNemar p {result.mcnemar_p:.3g}",
        before=f"{result.reference:.2%}",
        after=f"{result.candidate:.2%}",
        verdict=verdict,
    )


def require_certificate(name: str, document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The certificate of a bundle.

    Raises:
        ParityError: It has none.
    """
    if document is None:
        raise ParityError(f"{name}: no certificate in it to compare; run edgeaudio parity {name} --write first")
    return document
