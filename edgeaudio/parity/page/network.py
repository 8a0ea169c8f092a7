"""Inside the network: scores over a few clips, and the error of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeaudio.html_page import Figure, Paragraph, Section
from edgeaudio.plots import Series, bar_plot, line_plot

CURVE_INCHES = 2.6
"""Height of a clip's scores: three of them stand on a printed page."""
_DASHES = {"float": "--", "int8": "-"}


def curve_sections(curves: Sequence[Mapping[str, Any]] | None) -> Iterator[Section]:
    """Smoothed probabilities of each chosen clip against its threshold."""
    if not curves:
        return
    about = (
        "What the detector compares with its threshold as a clip is heard: the smoothed probability of the label that "
        "is said and of the others that score most, solid in int8 and dashed in float, which often lies under it. "
        "Events are marked when they are reported."
    )
    figures = (Figure(svg=_curve_svg(curve), caption=_curve_caption(curve)) for curve in curves)
    yield Section(title="Scores over a clip", parts=(Paragraph(text=about), *figures))


def _curve_svg(curve: Mapping[str, Any]) -> str:
    seconds = curve["seconds"]
    lines = [
        Series(name=f"{side}: {label}", x=seconds, y=scores, style=dashes, color=number, points=number > 0)
        for side, dashes in _DASHES.items()
        if curve[side] is not None
        for number, (label, scores) in enumerate(curve[side].items())
    ]
    ends = [seconds[0], seconds[-1]]
    lines.append(Series(name="threshold", x=ends, y=[curve["threshold"]] * 2, style=":", color=6))
    lines += [
        Series(name=f"{side}: event", x=[e["at_s"] for e in found], y=[e["score"] for e in found], style="", color=kind)
        for side, kind in (("float", 5), ("int8", 6))
        if (found := [event for event in curve["events"] if event["side"] == side])
    ]
    return line_plot(lines, x_label="seconds", y_label="smoothed probability", height=CURVE_INCHES)


def _curve_caption(curve: Mapping[str, Any]) -> str:
    said = {
        side: ", ".join(f"{e['label']} at {e['at_s']:.2f} s" for e in curve["events"] if e["side"] == side)
        for side in _DASHES
        if curve[side] is not None
    }
    events = "; ".join(f"{side} reports {found or 'nothing'}" for side, found in said.items())
    return f"Clip {curve['clip']}, \u201c{curve['label']}\u201d, {curve['chosen']}: {events}."


def layer_sections(layers: Sequence[Mapping[str, Any]] | None) -> Iterator[Section]:
    """Signal to error of each layer."""
    if not layers:
        return
    compared = [layer for layer in layers if layer["sqnr_db"] is not None]
    exact = len(layers) - len(compared)
    caption = (
        "Signal to error of each layer's output, in running order, all before it in codes too; the reference has "
        "the same weights and real activations. Longer is better: 6 dB are one bit."
    )
    if exact:
        caption += f" Layers without any error, which are left out: {exact}."
    names = [f"{layer['name']} ({layer['kind']})" for layer in compared]
    svg = bar_plot(names, {"SQNR": [layer["sqnr_db"] for layer in compared]}, x_label="signal to error, dB")
    yield Section(title="Error by layer", parts=(Figure(svg=svg, caption=caption),))
