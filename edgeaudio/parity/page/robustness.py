"""Float and int8 under every condition: bars, differences with their intervals, and the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeaudio.html_page import Figure, Paragraph, Section, Table
from edgeaudio.plots import bar_plot, interval_plot


def robustness_sections(swept: Mapping[str, Any] | None) -> Iterator[Section]:
    """One section, where it was swept."""
    if not swept:
        return
    rows = swept["conditions"]
    metric, names = rows[0]["metric"].replace("_", " "), [row["name"] for row in rows]
    about = (
        f"{swept['n']} recordings under each of {swept['n_conditions']} conditions, budget "
        f"{100 * swept['budget']:g} points: {swept['verdict']}. Int8 loses most against float under: {swept['worst']}. "
        "A condition is called inferior only where its interval, widened for all conditions together, says so."
    )
    bars = {side: [100 * row[side] for row in rows] for side in ("float", "int8")}
    yield Section(
        title="Robustness",
        parts=(
            Paragraph(text=about),
            Figure(svg=bar_plot(names, bars, x_label=f"{metric}, %"), caption=f"{metric.capitalize()} by condition."),
            Figure(
                svg=interval_plot(
                    names,
                    [100 * row["delta"] for row in rows],
                    [(100 * row["ci95"][0], 100 * row["ci95"][1]) for row in rows],
                    x_label=f"{metric}, int8 - float, points",
                ),
                caption="What int8 changes under each condition, with 95 % intervals.",
            ),
            _table(metric, rows),
        ),
    )


def _table(metric: str, rows: Any) -> Table:
    return Table(
        columns=("condition", "float", "int8", "int8 - float", "95 %, points", "same answer", "verdict"),
        rows=tuple(
            (
                row["name"], f"{row['float']:.2%}", f"{row['int8']:.2%}", f"{100 * row['delta']:+.2f}",
                f"{100 * row['ci95'][0]:+.2f} to {100 * row['ci95'][1]:+.2f}", f"{row['agreement']:.2%}",
                row["verdict"],
            )
            for row in rows
        ),
        caption=f"{metric.capitalize()} under each condition, the same recordings in all.",
    )  # fmt: skip
