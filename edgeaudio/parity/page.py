"""The certificate as one page: verdict, the ladder as a picture, the task, hashes, and how to get the same again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from edgeaudio.card import worst
from edgeaudio.html_page import Command, Figure, Paragraph, Section, Table, render_page
from edgeaudio.parity.verdict import NOT_ENOUGH_DATA

RUNG_HEIGHT, WIDTH = 38, 760
"""Of the picture of the ladder, in pixels."""
_GREEN, _RED = "#00795c", "#b3261e"


def certificate_page(document: Mapping[str, Any], *, command: str) -> str:
    """HTML of a certificate; one file without scripts or links.

    Args:
        document: From :func:`edgeaudio.parity.certificate.certificate`.
        command: What was typed to get it.
    """
    sections = [
        Section(title="Verdict", parts=tuple(_verdict(document))),
        Section(title="The ladder", parts=tuple(_ladder(document))),
        *_task(document.get("task")),
        *_blame(document.get("blame")),
        Section(title="What it covers", parts=tuple(_covers(document))),
        Section(title="The same again", parts=(Command(text=command),)),
    ]
    return render_page(f"Certificate of parity: {document['bundle']}", sections)


def _verdict(document: Mapping[str, Any]) -> Iterator[Paragraph]:
    failed = [row["name"] for row in document["stages"] if not row["passed"]]
    n_stages, task = len(document["stages"]), document.get("task")
    yield Paragraph(text="Passed." if document["passed"] else "Did not pass.")
    if failed:
        yield Paragraph(text=f"{len(failed)} of {n_stages} stages failed: {', '.join(failed)}.")
    else:
        yield Paragraph(text=f"All {n_stages} stages passed, each by its own rule.")
    if not task:
        yield Paragraph(text="Nothing was measured on labelled recordings, so nothing is said about accuracy.")
    elif "verdict" in task:
        metric, budget = task["metric"].replace("_", " "), 100 * task["budget"]
        rest = "; more recordings would settle it" if task["verdict"] == NOT_ENOUGH_DATA else ""
        yield Paragraph(text=f"Int8 against float, {metric}, budget {budget:g} points: {task['verdict']}{rest}.")


def _ladder(document: Mapping[str, Any]) -> Iterator[Figure | Table]:
    rows = document["stages"]
    yield Figure(
        svg=ladder_svg(rows), caption="Every pair of neighbours from sound to event, and how far they are apart."
    )
    yield Table(
        columns=("stage", "reference", "candidate", "compared", "outside", "worst", "rule", "verdict"),
        rows=tuple(
            (
                row["name"], row["reference"], row["candidate"], f"{row['compared']:,}", f"{row['mismatches']:,}",
                worst(row), row["tolerance"], "passed" if row["passed"] else "failed",
            )
            for row in rows
        ),
        caption="Outside: values that break the rule; codes are compared exactly unless the rule says otherwise.",
    )  # fmt: skip


def ladder_svg(rows: Any) -> str:
    """The rungs one below the other: reference, candidate, and between them what lies between them."""
    height = RUNG_HEIGHT * len(rows) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" font-size="12">']
    parts.append('<g font-family="system-ui, Liberation Sans, Arial, sans-serif">')
    for index, row in enumerate(rows):
        parts += _rung(row, 10 + index * RUNG_HEIGHT)
    return "".join([*parts, "</g></svg>"])


def _rung(row: Mapping[str, Any], top: int) -> Iterator[str]:
    colour, middle = (_GREEN if row["passed"] else _RED), top + 13
    for x, text in ((0, row["reference"]), (WIDTH - 220, row["candidate"])):
        yield f'<rect x="{x}" y="{top}" width="220" height="26" rx="4" fill="#f4f5f7" stroke="{colour}"/>'
        yield f'<text x="{x + 110}" y="{middle + 4}" text-anchor="middle">{escape(_short(text, 34))}</text>'
    yield f'<line x1="220" y1="{middle}" x2="{WIDTH - 220}" y2="{middle}" stroke="{colour}" stroke-width="2"/>'
    label = _short(f"{row['name']}: {worst(row)}{'' if row['passed'] else ', failed'}", 44)
    yield f'<rect x="240" y="{top + 3}" width="{WIDTH - 480}" height="20" fill="#fff"/>'
    yield f'<text x="{WIDTH // 2}" y="{middle + 4}" text-anchor="middle" fill="{colour}">{escape(label)}</text>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _task(task: Mapping[str, Any] | None) -> Iterator[Section]:
    if not task:
        return
    metric = task["metric"].replace("_", " ")
    about = f"{task['n']} {task.get('unit', 'clips')} of {task['data']} (split {task['split']})"
    rows = [("int8", f"{task['int8']:.2%}", _interval(task["int8_ci95"]))]
    if task.get("ci95"):
        low, high = (100 * value for value in task["ci95"])
        rows.insert(0, ("float", f"{task['float']:.2%}", _interval(task["float_ci95"])))
        rows.append(("int8 - float", f"{100 * task['delta']:+.2f} points", f"{low:+.2f} to {high:+.2f} points"))
        rows.append(("same answer", f"{task['agreement']:.2%}", _interval(task["agreement_ci95"])))
    if "mcnemar_p" in task:
        rows.append(("exact McNemar test, two-sided p", f"{task['mcnemar_p']:.3g}", "takes clips for independent"))
    parts = [Table(columns=(metric, "", "95 % interval"), rows=tuple(rows), caption=f"On {about}.")]
    if task.get("by_label"):
        parts.append(_by_label(task["by_label"]))
    yield Section(title=metric.capitalize(), parts=tuple(parts))


def _blame(parts: Sequence[Mapping[str, Any]] | None) -> Iterator[Section]:
    if not parts:
        return
    rows = tuple(
        (
            part["name"], part["swapped"], f"{part['before']:.2%}", f"{part['after']:.2%}",
            f"{100 * part['loss']:+.2f}", f"{0.0 - 100 * part['ci95'][1]:+.2f} to {0.0 - 100 * part['ci95'][0]:+.2f}",
            part["verdict"],
        )
        for part in parts
    )  # fmt: skip
    columns = ("part", "swapped", "before", "after", "lost, points", "95 % by speaker", "verdict")
    caption = "The same clips with one part of the pipeline swapped at a time, from the trained network to the device."
    yield Section(title="Where it is lost", parts=(Table(columns=columns, rows=rows, caption=caption),))


def _by_label(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    cells = tuple((label, f"{row['n']}", f"{row['float']:.1%}", f"{row['int8']:.1%}") for label, row in rows.items())
    return Table(columns=("label", "clips", "float", "int8"), rows=cells, caption="Share that is right, by label.")


def _interval(ends: Any) -> str:
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def _covers(document: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        columns=("file", "SHA-256"), rows=tuple(document["covers"].items()),
        caption="The certificate holds for these bytes and no others.",
    )  # fmt: skip
    yield Table(
        columns=("what computed", "version"), rows=tuple(document["environment"].items()),
        caption="Versions of the packages and of the interpreter.",
    )  # fmt: skip
