"""A diagnosis as tables and as text that fits 120 columns; the page shows the same tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeaudio.diagnosing import DiagnosedNetwork
    from edgeaudio_export.diagnosis.diagnosis import LayerDiagnosis

WIDTH = 120
"""Columns of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A table of the report."""

    title: str
    """Heading."""
    caption: str
    """What the columns mean."""
    columns: tuple[str, ...]
    """Headings; the last column is the name and the widest."""
    rows: tuple[tuple[str, ...], ...]
    """One cell a column."""


def headline(found: DiagnosedNetwork) -> tuple[str, str]:
    """Two sentences: how it was quantized, and what that cost at the logits."""
    made, logits, diagnosis = found.choices, found.diagnosis.logits, found.diagnosis
    decided = "last outputs" if diagnosis.last_only else "outputs"
    return (
        f"{found.name}: {made['method']} by {made['backend']}, ranges by {made['calibration']} over "
        f"{made['calibration_clips']} clips",
        f"against float on {diagnosis.clips} other clips ({decided}): {decibels(logits.sqnr_db)} dB, "
        f"KL {logits.kl_nats:.2g} nats, same decision {logits.agreement:.2%}",
    )


def layer_listing(found: DiagnosedNetwork) -> Listing:
    """Every layer, worst first."""
    return Listing(
        title="Layers, worst first",
        caption="share of the error at the logits; dB at the logits with this layer alone quantized, and with all but "
        "it; dB of its own output after everything before it was quantized too, and by its own doing; the largest "
        "cause of that; values beyond the range; codes never used",
        columns=("share", "alone", "rest", "output", "own", "cause", "beyond", "idle", "layer"),
        rows=tuple(_layer_row(layer) for layer in found.diagnosis.layers),
    )


def _layer_row(layer: LayerDiagnosis) -> tuple[str, ...]:
    tensor = layer.tensor
    cause = max(tensor.causes, key=lambda name: tensor.causes[name])
    share = tensor.causes[cause]
    return (
        f"{layer.noise_share:.1%}",
        decibels(layer.sensitivity.alone.sqnr_db),
        decibels(layer.sensitivity.rest.sqnr_db),
        decibels(tensor.sqnr_db),
        decibels(tensor.local_sqnr_db),
        f"{cause} {share:.0%}" if share else "-",
        f"{tensor.saturated_share:.3%}",
        f"{tensor.unused_code_share:.0%}",
        layer.name if tensor.dtype == "int8" else f"{layer.name} ({tensor.dtype})",
    )


def weight_listing(found: DiagnosedNetwork) -> Listing:
    """Every weight tensor, worst first."""
    weighted = [layer.weight for layer in found.diagnosis.layers if layer.weight is not None]
    ordered = sorted(weighted, key=lambda w: float("inf") if w.sqnr_db is None else w.sqnr_db)
    return Listing(
        title="Weights, worst first",
        caption="dB of the stored weight against float; largest to smallest range of an output channel; channels whose "
        "weights are all 0; scales a tensor; bytes",
        columns=("dB", "channel ratio", "dead", "scales", "bytes", "stored", "layer"),
        rows=tuple(
            (
                decibels(weight.sqnr_db),
                f"{weight.channel_ratio:.1f}",
                str(weight.dead_channels),
                "per channel" if weight.per_channel else "one",
                f"{weight.bytes:,}",
                weight.dtype,
                weight.layer,
            )
            for weight in ordered
        ),
    )


def saturation_listing(found: DiagnosedNetwork) -> Listing:
    """What CPUs without VNNI would do, most affected layer first."""
    ordered = sorted(found.diagnosis.saturation, key=lambda s: -s.changed_accumulators / max(s.accumulators, 1))
    return Listing(
        title="x86 without VNNI, ONNX Runtime",
        caption="pairs of weights whose two products can leave 16 bits, for any codes and for codes as large as those "
        "seen; sums that a simulated saturating kernel changes on the codes of these clips, and by how much at most",
        columns=("pairs", "exposed", "reachable", "sums", "changed", "largest", "layer"),
        rows=tuple(
            (
                f"{row.pairs:,}",
                f"{row.exposed_share:.1%}",
                f"{row.reachable_pairs / max(row.pairs, 1):.1%}",
                f"{row.accumulators:,}",
                f"{row.changed_accumulators / max(row.accumulators, 1):.3%}",
                f"{row.largest_change:,}",
                row.layer,
            )
            for row in ordered
        ),
    )


def saturation_advice(found: DiagnosedNetwork) -> str:
    """What to do about layers that saturation changes."""
    changed = [row.layer for row in found.diagnosis.saturation if row.changed_accumulators]
    if not changed:
        return "No sum of these clips would change on a CPU without VNNI."
    return (
        f"On x86 CPUs without VNNI (SSE4.1, AVX2, early AVX-512) ONNX Runtime would give other codes in {len(changed)} "
        f"of {len(found.diagnosis.saturation)} layers. LiteRT, numpy, ARM and CPUs with VNNI are not affected: run "
        "LiteRT there, or keep weights within -64..64 (7 bits). session.x64quantprecision is no way out: it makes "
        "weights unsigned, for which signed activations have no kernel."
    )


def precision_listing(found: DiagnosedNetwork) -> Listing:
    """In what each engine computes."""
    return Listing(
        title="Effective precision",
        caption="share of the multiply-accumulates of a step by the type they run in, read from the graph the engine "
        "executes; weights by the type they are stored in; share that LiteRT's delegate runs",
        columns=("MACs a step", "int8", "int16", "float32", "weight bytes", "stored", "delegated", "engine"),
        rows=tuple(
            (
                f"{row.macs_per_step:,}",
                *(f"{row.macs_share[p]:.1%}" for p in ("int8", "int16", "float32")),
                f"{row.weight_bytes:,}",
                ", ".join(f"{kind} {share:.0%}" for kind, share in row.bytes_share.items()),
                f"{row.delegated_macs_share:.0%}" if engine == "litert" else "-",
                engine,
            )
            for engine, row in found.diagnosis.precision.items()
        ),
    )


def coverage_listing(found: DiagnosedNetwork) -> Listing:
    """Where values leave the calibrated range, worst first."""
    return Listing(
        title="Coverage of the calibration",
        caption="share of the values beyond the range, when calibrated and under the condition; codes that calibration "
        "never used; groups and conditions with at least 0.1 %, worst first",
        columns=("calibrated", "now", "idle codes", "condition", "group"),
        rows=tuple(
            (
                f"{group.saturated_share:.3%}",
                f"{condition.saturated_share:.3%}",
                f"{group.unused_share:.0%}",
                condition.condition,
                group.name,
            )
            for group, condition in found.coverage.worst()[:MAX_COVERAGE_ROWS]
        ),
    )


MAX_COVERAGE_ROWS = 12
"""Rows of the coverage table; ``--json`` has all of them."""


def render_text(found: DiagnosedNetwork) -> str:
    """The whole diagnosis for a terminal."""
    return "\n".join(_lines(found))


def _lines(found: DiagnosedNetwork) -> Iterator[str]:
    yield from headline(found)
    yield from _section(layer_listing(found), found.command)
    yield from ("", "What to do", "")
    yield from suggestion_lines(found)
    yield from ("", f"reproduce: {found.command}")
    yield from _section(weight_listing(found), found.command)
    yield from _section(saturation_listing(found), "")
    yield from wrap(saturation_advice(found))
    yield f"reproduce: {found.command}"
    yield from _section(precision_listing(found), found.command)
    yield from _section(coverage_listing(found), "")
    yield from (line for text in found.coverage.summary() for line in wrap(text))
    yield f"reproduce: {found.command}"


def suggestion_lines(found: DiagnosedNetwork) -> Iterator[str]:
    """Every suggestion with its TOML, numbered, worst layer first."""
    suggested = suggestions(found)
    if not suggested:
        yield "Nothing: no layer stands out."
    for number, (text, toml) in enumerate(suggested, start=1):
        yield from wrap(f"{number}. {text}", indent="   ")
        yield from (f"       {line}" for line in toml.splitlines())


def suggestions(found: DiagnosedNetwork) -> list[tuple[str, str]]:
    """Sentence and TOML of each thing to try, worst layer first; layers with the same remedy stand together."""
    by_remedy: dict[str, list[LayerDiagnosis]] = {}
    for layer in found.diagnosis.layers:
        if layer.suggestion is not None:
            by_remedy.setdefault(layer.suggestion.toml, []).append(layer)
    return [(_sentence(layers), toml) for toml, layers in by_remedy.items()]


def _sentence(layers: list[LayerDiagnosis]) -> str:
    first, *others = layers
    assert first.suggestion is not None
    more = ", ".join(f"{layer.name} ({layer.noise_share:.0%})" for layer in others)
    return f"{first.name} ({first.noise_share:.0%}): {first.suggestion.text}." + (
        f" Helps as well: {more}." * bool(more)
    )


def _section(listing: Listing, command: str) -> Iterator[str]:
    yield from ("", listing.title)
    yield from wrap(listing.caption)
    yield ""
    yield from render_listing(listing)
    if command:
        yield f"reproduce: {command}"


def render_listing(listing: Listing) -> Iterator[str]:
    """Aligned columns; the last one to the left, all others to the right."""
    rows: Sequence[tuple[str, ...]] = (listing.columns, *listing.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(listing.columns))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        yield "  ".join([*cells, row[-1]])


def wrap(text: str, indent: str = "") -> list[str]:
    """Lines of at most :data:`WIDTH` columns."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def decibels(value: float | None) -> str:
    """One decimal; "exact" where there is no error."""
    return "exact" if value is None else f"{value:.1f}"
