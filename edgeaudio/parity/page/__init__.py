"""The certificate as one page: verdict, the ladder as a picture, what was measured, hashes, and how to get it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeaudio.html_page import Command, Paragraph, Section, Table, Verdict, render_page
from edgeaudio.parity.page.accuracy import accuracy_sections, blame_sections
from edgeaudio.parity.page.ladder import ladder_parts
from edgeaudio.parity.page.network import curve_sections, layer_sections
from edgeaudio.parity.page.robustness import robustness_sections
from edgeaudio.parity.page.streams import stream_sections
from edgeaudio.parity.verdict import NOT_ENOUGH_DATA


def certificate_page(document: Mapping[str, Any], *, command: str) -> str:
    """HTML of a certificate; one file without scripts or links.

    Args:
        document: From :func:`edgeaudio.parity.certificate.certificate`; what it does not say has no section.
        command: What was typed to get it.

    Charts need matplotlib.
    """
    sections = [
        Section(title="Verdict", parts=tuple(_verdict(document))),
        Section(title="The ladder", parts=tuple(ladder_parts(document["stages"]))),
        *accuracy_sections(document.get("task")),
        *blame_sections(document.get("blame")),
        *stream_sections(document.get("streams")),
        *curve_sections(document.get("curves")),
        *layer_sections(document.get("layers")),
        *robustness_sections(document.get("robustness")),
        Section(title="What it covers", parts=tuple(_covers(document))),
        Section(title="The same again", parts=(Command(text=command),)),
    ]
    return render_page(f"Certificate of parity: {document['bundle']}", sections)


def _verdict(document: Mapping[str, Any]) -> Iterator[Paragraph | Verdict]:
    failed = [_named(row) for row in document["stages"] if not row["passed"]]
    n_stages, task = len(document["stages"]), document.get("task")
    yield Verdict(text="Passed." if document["passed"] else "Did not pass.", passed=document["passed"])
    if failed:
        yield Paragraph(text=f"{len(failed)} of {n_stages} stages failed: {', '.join(failed)}.")
    else:
        yield Paragraph(text=f"All {n_stages} stages passed, each by its own rule.")
    if document.get("left_out"):
        yield Paragraph(text=f"Not compared here: {'; '.join(document['left_out'])}.")
    if not task:
        yield Paragraph(text="Nothing was measured on labelled recordings, so nothing is said about accuracy.")
    elif "verdict" in task:
        metric, budget = task["metric"].replace("_", " "), 100 * task["budget"]
        rest = "; more recordings would settle it" if task["verdict"] == NOT_ENOUGH_DATA else ""
        yield Paragraph(text=f"Int8 against float, {metric}, budget {budget:g} points: {task['verdict']}{rest}.")
    swept = document.get("robustness")
    if swept:
        about = f"{swept['n_conditions']} conditions, {swept['n']} recordings under each"
        yield Paragraph(text=f"Robustness, {about}: {swept['verdict']}; worst: {swept['worst']}.")


def _named(row: Mapping[str, Any]) -> str:
    culprits = row.get("culprits")
    return f"{row['name']} ({', '.join(culprits)})" if culprits else str(row["name"])


def _covers(document: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        columns=("file", "SHA-256"), rows=tuple(document["covers"].items()),
        caption="The certificate holds for these bytes and no others.",
    )  # fmt: skip
    yield Table(
        columns=("what computed", "version"), rows=tuple(document["environment"].items()),
        caption="Versions of the packages and of the interpreter.",
    )  # fmt: skip
