"""``edgeaudio theory --output``: the same numbers as a page with plots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeaudio.html_page import Command, Figure, Paragraph, Part, Section, Table, render_page
from edgeaudio.plots import Series, bar_plot, histogram_plot, line_plot
from edgeaudio.theory_report import (
    CLIP_COLUMNS,
    GAUSSIAN_COLUMNS,
    UNIFORM_COLUMNS,
    WEIGHT_COLUMNS,
    Theory,
    clip_rows,
    gaussian_rows,
    measured_widths,
    uniform_rows,
    weight_rows,
)
from edgeaudio_export.theory.codebooks import codebook_mse, symmetric_levels
from edgeaudio_export.theory.densities import Gaussian
from edgeaudio_export.theory.limits import granular_mse
from edgeaudio_export.theory.weights import WeightLoss

_CURVE_BITS = (2, 4, 6, 8)
_CLIPS = np.linspace(0.8, 6.0, 53)


def render_theory(theory: Theory) -> str:
    """HTML; the same checkpoint gives the same bytes."""
    lines = Command(text="edgeaudio theory")
    sections = [
        Section(title="The lines: a Gaussian source", parts=(*_gaussian(theory), lines)),
        Section(title="step²/12, and where it ends", parts=(*_granular(theory), lines)),
        Section(title="Two formulas that are often misread", parts=(*_misread(theory), lines)),
    ]
    again = Command(text=theory.command)
    for bits in measured_widths(theory):
        sections.append(Section(title=f"Weights at {bits} bits", parts=(*_weights(theory, bits), again)))
    if theory.weights:
        figures = tuple(_distribution(loss) for loss in theory.weights)
        sections.append(Section(title="Distributions of the weights", parts=(*_distributions(theory), *figures, again)))
    name = "" if theory.checkpoint is None else f": {theory.checkpoint}"
    return render_page(f"Quantization, theory and weights{name}", sections)


def _gaussian(theory: Theory) -> Iterator[Part]:
    bits = [line.bits for line in theory.gaussian]
    yield Paragraph(
        text="SQNR is the power of the source over the mean square error, in dB. The symmetric quantizer has the "
        "codes of this project's weights, -(2^(b-1)-1) to 2^(b-1)-1; its clip, the largest level, is the one "
        "of least error, found numerically from the closed integral of the error over every cell. Lloyd-Max "
        "levels need not be evenly spaced. The bound, 6.02 dB a bit, is the rate-distortion function: no "
        "code does better, however long its blocks."
    )
    yield Figure(
        svg=line_plot(
            [
                Series(name="bound, 6.02 b", x=bits, y=[x.bound for x in theory.gaussian], style="--"),
                Series(name="Lloyd-Max", x=bits, y=[x.lloyd_max for x in theory.gaussian], points=True),
                Series(name="uniform, best clip", x=bits, y=[x.sqnr for x in theory.gaussian], points=True),
            ],
            x_label="bits",
            y_label="SQNR / dB",
        ),
        caption="A Gaussian source: what uniform and Lloyd-Max quantizers leave, and the bound.",
    )
    yield Table(
        columns=GAUSSIAN_COLUMNS,
        rows=gaussian_rows(theory),
        caption="A Gaussian source. The last column is the share of the error that step²/12 accounts for.",
    )


def _granular(theory: Theory) -> Iterator[Part]:
    shares = {line.bits: line.granular_share for line in theory.gaussian}
    yield Paragraph(
        text="step²/12 is the error of values that lie evenly in their cell. It knows nothing of values beyond "
        f"the clip: at the best clip of a Gaussian it accounts for {shares[4]:.0%} of the error at 4 bits and "
        f"{shares[8]:.0%} at 8, nearly all the rest is overload. Left of the minimum overload rules, right of "
        "it the step; at 2 bits and a wide clip the steps are wider than the source and the formula ends as "
        "well, since the error cannot exceed the source."
    )
    series = []
    for color, bits in enumerate(_CURVE_BITS):
        steps = _CLIPS / (2 ** (bits - 1) - 1)
        exact = [codebook_mse(Gaussian(), symmetric_levels(bits, float(step))) for step in steps]
        series.append(Series(name=f"error, {bits} bits", x=list(_CLIPS), y=exact, color=color))
        granular = [granular_mse(float(step)) for step in steps]
        series.append(Series(name=f"step²/12, {bits} bits", x=list(_CLIPS), y=granular, style=":", color=color))
    yield Figure(
        svg=line_plot(series, x_label="clip / sigma", y_label="mean square error / sigma²", log_y=True),
        caption="Error of the symmetric quantizer on a Gaussian over its clip, and step²/12.",
    )


def _misread(theory: Theory) -> Iterator[Part]:
    yield Paragraph(
        text="SQNR = 6.02 b + 4.77 - 20 log10(alpha / sigma) dB, alpha the clip. A uniform source over the whole "
        "range has alpha = sqrt(3) sigma, whose logarithm takes the 4.77 away: 6.02 b dB, not 4.77 more. The "
        "exact column is the integral of the error, without the formula."
    )
    yield Table(
        columns=UNIFORM_COLUMNS,
        rows=uniform_rows(theory),
        caption="A uniform source over the whole range of 2^b mid-rise levels.",
    )
    yield Paragraph(
        text="The best clip of a Gaussian has no closed form. 2 sqrt(ln N) = sqrt(4 b ln 2) sigma is the first "
        "term of its law for endlessly many levels; printed as the clip it costs about 1 dB at the widths in "
        "use. Least step²/12 plus overload, the usual model, comes close from 4 bits on. All three are "
        "judged by the exact error of N = 2^b mid-rise levels, whose best step Max tabulated in 1960."
    )
    yield Table(
        columns=CLIP_COLUMNS,
        rows=clip_rows(theory),
        caption="Clips in sigma, each with the SQNR in dB that it gives on a Gaussian.",
    )


def _weights(theory: Theory, bits: int) -> Iterator[Part]:
    line = next(x for x in theory.gaussian if x.bits == bits)
    yield Paragraph(
        text=f"At {bits} bits a Gaussian of one scale gets {line.sqnr:.2f} dB with its best clip, "
        f"{line.lloyd_max:.2f} dB with Lloyd-Max levels and {line.bound:.2f} dB at most. Per tensor, best "
        "clip and per channel are measured on the weights, batch norms folded. Lloyd-Max and the bound are "
        "those of the measured density of the whole tensor; a scale for each channel knows more than this "
        "density says and may do better than they."
    )
    rows = [next(w for w in loss.widths if w.bits == bits) for loss in theory.weights]
    groups = {
        "per tensor": [w.per_tensor or 0.0 for w in rows],
        "best clip": [w.best_clip or 0.0 for w in rows],
        "per channel": [w.per_channel or 0.0 for w in rows],
        "Lloyd-Max": [w.lloyd_max for w in rows],
        "bound": [w.bound for w in rows],
    }
    yield Figure(
        svg=bar_plot([loss.name for loss in theory.weights], groups, x_label="SQNR / dB"),
        caption=f"SQNR of every weight tensor at {bits} bits; one held exactly has no bar.",
    )
    yield Table(columns=WEIGHT_COLUMNS, rows=weight_rows(theory, bits), caption=f"SQNR in dB at {bits} bits.")


def _distributions(theory: Theory) -> Iterator[Part]:
    yield Paragraph(
        text="Share of the weights of a layer in each bin, on a logarithmic axis, with the clip of least error of "
        "one scale for the whole tensor. Where the clip of 4 bits lies far inside, few large weights set the "
        "scale of all."
    )
    if theory.constant:
        yield Paragraph(text=f"Constant, held exactly at every width: {', '.join(theory.constant)}.")


def _distribution(loss: WeightLoss) -> Figure:
    markers = {f"clip, {w.bits} bits": (-w.clip, w.clip) for w in loss.widths}
    return Figure(
        svg=histogram_plot(
            list(loss.density.edges),
            list(loss.density.masses),
            x_label="weight",
            y_label="share",
            title=loss.name,
            markers=markers,
            log_y=True,
        ),
        caption=f"{loss.name}: {np.prod(loss.shape):,} weights, the largest {loss.loading:.2f} times their rms.",
    )
