"""``edgeaudio diagnose --output``: the tables of the text as a page, with plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeaudio.diagnosis_report import (
    Listing,
    coverage_listing,
    headline,
    layer_listing,
    precision_listing,
    saturation_advice,
    saturation_listing,
    suggestions,
    weight_listing,
)
from edgeaudio.html_page import Command, Figure, Lines, Paragraph, Part, Section, Table, render_page
from edgeaudio.plots import bar_plot, histogram_plot

if TYPE_CHECKING:
    from edgeaudio.diagnosing import DiagnosedNetwork
    from edgeaudio_export.diagnosis.activations import TensorReport
    from edgeaudio_export.diagnosis.weights import WeightReport

PLOTTED_LAYERS = 6
"""Worst layers whose histograms are drawn."""
PLOTTED_BINS = 96
"""Bins of a drawn histogram, at most: more are thinner than a line."""


def render_diagnosis(found: DiagnosedNetwork) -> str:
    """HTML; the same diagnosis gives the same bytes."""
    again = Command(text=found.command)
    made, cost = headline(found)
    sections = [
        Section(title="In short", parts=(Paragraph(text=f"{made}; {cost}."), *_remedies(found), again)),
        _section(layer_listing(found), again, *_layer_plots(found)),
        Section(title="Values and ranges of the worst layers", parts=(*_activation_plots(found), again)),
        _section(weight_listing(found), again, *_weight_plots(found)),
        _section(saturation_listing(found), again, Paragraph(text=saturation_advice(found))),
        _section(precision_listing(found), again),
        _section(coverage_listing(found), again, *(Paragraph(text=line) for line in found.coverage.summary())),
    ]
    return render_page(f"Diagnosis of {found.name}", sections)


def _section(listing: Listing, again: Command, *others: Part) -> Section:
    return Section(title=listing.title, parts=(_table(listing), *others, again))


def _table(listing: Listing) -> Table:
    """The name comes first on the page, last in a terminal."""
    columns = (listing.columns[-1], *listing.columns[:-1])
    return Table(
        columns=columns,
        rows=tuple((row[-1], *row[:-1]) for row in listing.rows),
        caption=f"{listing.caption[0].upper()}{listing.caption[1:]}.",
    )


def _remedies(found: DiagnosedNetwork) -> Iterator[Part]:
    suggested = suggestions(found)
    if not suggested:
        yield Paragraph(text="No layer stands out; there is nothing to try.")
        return
    for number, (text, toml) in enumerate(suggested, start=1):
        yield Paragraph(text=f"{number}. {text}")
        yield Lines(text=toml)


def _layer_plots(found: DiagnosedNetwork) -> Iterator[Part]:
    layers = found.diagnosis.layers
    names = [layer.name for layer in layers]
    yield Figure(
        svg=bar_plot(names, {"share": [100 * layer.noise_share for layer in layers]}, x_label="share of the error, %"),
        caption="Share of the squared error at the logits that each layer causes when it alone is quantized.",
    )
    causes = list(layers[0].tensor.causes) if layers else []
    stacked = {cause: [100 * layer.tensor.causes[cause] for layer in layers] for cause in causes}
    yield Figure(
        svg=bar_plot(names, stacked, x_label="share of the layer's own error, %"),
        caption="What the error of each layer is made of, given true float inputs: int8 weights, codes instead of real "
        "inputs, values beyond the range of its output, steps between the codes of its output.",
    )


def _activation_plots(found: DiagnosedNetwork) -> Iterator[Part]:
    yield Paragraph(
        text="Values of the float network on the clips looked at; dashed lines are the ends of the range that the "
        "codes cover. A range far wider than the values wastes codes, a narrower one clips."
    )
    for layer in found.diagnosis.layers[:PLOTTED_LAYERS]:
        yield _activation_plot(layer.name, layer.tensor)


def _activation_plot(name: str, tensor: TensorReport) -> Figure:
    first = min(center for center, _ in tensor.histogram) - tensor.bin_width / 2
    last = max(center for center, _ in tensor.histogram) + tensor.bin_width / 2
    edges = np.linspace(first, last, PLOTTED_BINS + 1)
    counts, _ = np.histogram(
        [center for center, _ in tensor.histogram], bins=edges, weights=[count for _, count in tensor.histogram]
    )
    return Figure(
        svg=_histogram(
            edges.tolist(), counts.tolist(), _ends(tensor.clip_low, tensor.clip_high), "value of the output"
        ),
        caption=f"{name}: {tensor.saturated_share:.3%} of the values lie beyond the range, "
        f"{tensor.unused_code_share:.0%} of the codes are idle.",
    )


def _weight_plots(found: DiagnosedNetwork) -> Iterator[Part]:
    for layer in found.diagnosis.layers[:PLOTTED_LAYERS]:
        if layer.weight is not None and layer.weight.sqnr_db is not None:
            yield _weight_plot(layer.weight)


def _weight_plot(weight: WeightReport) -> Figure:
    ends = _ends(None if weight.clip is None else -weight.clip, weight.clip)
    return Figure(
        svg=_histogram(weight.edges, weight.counts, ends, "weight"),
        caption=f"{weight.layer}: weights, batch norms folded; dashed lines are the range of the widest channel.",
    )


def _histogram(
    edges: Sequence[float], counts: Sequence[float], ends: dict[str, tuple[float, float]], x_label: str
) -> str:
    return histogram_plot(edges, counts, x_label=x_label, markers=ends, log_y=True)


def _ends(low: float | None, high: float | None) -> dict[str, tuple[float, float]]:
    return {} if low is None or high is None else {"range": (low, high)}
