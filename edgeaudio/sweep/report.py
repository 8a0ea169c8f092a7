"""A sweep as text and as a page."""

from __future__ import annotations

from collections.abc import Iterator

from edgeaudio.html_page import Command, Figure, Paragraph, Section, Table, render_page
from edgeaudio.parity.statistics import TaskResult
from edgeaudio.plots import interval_plot
from edgeaudio.sweep.results import CellResult, SweepResult

ENGINES = ("litert", "onnxruntime", "numpy")
"""Columns, in the order of size and speed on a device."""
FIDELITY_COLUMNS = ("cell", "accuracy %", "95 %", "- float, points", "95 %", "same answer %", "95 %")
"""Headings of the table of what quantization changes."""
COST_COLUMNS = ("cell", *(f"kB {engine}" for engine in ENGINES), *(f"us/step {engine}" for engine in ENGINES))
"""Headings of the table of what a device pays."""
FIDELITY_CAPTION = (
    "Against the float network on the same hearings. A cell is method-calibration-path-recovery; intervals are 95 %, "
    "bootstrapped by speaker."
)
COST_CAPTION = (
    "Kilobytes of what each engine reads, median microseconds of one network step, all programs timed in the same "
    "rounds. An engine that cannot run a method has no figure."
)


def render_text(result: SweepResult) -> str:
    """Both tables for people, the float network above, the command below."""
    done, refused = _done(result), _refused(result)
    lines = [*_head(result), ""]
    if done:
        lines += [*_aligned(FIDELITY_COLUMNS, [_fidelity(result, row) for row in done]), ""]
        lines += [*_aligned(COST_COLUMNS, [_cost(result, row) for row in done]), ""]
    lines += [f"{name}: not made: {reason}" for name, reason in refused]
    return "\n".join([*lines, *_foot(result), f"again: {result.command}"])


def render_html(result: SweepResult) -> str:
    """Self-contained page: the tables, and the loss of each cell with its interval."""
    done, refused, again = _done(result), _refused(result), Command(text=result.command)
    head = tuple(Paragraph(text=line) for line in (*_head(result), *_foot(result)))
    sections = [Section(title="What was compared", parts=(*head, again))]
    if done:
        fidelity = Table(
            columns=FIDELITY_COLUMNS, rows=tuple(_fidelity(result, row) for row in done), caption=FIDELITY_CAPTION
        )
        cost = Table(columns=COST_COLUMNS, rows=tuple(_cost(result, row) for row in done), caption=COST_CAPTION)
        sections.append(Section(title="What it changes", parts=(fidelity, _plot(done), again)))
        sections.append(Section(title="What it costs", parts=(cost, again)))
    if refused:
        table = Table(columns=("cell", "reason"), rows=refused, caption="Cells that a path refused.")
        sections.append(Section(title="What was not made", parts=(table, again)))
    return render_page(f"Quantization of {result.checkpoint}", sections)


def _done(result: SweepResult) -> list[CellResult]:
    return [row for row in result.cells if row.task is not None]


def _refused(result: SweepResult) -> tuple[tuple[str, str], ...]:
    return tuple((row.cell.name, row.refused) for row in result.cells if row.refused is not None)


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
    spoken = next((row.task_without_silence for row in result.cells if row.task_without_silence is not None), None)
    if spoken is not None:
        figures = f"{_percent(spoken.reference)} %, 95 % by speaker {_interval(spoken.reference_ci95)}"
        yield f"float without _silence_: {figures}, {spoken.n} clips; sweep.json has every cell so"


def _foot(result: SweepResult) -> Iterator[str]:
    if result.chosen:
        names = ", ".join(result.chosen.values())
        yield f"chosen on {result.chosen_on}, for each method the most faithful to float (*): {names}"
    elif result.split == "test":
        yield "nothing was chosen: a test split is for reporting; sweep the validation split into the same output first"


def _name(result: SweepResult, row: CellResult) -> str:
    return f"{row.cell.name}*" if row.cell.name in result.chosen.values() else row.cell.name


def _fidelity(result: SweepResult, row: CellResult) -> tuple[str, ...]:
    task = row.task
    assert task is not None
    return (
        _name(result, row),
        _percent(task.candidate),
        _interval(task.candidate_ci95),
        f"{100 * task.delta:+.2f}",
        _interval(task.ci95, sign="+"),
        _percent(task.agreement),
        _interval(task.agreement_ci95),
    )


def _cost(result: SweepResult, row: CellResult) -> tuple[str, ...]:
    sizes, times = row.bytes_by_engine, row.us_per_step
    return (
        _name(result, row),
        *(f"{sizes[engine] / 1000:.1f}" if engine in sizes else "-" for engine in ENGINES),
        *(f"{times[engine]:.1f}" if engine in times else "-" for engine in ENGINES),
    )


def _plot(done: list[CellResult]) -> Figure:
    tasks = [row.task for row in done if row.task is not None]
    svg = interval_plot(
        [row.cell.name for row in done],
        [100 * task.delta for task in tasks],
        [(100 * task.ci95[0], 100 * task.ci95[1]) for task in tasks],
        x_label="accuracy against float (points)",
    )
    return Figure(svg=svg, caption="Accuracy of each cell minus that of the float network, with 95 % intervals.")


def _aligned(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *cells))


def _any_task(result: SweepResult) -> TaskResult | None:
    return next((row.task for row in result.cells if row.task is not None), None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _interval(ends: tuple[float, float], sign: str = "") -> str:
    return f"{100 * ends[0]:{sign}.2f} to {100 * ends[1]:{sign}.2f}"
