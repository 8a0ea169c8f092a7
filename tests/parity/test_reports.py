"""The certificate for machines and for people: JUnit XML, a badge, one page."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from edgeaudio.parity.page import certificate_page
from edgeaudio.parity.report import badge_line, junit_xml, render_stages


def stage(name: str, *, passed: bool = True, **more: Any) -> dict[str, Any]:
    about = {"reference": "one <&>", "candidate": "two", "compared": 5000, "mismatches": 0, "tolerance": "exact"}
    return {"name": name, **about, "max_lsb": 0, "passed": passed, **more}


@pytest.fixture
def document() -> dict[str, Any]:
    task = {
        "metric": "accuracy", "float": 0.92, "int8": 0.91, "delta": -0.01, "ci95": [-0.012, -0.008],
        "float_ci95": [0.9, 0.94], "int8_ci95": [0.89, 0.93], "agreement": 0.99, "agreement_ci95": [0.98, 1.0],
        "mcnemar_p": 0.0117, "n": 1000, "data": "words", "split": "test", "budget": 0.003, "verdict": "inferior",
        "by_label": {"yes": {"n": 10, "float": 1.0, "int8": 0.9}},
    }  # fmt: skip
    return {
        "bundle": "kws", "passed": False, "task": task, "covers": {"manifest.json": "ab12"},
        "stages": [stage("front end"), stage("engine x", passed=False, mismatches=7, max_lsb=3)],
        "environment": {"python": "3.11"},
    }  # fmt: skip


def test_junit_has_a_case_for_each_stage_and_one_for_the_task(document: dict[str, Any]) -> None:
    suite = ElementTree.fromstring(junit_xml(document))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == ["front end", "engine x", "accuracy"]
    assert cases["front end"].find("failure") is None
    failure = cases["engine x"].find("failure")
    assert failure is not None
    assert failure.get("message") == "two against one <&>: 7 of 5,000 values outside, worst 3 codes; rule: exact"
    assert "inferior: at most 0.3 points may be lost" in str(cases["accuracy"].findtext("failure"))


def test_junit_has_no_task_where_none_was_measured(document: dict[str, Any]) -> None:
    suite = ElementTree.fromstring(junit_xml({**document, "task": None}))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_the_badge_says_in_one_line_how_the_proof_ended(document: dict[str, Any]) -> None:
    assert badge_line(document) == (
        "**edgeaudio parity: did not pass** (1 of 2 stages, int8 against float -1.00 points of accuracy "
        "(95 %: -1.20 to -0.80); `kws`)"
    )
    good = {**document, "passed": True, "task": None, "stages": [stage("a")]}
    assert badge_line(good) == "**edgeaudio parity: passed** (1 of 1 stages; `kws`)"


def test_the_table_says_the_verdict(document: dict[str, Any]) -> None:
    assert "  inferior: at most 0.3 points may be lost" in render_stages(document).splitlines()


def test_the_page_holds_verdict_ladder_task_hashes_and_command(document: dict[str, Any]) -> None:
    page = certificate_page(document, command="edgeaudio parity kws")
    for said in (
        "Did not pass.",
        "1 of 2 stages failed: engine x.",
        "Int8 against float, accuracy, budget 0.3 points: inferior.",
        "engine x: 3 codes, failed",
        "one &lt;&amp;&gt;",
        "-1.20 to -0.80 points",
        "0.0117",
        "ab12",
        "edgeaudio parity kws",
    ):
        assert said in page
    assert "<script" not in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0


def test_the_picture_of_the_ladder_has_a_rung_for_each_stage_and_is_well_formed(document: dict[str, Any]) -> None:
    page = certificate_page(document, command="x")
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    rungs = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}line")
    assert len(list(rungs)) == 2


def test_a_page_without_a_task_says_that_nothing_is_said_about_accuracy(document: dict[str, Any]) -> None:
    page = certificate_page({**document, "task": None}, command="x")
    assert "so nothing is said about accuracy" in page
    assert "<h2>Accuracy</h2>" not in page
