"""Misses and false accepts in streams: with the bundle's own settings, and threshold by threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeaudio.html_page import Figure, Paragraph, Section, Table
from edgeaudio.plots import Series, line_plot

_SIDES = ("float", "int8")


def stream_sections(streams: Mapping[str, Any] | None) -> Iterator[Section]:
    """One section, where recordings were given."""
    if not streams:
        return
    parts: list[Paragraph | Table | Figure] = [_outcomes(streams)]
    parts += [Paragraph(text=line) for line in _differences(streams["difference"])]
    if any(streams["latency_s"].values()):
        parts.append(_latency(streams["latency_s"]))
    if streams["hours_needed"]:
        needed = "; ".join(f"{rate} an hour: {hours:.1f} h" for rate, hours in streams["hours_needed"].items())
        parts.append(
            Paragraph(text=f"Hours without an event after which fewer false accepts may be claimed: {needed}.")
        )
    curves = det_curves(streams["det"])
    if curves:
        parts.append(_det(curves, streams["hours"]))
    yield Section(title="Streams", parts=tuple(parts))


def _outcomes(streams: Mapping[str, Any]) -> Table:
    sides = [side for side in _SIDES if streams[side] is not None]
    rows = tuple(
        (
            side, _of(outcome["misses"], outcome["positives"]), _share(outcome["miss_rate"]),
            _ends(outcome["miss_rate_ci95"], "{:.1%}"), str(outcome["false_accepts"]),
            _number(outcome["false_accepts_an_hour"]), _ends(outcome["false_accepts_an_hour_ci95"], "{:.2f}"),
            _number(outcome["claimable_an_hour"]),
        )
        for side in sides
        for outcome in [streams[side]]
    )  # fmt: skip
    columns = ("", "missed", "miss rate", "95 %", "false accepts", "an hour", "95 %", "claimable, below")
    caption = (
        f"With the bundle's own settings (threshold {streams['threshold']:g}) on {streams['hours']:.2f} hours without "
        "a keyword, events counted as the runtime reports them. Intervals are exact: Clopper and Pearson, Poisson."
    )
    return Table(columns=columns, rows=rows, caption=caption)


def _differences(difference: Mapping[str, Any] | None) -> Iterator[str]:
    """What int8 adds, each with its verdict."""
    missed, accepted = ((difference or {}).get(name) for name in ("misses", "false_accepts"))
    if missed:
        low, high = (100 * end for end in missed["ci95"])
        yield (
            f"Miss rate, int8 - float: {100 * missed['delta']:+.2f} points (95 %: {low:+.2f} to {high:+.2f}), "
            f"budget {100 * missed['budget']:g} points: {missed['verdict']}."
        )
    if accepted:
        low, high = accepted["ratio_ci95"]
        ends = f"{0.0 if low is None else low:.2f} to {'any number' if high is None else f'{high:.2f}'}"
        rise = f"a rise of {accepted['budget']:.0%} is accepted"
        yield f"False accepts, int8 over float: 95 % of the ratio {ends}, {rise}: {accepted['verdict']}."


def _latency(latency: Mapping[str, Any]) -> Table:
    rows = tuple(
        (side, str(found["n"]), *(f"{found[p]:+.2f}" for p in ("p50", "p90", "p95", "p99")))
        for side in _SIDES
        if (found := latency[side])
    )
    caption = "Seconds from the end of the sound of a keyword, by energy, to its event; below 0 is before that end."
    return Table(columns=("latency", "events", "p50", "p90", "p95", "p99"), rows=rows, caption=caption)


def det_curves(points: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """By side, (false accepts an hour, miss rate) for each threshold, where both were measured."""
    found = {
        side: [
            (point[side]["false_accepts_an_hour"], point[side]["miss_rate"])
            for point in points
            if point[side] is not None
            and point[side]["false_accepts_an_hour"] is not None
            and point[side]["miss_rate"] is not None
        ]
        for side in _SIDES
    }
    return {side: curve for side, curve in found.items() if curve}


def _det(curves: Mapping[str, Sequence[tuple[float, float]]], hours: float) -> Figure:
    # A logarithmic axis has no place for 0: it stands where half an event in these hours would.
    least = 0.5 / hours
    series = [
        Series(
            name=side,
            x=[max(rate, least) for rate, _ in curve],
            y=[100 * missed for _, missed in curve],
            style="--" if side == "float" else "-",
            points=True,
        )
        for side, curve in curves.items()
    ]
    svg = line_plot(series, x_label="false accepts an hour", y_label="missed, %", log_x=True)
    caption = (
        f"Misses against false accepts, threshold by threshold, all else as it is (DET). No false accept at all stands "
        f"at {least:.2g} an hour, half an event in {hours:.2f} hours."
    )
    return Figure(svg=svg, caption=caption)


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" if total else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ends(interval: Sequence[float] | None, form: str) -> str:
    return "-" if interval is None else " to ".join(form.format(end) for end in interval)
