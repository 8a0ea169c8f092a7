"""The ladder as a picture and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from edgeaudio.card import worst
from edgeaudio.html_page import Figure, Table

RUNG_HEIGHT, WIDTH = 32, 760
"""Of the picture of the ladder, in pixels."""
_GREEN, _RED = "#00795c", "#b3261e"


def ladder_parts(rows: Sequence[Mapping[str, Any]]) -> Iterator[Figure | Table]:
    """Picture and table of the stages."""
    yield Figure(
        svg=ladder_svg(rows),
        caption="Every pair of neighbours from sound to event, and how far they are apart.",
        tall=True,
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


def ladder_svg(rows: Sequence[Mapping[str, Any]]) -> str:
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
