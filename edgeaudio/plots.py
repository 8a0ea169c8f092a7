"""Plots as inline SVG: the same arguments give the same text; matplotlib is needed only when one is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, HEIGHT_INCHES = 7.2, 3.6
"""Size of a plot: the width of the text on A4."""

_MARKERS = "osD^vXP*"
_STYLE: dict[str, Any] = {
    # Without a fixed salt and identifiers the clip paths of an SVG are named at random.
    "svg.hashsalt": "edgeaudio",
    # Text stays text: it can be searched, read aloud, and needs no glyphs of its own.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    # Names of layers are text, whatever signs they hold.
    "text.parse_math": False,
}
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito: told apart with every common colour blindness."""
_LIGHT = 5
"""The colour that is far from the first in grey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a plot."""

    name: str
    """In the legend."""
    x: Sequence[float]
    """Abscissae."""
    y: Sequence[float]
    """Ordinates, as many."""
    style: str = "-"
    """A line style of matplotlib: "-", "--", ":", or "" for points alone."""
    points: bool = False
    """Whether each value gets a marker."""
    color: int | None = None
    """Which of the colours, counted from 0, for lines that belong together; None takes the next."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise SpecError(f"series {self.name!r} has {len(self.x)} x and {len(self.y)} y; give one y for each x")


def line_plot(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    height: float = HEIGHT_INCHES,
) -> str:
    """Lines over a common axis, with a legend where there is more than one.

    Args:
        series: Lines, drawn in order.
        x_label: With its unit.
        y_label: With its unit.
        title: Above the plot; empty for none.
        log_x: Logarithmic abscissa.
        log_y: Logarithmic ordinate.
        height: In inches.

    Returns:
        An ``<svg>`` element.
    """

    def draw(axes: Axes) -> None:
        for index, one in enumerate(series):
            kind = index if one.color is None else one.color
            marker = _MARKERS[kind % len(_MARKERS)] if one.points or not one.style else ""
            color = f"C{kind}"
            size = 3.5 if one.style else 6.0
            style: Any = {"linestyle": one.style or "none", "linewidth": 1.4, "marker": marker, "markersize": size}
            axes.plot(one.x, one.y, color=color, label=one.name, **style)
        if log_x:
            _make_log(axes, "x")
        if log_y:
            _make_log(axes, "y")
        _legend(axes, len(series))

    return _drawn(draw, x_label=x_label, y_label=y_label, title=title, height=height)


def histogram_plot(
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    x_label: str,
    y_label: str = "count",
    title: str = "",
    markers: Mapping[str, Sequence[float]] | None = None,
    log_y: bool = False,
) -> str:
    """A histogram with vertical lines, for instance at the ends of a clip range.

    Args:
        edges: Ascending bin edges, one more than counts.
        counts: Height of each bin, in counts or density.
        x_label: With its unit.
        y_label: With its unit.
        title: Above the plot; empty for none.
        markers: Positions of vertical lines by legend name.
        log_y: Logarithmic ordinate; empty bins are left out.

    Returns:
        An ``<svg>`` element.

    Raises:
        SpecError: There is not one more edge than there are counts.
    """
    if len(edges) != len(counts) + 1:
        raise SpecError(f"edges has {len(edges)} values and counts {len(counts)}; give one more edge than counts")
    lines = dict(markers or {})

    def draw(axes: Axes) -> None:
        # The baseline is fixed by hand: on a logarithmic axis there is no zero to stand on.
        heights = np.asarray(counts, float)
        positive = heights[heights > 0]
        base = float(positive.min()) / 2 if log_y and positive.size else 0.0
        if log_y:
            _make_log(axes, "y")
        axes.stairs(np.maximum(heights, base), edges, baseline=base, fill=True, color="#9cc4e0", edgecolor="none")
        for index, (name, positions) in enumerate(lines.items()):
            for number, position in enumerate(positions):
                label = name if number == 0 else None
                axes.axvline(position, color=f"C{index + 1}", linewidth=1.2, linestyle="--", label=label)
        _legend(axes, 2 if lines else 1)

    return _drawn(draw, x_label=x_label, y_label=y_label, title=title)


def bar_plot(
    labels: Sequence[str],
    groups: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    title: str = "",
    log_x: bool = False,
) -> str:
    """Horizontal bars, the first label on top; several groups stand side by side.

    Args:
        labels: One a bar; long names, as those of layers, have room.
        groups: Lengths by legend name, one for each label.
        x_label: With its unit.
        title: Above the plot; empty for none.
        log_x: Logarithmic lengths.

    Returns:
        An ``<svg>`` element, as high as its bars need.

    Raises:
        SpecError: A group has not one value for each label.
    """
    for name, values in groups.items():
        if len(values) != len(labels):
            raise SpecError(f"group {name!r} has {len(values)} values for {len(labels)} labels; give one for each")

    def draw(axes: Axes) -> None:
        positions = np.arange(len(labels), dtype=float)
        thickness = 0.8 / max(1, len(groups))
        for index, (name, values) in enumerate(groups.items()):
            shift = (index - (len(groups) - 1) / 2) * thickness
            # Two groups are a dark and a light one, told apart in grey print too.
            color = f"C{_LIGHT if len(groups) == 2 and index else index}"
            axes.barh(positions + shift, values, height=thickness, label=name, color=color)
        axes.set_yticks(positions, labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        if log_x:
            _make_log(axes, "x")
        _legend(axes, len(groups))

    height = 0.9 + len(labels) * max(0.2, 0.12 * len(groups))
    return _drawn(draw, x_label=x_label, y_label="", title=title, height=height)


def interval_plot(
    labels: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    x_label: str,
    title: str = "",
) -> str:
    """Points with their intervals, the first label on top, and a line at 0 to compare them with.

    Args:
        labels: One a point.
        values: Of the points.
        intervals: Lower and upper end, one pair a point.
        x_label: With its unit.
        title: Above the plot; empty for none.

    Returns:
        An ``<svg>`` element, as high as its points need.

    Raises:
        SpecError: There is not one value and one interval for each label.
    """
    if not len(labels) == len(values) == len(intervals):
        counts = f"{len(values)} values and {len(intervals)} intervals"
        raise SpecError(f"{counts} for {len(labels)} labels; give one of each for each label")

    def draw(axes: Axes) -> None:
        positions = np.arange(len(labels), dtype=float)
        for position, (low, high) in zip(positions, intervals, strict=True):
            axes.plot([low, high], [position, position], color="C0", linewidth=1.4)
        axes.plot(list(values), positions, linestyle="", marker="o", markersize=4, color="C0")
        axes.axvline(0.0, color="#8a8a8a", linewidth=1.0, linestyle="--")
        axes.set_yticks(positions, labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")

    return _drawn(draw, x_label=x_label, y_label="", title=title, height=0.9 + 0.2 * len(labels))


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """One matrix of counts; its numbers stand in the cells, so that nothing depends on the colours."""

    title: str
    """Above it."""
    counts: Sequence[Sequence[int]]
    """Rows from the top, as many columns in each as there are rows."""
    signed: bool = False
    """Whether the numbers are differences: written with their sign."""

    def __post_init__(self) -> None:
        if not self.counts or any(len(row) != len(self.counts) for row in self.counts):
            lengths = [len(row) for row in self.counts]
            raise SpecError(f"heat map {self.title!r} has {len(lengths)} rows of {lengths} counts; give a square")


def heat_map_plot(maps: Sequence[HeatMap], labels: Sequence[str], *, x_label: str, y_label: str) -> str:
    """Square matrices of counts, two beside each other; zeros are left empty.

    Args:
        maps: Drawn in order, all of one size.
        labels: Of rows and of columns.
        x_label: What the columns are.
        y_label: What the rows are.

    Returns:
        An ``<svg>`` element.

    Raises:
        SpecError: A matrix has not one row for each label.
    """
    for each in maps:
        if len(each.counts) != len(labels):
            raise SpecError(f"heat map {each.title!r} has {len(each.counts)} rows for {len(labels)} labels")
    n_rows = -(-len(maps) // 2)

    def draw(figure: Figure) -> None:
        places: Any = figure.subplots(n_rows, 2, squeeze=False)
        for axes, each in zip(places.flat, maps, strict=False):
            _heat_map(axes, each, labels)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
        for axes in places.flat[len(maps) :]:
            axes.set_visible(False)

    return _svg(draw, height=n_rows * (0.9 + min(2.4, 0.5 * len(labels))))


def _heat_map(axes: Axes, heat_map: HeatMap, labels: Sequence[str]) -> None:
    counts, places = np.asarray(heat_map.counts), np.arange(len(labels))
    size = 7.0 if len(labels) > 6 else 8.0
    shares = np.abs(counts) / np.maximum(np.abs(counts).sum(axis=1, keepdims=True), 1)
    # A mesh stays lines; an image would be embedded as pixels.
    edges = np.arange(len(labels) + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, cmap="Greys", vmin=0.0, vmax=1.3, edgecolors="#d8d8d8", linewidth=0.4)
    for row, column in np.argwhere(counts != 0):
        text = f"{counts[row, column]:+d}" if heat_map.signed else f"{counts[row, column]}"
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    axes.set_xticks(places, labels, rotation=90, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_title(heat_map.title, loc="left", fontsize=9)


def _drawn(
    draw: Callable[[Axes], None], *, x_label: str, y_label: str, title: str, height: float = HEIGHT_INCHES
) -> str:
    def one(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if title:
            axes.set_title(title, loc="left", fontsize=10)

    return _svg(one, height=height)


def _svg(draw: Callable[[Figure], None], *, height: float) -> str:
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    buffer = io.StringIO()
    look: Any = {**_STYLE, "axes.prop_cycle": cycler(color=_COLORS)}
    # Beginning with the defaults keeps a user's own matplotlibrc out of reports.
    with style.context(("default", look)):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        canvas: Any = FigureCanvasSVG(figure)
        draw(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _legend(axes: Axes, n_series: int) -> None:
    if n_series > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def _make_log(axes: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    # The formatter of matplotlib writes formulas, which are off here.
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _inline(text: str) -> str:
    """The element alone, with no identifier that another plot on the same page could have."""
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :].strip(), flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", element))
    prefix = sha256(element.encode()).hexdigest()[:12]
    element = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", element)
