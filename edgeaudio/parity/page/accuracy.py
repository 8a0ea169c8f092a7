"""What the task says: accuracy or word errors with intervals, label by label, confusions, and where it is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeaudio.html_page import Figure, Part, Section, Table
from edgeaudio.plots import HeatMap, heat_map_plot


def accuracy_sections(task: Mapping[str, Any] | None) -> Iterator[Section]:
    """The metric with its intervals; the labels; who was taken for whom."""
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
    parts: list[Part] = [Table(columns=(metric, "", "95 % interval"), rows=tuple(rows), caption=f"On {about}.")]
    if task.get("by_label"):
        parts.append(_by_label(task["by_label"]))
    yield Section(title=metric.capitalize(), parts=tuple(parts))
    if task.get("confusion"):
        yield Section(title="Confusions", parts=(confusion_figure(task["confusion"]),))


def confusion_figure(confusion: Mapping[str, Any]) -> Figure:
    """The matrices of float and int8, and what int8 counts more or less; of int8 alone where there is no float."""
    labels, int8 = confusion["labels"], confusion["int8"]
    maps = [HeatMap(title="int8", counts=int8)]
    caption = "Clips by right label and answer; darker is a larger share of the label."
    if confusion["float"] is not None:
        more = (np.asarray(int8) - np.asarray(confusion["float"])).tolist()
        difference = HeatMap(title="int8 - float", counts=more, signed=True)
        maps = [HeatMap(title="float", counts=confusion["float"]), *maps, difference]
        caption += " Below, how many more or fewer int8 has; an empty matrix is no difference."
    return Figure(svg=heat_map_plot(maps, labels, x_label="answer", y_label="right label"), caption=caption, tall=True)


def blame_sections(parts: Sequence[Mapping[str, Any]] | None) -> Iterator[Section]:
    """What each part of the pipeline costs."""
    if not parts:
        return
    rows = tuple(
        (
            part["name"], part["swapped"], f"{part['before']:.2%}", f"{part['after']:.2%}",
            f"{100 * part['loss']:+.2f}", f"{0.0 - 100 * part['ci95'][1]:+.2f} to {0.0 - 100 * part['ci95'][0]:+.2f}",
            "; ".join([part["verdict"], *part.get("evidence", [])]),
        )
        for part in parts
    )  # fmt: skip
    columns = ("part", "swapped", "before", "after", "lost, points", "95 % by speaker", "verdict")
    caption = "The same clips with one part of the pipeline swapped at a time, from the trained network to the device."
    yield Section(title="Where it is lost", parts=(Table(columns=columns, rows=rows, caption=caption),))


def _by_label(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    cells = tuple((label, f"{row['n']}", _share(row["float"]), _share(row["int8"])) for label, row in rows.items())
    return Table(columns=("label", "clips", "float", "int8"), rows=cells, caption="Share that is right, by label.")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(ends: Any) -> str:
    return f"{ends[0]:.2%} to {ends[1]:.2%}"
