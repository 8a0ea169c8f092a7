"""A sweep as text and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeaudio.html_page import Command, Figure, Paragraph, Section, Table, render_page
from edgeaudio.parity.statistics import TaskResult
from edgeaudio.plots import interval_plot
from edgeaudio.sweep.results import CellResult, SweepResult

ENGINES = ("litert", "onnxruntime", "numpy")
"""Columns, in the order of size and speed on a device."""
COLUMNS = (
    "method",
    "calibration",
    "path",
    "recovery",
    *(f"kB {engine}" for engine in ENGINES),
    "accuracy %",
    "95 %",
    "- float, points",
    "95 %",
    "same answer %",
    "95 %",
    *(f"us/step {engine}" for engine in ENGINES),
)
"""Headings of the table."""
_N_NAMES = 4
"""Columns that name a cell."""


def render_text(result: SweepResult) -> str:
    """Table for people, the float network above, the command below."""
    rows = [_cells(result, row) for row in result.cells if row.refused is None]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    lines = [*_head(result), ""]
    lines += [_aligned(row, widths) for row in ([COLUMNS, *rows] if rows else [])]
    lines += [f"{row.cell.name}: not made: {row.refused}" for row in result.cells if row.refused is not None]
    return "\n".join([*lines, "", *_foot(result), f"again: {result.command}"])


def render_html(result: SweepResult) -> str:
    """Self-contained page: the table, and the loss of each cell with its interval."""
    done = [row for row in result.cells if row.task is not None]
    refused = tuple((row.cell.name, str(row.refused)) for row in result.cells if row.refused is not None)
    again = Command(text=result.command)
    table = Table(
        columns=COLUMNS,
        rows=tuple(tuple(_cells(result, row)) for row in done),
        caption="Every way of quantizing against the float network; intervals are 95 %, bootstrapped by speaker.",
    )
    head = tuple(Paragraph(text=line) for line in (*_head(result), *_foot(result)))
    sections = [Section(title="All cells", parts=(*head, *((table,) if done else ()), again))]
    if done:
        sections.append(Section(title="Loss", parts=(_plot(done), again)))
    if refused:
        rows = Table(columns=("cell", "reason"), rows=refused, caption="Cells that a path refused.")
        sections.append(Section(title="Not made", parts=(rows, again)))
    return render_page(f"Quantization of {result.checkpoint}", sections)


def _head(result: SweepResult) -> Iterator[str]:
    heard = f"{len(result.variants)} fixed shifts and gains" if len(result.variants) > 1 else "as they are"
    task = _any_task(result)
    if task is None:
        yield f"{result.checkpoint} on {result.data} (split {result.split}), {heard}: no cell could be made"
        return
    yield (
        f"{result.checkpoint} on {task.n} clips of {result.data} (split {result.split}), {heard}; "
        f"{task.n_speakers} speakers or clips without one"
    )
    yield f"float: accuracy {_percent(task.reference)} %, 95 % by speaker {_interval(task.reference_ci95)}"


def _foot(result: SweepResult) -> Iterator[str]:
    if result.chosen:
        names = ", ".join(result.chosen.values())
        yield f"chosen on {result.chosen_on}, for each method the most faithful to float (*): {names}"
    elif result.split == "test":
        yield "nothing was chosen: a test split is for reporting; sweep the validation split into the same output first"


def _cells(result: SweepResult, row: CellResult) -> list[str]:
    cell, task = row.cell, row.task
    assert task is not None
    mark = "*" if cell.name in result.chosen.values() else ""
    return [
        f"{cell.method}{mark}",
        cell.calibration,
        cell.backend,
        "+".join(cell.recovery) or "-",
        *(f"{row.bytes_by_engine[e] / 1000:.1f}" if e in row.bytes_by_engine else "-" for e in ENGINES),
        _percent(task.candidate),
        _interval(task.candidate_ci95),
        f"{100 * task.delta:+.2f}",
        _interval(task.ci95, sign="+"),
        _percent(task.agreement),
        _interval(task.agreement_ci95),
        *(f"{row.us_per_step[e]:.1f}" if e in row.us_per_step else "-" for e in ENGINES),
    ]


def _plot(done: list[CellResult]) -> Figure:
    tasks = [row.task for row in done if row.task is not None]
    svg = interval_plot(
        [row.cell.name for row in done],
        [100 * task.delta for task in tasks],
        [(100 * task.ci95[0], 100 * task.ci95[1]) for task in tasks],
        x_label="accuracy against float (points)",
    )
    return Figure(svg=svg, caption="Accuracy of each cell minus that of the float network, with 95 % intervals.")


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    names = [cell.ljust(width) for cell, width in zip(row[:_N_NAMES], widths, strict=False)]
    parts = [*names, *(cell.rjust(width) for cell, width in zip(row[_N_NAMES:], widths[_N_NAMES:], strict=True))]
    return "  ".join(parts).rstrip()


def _any_task(result: SweepResult) -> TaskResult | None:
    return next((row.task for row in result.cells if row.task is not None), None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _interval(ends: tuple[float, float], sign: str = "") -> str:
    return f"{100 * ends[0]:{sign}.2f} to {100 * ends[1]:{sign}.2f}"
