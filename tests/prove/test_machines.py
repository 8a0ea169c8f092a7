"""What the matrix and the emulated machine report, on outcomes made by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.prove import arm, matrix

ENGINE: dict[str, Any] = {
    "version": "numpy 2", "numerics": "fp32", "logits": "ab", "logits_off": 0, "selftest": True, "failed_stages": [],
    "codes_to_events": [{"event": "keyword", "label": "yes", "score": 0.9}],
    "pcm_to_events": {"native": [{"event": "keyword", "label": "yes", "score": 0.9}]},
}  # fmt: skip


def report(**changes: Any) -> dict[str, Any]:
    return {"bundles": {"kws": {"front_ends": ["native"], "engines": {"numpy": {**copy.deepcopy(ENGINE), **changes}}}}}


def test_equal_machines_differ_in_nothing() -> None:
    assert arm.compare(report(), report()) == []


def test_scores_of_features_may_move_and_decisions_may_not() -> None:
    moved = {"native": [{"event": "keyword", "label": "yes", "score": 0.8999}]}
    other = {"native": [{"event": "keyword", "label": "no", "score": 0.9}]}
    assert arm.compare(report(), report(pcm_to_events=moved)) == []
    assert arm.compare(report(), report(pcm_to_events=other)) == [
        "kws on numpy: the native front end leads to other decisions"
    ]


def test_one_code_or_one_event_off_is_named() -> None:
    assert arm.compare(report(), report(logits="ac", logits_off=3)) == [
        "kws on numpy: logits differ, 3 of them from the golden ones"
    ]
    events = [{"event": "keyword", "label": "yes", "score": 0.9000001}]
    assert arm.compare(report(), report(codes_to_events=events)) == [
        "kws on numpy: the events of the same codes differ"
    ]
    assert arm.compare(report(), {"bundles": {}}) == [
        "kws: the native front end did not run",
        "kws on numpy did not run",
    ]
    failed = report(selftest=False, failed_stages=["x"])
    assert arm.compare(report(), failed) == ["kws on numpy: the self-test failed: ['x']"]


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "mmdebstrap" else name)
    assert arm.missing_tools() == ["mmdebstrap (apt-get install mmdebstrap)"]


def test_every_emulated_test_file_exists() -> None:
    assert [name for name in arm.TESTS if not (arm.ROOT / "tests/runtime" / name).is_file()] == []


def cell(status: str, detail: str, **place: str) -> matrix.Cell:
    return matrix.Cell(status=status, detail=detail, **place)


def test_the_matrix_lists_reasons_below_its_table() -> None:
    cells = [
        cell(matrix.PASSED, "x 1", python=python, numpy=numpy, engine=engine)
        for python in matrix.PYTHONS
        for numpy in matrix.NUMPYS
        for engine in matrix.ENGINES
    ]
    cells[3] = cell(matrix.NO_WHEEL, "nothing fits", python="3.10", numpy="numpy 1.26", engine="tflite-runtime")
    lines = matrix.table(cells).splitlines()
    assert lines[0] == "| Python | numpy | numpy | onnxruntime | ai-edge-litert | tflite-runtime |"
    assert lines[2] == "| 3.10 | numpy 1.26 | passed: x 1 | passed: x 1 | passed: x 1 | no wheel |"
    assert lines[-1] == "- Python 3.10, numpy 1.26, tflite-runtime: nothing fits"
    assert len(lines) == 2 + 8 + 2


def test_the_reason_is_what_pip_says() -> None:
    output = (
        "ERROR: Could not find a version that satisfies the requirement tflite-runtime==2.14.0 (from versions: none)\n"
        "ERROR: No matching distribution found for tflite-runtime==2.14.0\n"
    )
    assert matrix.reason_of(output) == "No matching distribution found for tflite-runtime==2.14.0"
    with pytest.raises(AssertionError, match="segmentation"):
        matrix.reason_of("segmentation fault")
