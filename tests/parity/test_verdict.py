"""Verdicts on a change by its interval, and two certificates side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeaudio.parity.certificate import certificate
from edgeaudio.parity.comparison import compare_certificates, paired_change, require_certificate
from edgeaudio.parity.stages import Stage
from edgeaudio.parity.statistics import compare_decisions
from edgeaudio.parity.verdict import judge_change, judge_task
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import ParityError


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.003, 0.001), "non-inferior"),
        ((-0.0031, -0.001), "not enough data"),
        ((-0.02, 0.02), "not enough data"),
        ((-0.02, -0.003), "not enough data"),
        ((-0.02, -0.0031), "inferior"),
        ((0.001, 0.002), "non-inferior"),
    ],
)
def test_the_whole_interval_decides(interval: tuple[float, float], verdict: str) -> None:
    assert judge_change(interval, 0.003) == verdict


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ParityError, match=r"budget=-0\.1 must be >= 0"):
        judge_change((0.0, 0.0), -0.1)


def test_errors_are_better_when_lower() -> None:
    task = {"metric": "word_error_rate", "ci95": [0.02, 0.03]}
    assert judge_task(task) == {"budget": 0.005, "verdict": "inferior"}
    assert judge_task({**task, "metric": "accuracy"}) == {"budget": 0.003, "verdict": "non-inferior"}
    assert judge_task(task, 0.05) == {"budget": 0.05, "verdict": "non-inferior"}
    assert judge_task({"metric": "accuracy", "ci95": None}) is None


def row(name: str, *, passed: bool = True) -> dict[str, Any]:
    return {"name": name, "passed": passed}


def proof(*stages: dict[str, Any], int8: float | None = None, numpy: str = "2.0") -> dict[str, Any]:
    task = {"metric": "accuracy", "data": "words", "split": "test", "n": 100, "int8": int8}
    return {"stages": list(stages), "task": None if int8 is None else task, "environment": {"numpy": numpy}}


def verdicts(first: dict[str, Any], second: dict[str, Any]) -> dict[str, str]:
    return {change.what: change.verdict for change in compare_certificates(first, second)}


def test_stages_that_fail_or_vanish_are_worse_and_those_that_come_to_pass_better() -> None:
    before = proof(row("a"), row("b"), row("c"), row("d", passed=False))
    after = proof(row("a"), row("b", passed=False), row("d"), row("e"), row("f", passed=False))
    assert verdicts(before, after) == {
        "stage a": "same",
        "stage b": "worse",
        "stage c": "worse",
        "stage d": "better",
        "stage e": "changed",
        "stage f": "worse",
    }


@pytest.mark.parametrize(("int8", "verdict"), [(0.9, "same"), (0.899, "changed"), (0.896, "worse"), (0.91, "better")])
def test_accuracy_may_fall_by_the_budget(int8: float, verdict: str) -> None:
    assert verdicts(proof(int8=0.9), proof(int8=int8)) == {"int8 accuracy": verdict}


def test_a_task_measured_on_other_clips_is_only_told() -> None:
    other = proof(int8=0.5)
    other["task"]["split"] = "validation"
    (change,) = compare_certificates(proof(int8=0.9), other)
    assert (change.what, change.verdict) == ("task", "changed")
    assert change.before == "accuracy 90.00% on 100 of words (test)"


def test_versions_that_differ_are_told() -> None:
    assert verdicts(proof(numpy="2.0"), proof(numpy="2.1")) == {"version of numpy": "changed"}


def paired(lost: int) -> str:
    truth = np.zeros(1000, dtype=np.intp)
    worse = truth.copy()
    worse[:lost] = 1
    return paired_change(compare_decisions(truth, truth, worse, [""] * 1000)).verdict


def test_the_interval_of_paired_clips_decides() -> None:
    assert [paired(0), paired(3), paired(50)] == ["same", "changed", "worse"]


def test_a_bundle_without_certificate_cannot_be_compared() -> None:
    with pytest.raises(ParityError, match=r"run edgeaudio parity here --write first"):
        require_certificate("here", None)


def test_a_certificate_fails_where_int8_is_inferior_and_only_there() -> None:
    bundle = open_bundle(entry_folder("kws-12-small") / BUNDLE)
    stage = Stage(name="a", reference="x", candidate="y", compared=1, mismatches=0, tolerance="exact", passed=True)
    for interval, passed in (((-0.01, 0.01), True), ((-0.02, -0.01), False), ((0.0, 0.0), True)):
        task = {"metric": "accuracy", "ci95": interval, "int8": 0.5}
        document = certificate(bundle, [stage], task=task)
        assert document["passed"] is passed
        assert document["task"]["budget"] == 0.003
    assert certificate(bundle, [stage], task={"metric": "accuracy", "ci95": (-0.02, -0.01)}, budget=0.05)["passed"]
