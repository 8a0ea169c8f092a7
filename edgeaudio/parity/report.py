"""The certificate as text: a table for people, JUnit XML for CI, a line for a README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from edgeaudio.card import worst
from edgeaudio.parity.evidence import first_failure
from edgeaudio.parity.stream_report import stream_badge, stream_lines
from edgeaudio.parity.stream_section import worst_verdict
from edgeaudio.parity.verdict import INFERIOR


def render_stages(document: Mapping[str, Any]) -> str:
    """A table for people: one line a stage, the task below, the verdict last."""
    lines = [f"{'':8s}{'stage':24s}{'compared':>12s}{'outside':>9s}  {'worst':12s}rule"]
    for row in document["stages"]:
        verdict, counts = "ok" if row["passed"] else "FAILED", f"{row['compared']:12,d}{row['mismatches']:9,d}"
        lines.append(f"{verdict:8s}{row['name']:24s}{counts}  {worst(row):12s}{row['tolerance']}")
    lines += [f"left out {line}" for line in document.get("left_out", ())]
    if document.get("task"):
        lines += _task(document["task"])
    if document.get("blame"):
        lines += _blame(document["blame"])
    if document.get("streams"):
        lines += stream_lines(document["streams"])
    if document.get("robustness"):
        lines += _robustness(document["robustness"])
    failure = first_failure(document["stages"])
    lines += [] if failure is None else ["first to fail: {}; look at: {}".format(*failure)]
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
    elif task.get("n_hearings", 1) > 1:
        yield f"  each clip heard in {task['n_hearings']} fixed shifts and gains"
    if "verdict" in task:
        yield f"  {task['verdict']}: at most {100 * task['budget']:g} points may be lost"
    for name, other in task.get("subsets", {}).items():
        yield f"  {name}: float {other['float']:.2%}, int8 {other['int8']:.2%} on {other['n']} clips"


def _blame(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'part':14s}{'before':>8s}{'after':>8s}{'loss':>8s}  95 % of the loss     verdict"
    for part in parts:
        low, high = (0.0 - 100 * value for value in reversed(part["ci95"]))
        numbers = f"{part['before']:8.2%}{part['after']:8.2%}{100 * part['loss']:+8.2f}"
        yield f"{part['name']:14s}{numbers}  {f'{low:+.2f} to {high:+.2f}':19s}{part['verdict']}"
        yield from (f"  {line}" for line in part.get("evidence", ()))
    guilty = [part["name"] for part in parts if part["verdict"] == INFERIOR]
    yield f"lost in: {', '.join(guilty)}" if guilty else "no part is shown to lose more than the budget"


def _robustness(swept: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'condition':36s}{'float':>8s}{'int8':>8s}{'int8-float':>12s}  {'95 %':16s}{'same':>8s}  verdict"
    for row in swept["conditions"]:
        low, high = (100 * value for value in row["ci95"])
        numbers = (
            f"{row['float']:8.2%}{row['int8']:8.2%}{100 * row['delta']:+12.2f}  {f'{low:+.2f} to {high:+.2f}':16s}"
        )
        yield f"{row['name']:36s}{numbers}{row['agreement']:8.2%}  {row['verdict']}"
    yield (
        f"{swept['n']} recordings under {swept['n_conditions']} conditions, budget {100 * swept['budget']:g} points: "
        f"{swept['verdict']}; int8 loses most under: {swept['worst']}"
    )


def _lone_task(task: Mapping[str, Any]) -> Iterator[str]:
    """Of a model that came as it is there is nothing to compare."""
    low, high = task["int8_ci95"]
    yield f"accuracy on {task['n']} clips: {task['int8']:.2%} (95 % by speaker {low:.2%} to {high:.2%})"
    for name, other in task.get("subsets", {}).items():
        yield f"  {name}: {other['int8']:.2%} on {other['n']} clips"


def junit_xml(document: Mapping[str, Any]) -> str:
    """The certificate as JUnit XML: a test case for each stage, and one for the task where it was measured."""
    task = document.get("task") or {}
    cases = [(row["name"], row["passed"], _stage_sentence(row)) for row in document["stages"]]
    if "verdict" in task:
        cases.append((task["metric"].replace("_", " "), task["verdict"] != INFERIOR, "\n".join(_task(task))))
    if document.get("streams"):
        passed = worst_verdict(document["streams"]) != INFERIOR
        cases.append(("streams", passed, "\n".join(stream_lines(document["streams"]))))
    if document.get("robustness"):
        swept = document["robustness"]
        cases.append(("robustness", swept["verdict"] != INFERIOR, "\n".join(reversed([*_robustness(swept)]))))
    failures = sum(not passed for _, passed, _ in cases)
    suite = ElementTree.Element(
        "testsuite", name=f"parity of {document['bundle']}", tests=str(len(cases)), failures=str(failures),
        errors="0", skipped="0",
    )  # fmt: skip
    for name, passed, sentence in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=f"edgeaudio.{document['bundle']}", name=name)
        if passed:
            ElementTree.SubElement(case, "system-out").text = sentence
        else:
            ElementTree.SubElement(case, "failure", message=sentence.partition("\n")[0]).text = sentence
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _stage_sentence(row: Mapping[str, Any]) -> str:
    counts = f"{row['mismatches']:,} of {row['compared']:,} values outside, worst {worst(row)}"
    return f"{row['candidate']} against {row['reference']}: {counts}; rule: {row['tolerance']}"


def badge_line(document: Mapping[str, Any]) -> str:
    """One line of Markdown that says how the proof ended, for a README; it needs no service to draw it."""
    verdict = "passed" if document["passed"] else "did not pass"
    parts = [f"{sum(row['passed'] for row in document['stages'])} of {len(document['stages'])} stages"]
    task = document.get("task")
    if task and task.get("ci95"):
        low, high = (100 * value for value in task["ci95"])
        metric = task["metric"].replace("_", " ")
        change = f"{100 * task['delta']:+.2f} points of {metric} (95 %: {low:+.2f} to {high:+.2f})"
        parts.append(f"int8 against float {change}")
    if document.get("streams"):
        parts.append(stream_badge(document["streams"]))
    return f"**edgeaudio parity: {verdict}** ({', '.join(parts)}; `{document['bundle']}`)"
