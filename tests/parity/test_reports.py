"""The certificate for machines and for people: JUnit XML, a badge, one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

import edgeaudio.parity
from edgeaudio.parity.page import certificate_page
from edgeaudio.parity.page.accuracy import confusion_figure
from edgeaudio.parity.page.streams import det_curves
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


def test_the_table_says_in_how_many_ways_clips_were_heard(document: dict[str, Any]) -> None:
    line = "  each clip heard in 4 fixed shifts and gains"
    assert line not in render_stages(document).splitlines()
    document["task"]["n_hearings"] = 4
    assert line in render_stages(document).splitlines()


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


def outcome(misses: int, accepts: int) -> dict[str, Any]:
    return {
        "misses": misses, "positives": 50, "miss_rate": misses / 50, "miss_rate_ci95": [0.01, 0.25],
        "false_accepts": accepts, "hours": 2.0, "false_accepts_an_hour": accepts / 2,
        "false_accepts_an_hour_ci95": [0.1, 3.6], "claimable_an_hour": 3.15,
    }  # fmt: skip


@pytest.fixture
def whole(document: dict[str, Any]) -> dict[str, Any]:
    """A certificate that says everything it may say."""
    condition = {**document["task"], "name": "gain -40 dB", "kind": "gain", "n": 10}
    document["covers"] = {"manifest.json": "ab" * 32}
    document["environment"]["machine"] = "x86_64"
    document["schema_version"] = 1
    document["task"]["confusion"] = {
        "labels": ["_silence_", "yes"], "float": [[7, 0], [1, 2]], "int8": [[6, 1], [1, 2]],
    }  # fmt: skip
    document["task"]["n"] = 10
    return {
        **document,
        "left_out": ["tflite-micro: not installed"],
        "blame": [
            {
                "name": "weights", "swapped": "float -> int8", "before": 0.9, "after": 0.8, "loss": 0.1,
                "ci95": [-0.12, -0.08], "agreement": 0.9, "verdict": "inferior", "evidence": ["layers: conv_3"],
            }
        ],
        "streams": {
            "positives": {"data": ["yes"], "n": 50, "n_labelled": 0, "tail_s": 1.0}, "hours": 2.0, "threshold": 0.6,
            "negatives": [{"data": "talk", "n": 3, "hours": 2.0, "float": 1, "int8": 2}],
            "float": outcome(4, 1), "int8": outcome(5, 2),
            "difference": {
                "misses": {
                    "delta": 0.02, "ci95": [-0.01, 0.05], "only_float": 1, "only_int8": 0, "mcnemar_p": 1.0,
                    "budget": 0.01, "verdict": "not enough data",
                },
                "false_accepts": {"ratio_ci95": [0.1, None], "budget": 0.5, "verdict": "not enough data"},
            },
            "det": [
                {"threshold": 0.3, "float": outcome(1, 8), "int8": outcome(2, 9)},
                {"threshold": 0.9, "float": None, "int8": outcome(20, 0)},
            ],
            "latency_s": {"float": None, "int8": {"n": 45, "p50": -0.05, "p90": 0.2, "p95": 0.3, "p99": 0.4}},
            "hours_needed": {"0.5": 5.99},
        },
        "curves": [
            {
                "chosen": "heard by both", "label": "yes", "clip": 17, "threshold": 0.6, "seconds": [0.1, 0.2, 0.3],
                "float": {"yes": [0.1, 0.5, 0.9], "_silence_": [0.9, 0.5, 0.1]},
                "int8": {"yes": [0.1, 0.5, 0.8], "_silence_": [0.9, 0.5, 0.2]},
                "events": [{"side": "int8", "label": "yes", "score": 0.8, "at_s": 0.3}],
            }
        ],
        "layers": [
            {"name": "relu_1", "kind": "conv", "dtype": "int8", "sqnr_db": 31.5},
            {"name": "cat", "kind": "mul", "dtype": "int8", "sqnr_db": None},
        ],
        "robustness": {
            "n": 10, "n_conditions": 27, "budget": 0.003, "worst": "gain -40 dB", "verdict": "inferior",
            "conditions": [condition, {**condition, "name": "DC of 1% of full scale", "kind": "DC"}],
        },
    }  # fmt: skip


def test_a_certificate_that_says_everything_follows_the_schema(whole: dict[str, Any]) -> None:
    schema = Path(edgeaudio.parity.__file__).with_name("certificate.schema.json").read_text("utf-8")
    jsonschema.validate(whole, json.loads(schema))


@pytest.fixture
def full_page(whole: dict[str, Any]) -> str:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install 'edgeaudio[plots]'")
    return certificate_page(whole, command="edgeaudio parity kws --robustness")


def test_the_page_has_a_section_for_everything_and_fetches_nothing(full_page: str) -> None:
    assert re.findall(r"<h2>([^<]+)</h2>", full_page) == [
        "Verdict", "The ladder", "Accuracy", "Confusions", "Where it is lost", "Streams", "Scores over a clip",
        "Error by layer", "Robustness", "What it covers", "The same again",
    ]  # fmt: skip
    assert not re.search(r"<script|<link|<img|<image|@import|(?:src|href)=\"(?!#)", full_page)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"' <]+", full_page)) <= namespaces


def test_the_page_says_what_the_certificate_says(full_page: str) -> None:
    for said in (
        '<p class="verdict failed">Did not pass.</p>',
        "Not compared here: tflite-micro: not installed.",
        "Robustness, 27 conditions, 10 recordings under each: inferior; worst: gain -40 dB.",
        "inferior; layers: conv_3",
        "4 of 50",
        "Miss rate, int8 - float: +2.00 points (95 %: -1.00 to +5.00), budget 1 points: not enough data.",
        "95 % of the ratio 0.10 to any number, a rise of 50% is accepted: not enough data.",
        "0.5 an hour: 6.0 h",
        "No false accept at all stands at 0.25 an hour",
        "Clip 17, “yes”, heard by both: float reports nothing; int8 reports yes at 0.30 s.",
        "Layers without any error, which are left out: 1.",
        "DC of 1% of full scale",
    ):
        assert said in full_page


def test_the_matrices_on_the_page_sum_to_the_clips(whole: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install 'edgeaudio[plots]'")
    svg = confusion_figure(whole["task"]["confusion"]).svg
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    numbers = [text.replace("\u2212", "-") for text in texts if re.fullmatch(r"[+-]?\d+", text)]
    # Drawn matrix by matrix, zeros left out: float, int8, then what int8 has more or less.
    assert numbers == ["7", "1", "2", "6", "1", "1", "2", "-1", "+1"]
    assert texts.count("_silence_") == 6
    assert "<image" not in svg


def test_a_lone_model_has_one_matrix_and_no_share_in_float(document: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install 'edgeaudio[plots]'")
    none = dict.fromkeys(("float", "float_ci95", "delta", "ci95", "agreement"))
    matrices = {"labels": ["a", "b"], "float": None, "int8": [[3, 0], [0, 4]]}
    by_label = {"yes": {"n": 10, "float": None, "int8": 0.9}}
    task = {"metric": "accuracy", "int8": 0.9, "int8_ci95": [0.8, 1.0], "n": 7, "data": "words", "split": "test"}
    page = certificate_page(
        {**document, "task": {**task, **none, "by_label": by_label, "confusion": matrices}}, command="x"
    )
    assert '<th scope="row">yes</th><td class="whole">10</td><td class="whole">-</td>' in page
    assert "int8 - float" not in page


def test_det_curves_have_a_point_for_each_threshold_that_both_were_measured_at(whole: dict[str, Any]) -> None:
    assert det_curves(whole["streams"]["det"]) == {"float": [(4.0, 0.02)], "int8": [(4.5, 0.04), (0.0, 0.4)]}
    assert det_curves([]) == {}


def test_robustness_stands_in_the_table_and_in_junit(whole: dict[str, Any]) -> None:
    lines = render_stages(whole).splitlines()
    assert any(line.startswith("gain -40 dB") and line.endswith("inferior") for line in lines)
    said = "10 recordings under 27 conditions, budget 0.3 points: inferior; int8 loses most under: gain -40 dB"
    assert said in lines
    suite = ElementTree.fromstring(junit_xml(whole))[0]
    failure = next(case for case in suite if case.get("name") == "robustness").find("failure")
    assert failure is not None
    assert failure.get("message") == said
