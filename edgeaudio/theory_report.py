"""What ``edgeaudio theory`` says: the lines of theory and measured weights, as numbers and as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.progress import progress_bar, say

if TYPE_CHECKING:
    from edgeaudio_export.theory.lines import GaussianLine, UniformLine
    from edgeaudio_export.theory.weights import WeightLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class Theory:
    """Everything a report needs."""

    checkpoint: Path | None
    """The folder as it was given; None for the lines alone."""
    gaussian: tuple[GaussianLine, ...]
    """One a width."""
    uniform: tuple[UniformLine, ...]
    """One a width."""
    weights: tuple[WeightLoss, ...]
    """One a tensor, in the order of the graph."""
    constant: tuple[str, ...]
    """Tensors of one value, which any quantizer holds exactly."""

    @property
    def command(self) -> str:
        """The command line that prints these numbers again."""
        return shlex.join(["edgeaudio", "theory", *([] if self.checkpoint is None else [str(self.checkpoint)])])


def collect(checkpoint: Path | None) -> Theory:
    """Lines of theory, and the weights of a checkpoint with batch norms folded, measured beside them.

    Raises:
        CheckpointError: The checkpoint is missing or altered.
        ExportError: A weight holds NaN, or the network cannot be exported.
    """
    from edgeaudio_export.theory.lines import gaussian_lines, uniform_lines

    weights, constant = ((), ()) if checkpoint is None else _measured(checkpoint)
    return Theory(
        checkpoint=checkpoint,
        gaussian=gaussian_lines(),
        uniform=uniform_lines(),
        weights=weights,
        constant=constant,
    )


def _measured(checkpoint: Path) -> tuple[tuple[WeightLoss, ...], tuple[str, ...]]:
    from edgeaudio_export.folded_weights import folded_weights
    from edgeaudio_export.theory.weights import is_constant, measure_weights
    from edgeaudio_models.checkpoint import load_checkpoint

    module = load_checkpoint(checkpoint).module
    say("tracing the network")
    tensors = folded_weights(module)
    varied = {name: values for name, values in tensors.items() if not is_constant(values)}
    losses = []
    with progress_bar("measuring weights") as progress:
        for done, (name, values) in enumerate(varied.items(), 1):
            losses.append(measure_weights(name, values))
            progress(done, len(varied))
    return tuple(losses), tuple(name for name in tensors if name not in varied)


def to_document(theory: Theory) -> dict[str, Any]:
    """The numbers as JSON values; SQNR in dB, null where nothing is lost."""
    return {
        "checkpoint": None if theory.checkpoint is None else str(theory.checkpoint),
        "command": theory.command,
        "gaussian": [asdict(line) for line in theory.gaussian],
        "uniform": [asdict(line) for line in theory.uniform],
        "weights": [
            {
                "name": loss.name,
                "shape": list(loss.shape),
                "deviation": loss.deviation,
                "loading": loss.loading,
                "bins": int(loss.density.masses.size),
                "widths": [asdict(width) for width in loss.widths],
            }
            for loss in theory.weights
        ],
        "constant": list(theory.constant),
    }


GAUSSIAN_COLUMNS = ("bits", "best clip / sigma", "uniform dB", "Lloyd-Max dB", "bound dB", "step²/12 : error")
CLIP_COLUMNS = ("bits", "best clip", "dB", "model clip", "dB", "2 sqrt(ln N)", "dB")
UNIFORM_COLUMNS = ("bits", "exact dB", "with loading dB", "6.02 b + 4.77 dB")
WEIGHT_COLUMNS = ("layer", "weights", "max / rms", "per tensor", "best clip", "per channel", "Lloyd-Max", "bound")

Rows = tuple[tuple[str, ...], ...]


def gaussian_rows(theory: Theory) -> Rows:
    """Cells under :data:`GAUSSIAN_COLUMNS`."""
    return tuple(
        (
            str(x.bits),
            f"{x.clip:.3f}",
            decibels(x.sqnr),
            decibels(x.lloyd_max),
            decibels(x.bound),
            f"{x.granular_share:.2f}",
        )
        for x in theory.gaussian
    )


def clip_rows(theory: Theory) -> Rows:
    """Cells under :data:`CLIP_COLUMNS`: three clips for the same ``2**bits`` levels."""
    return tuple(
        (
            str(x.bits),
            f"{x.midrise_clip:.3f}",
            decibels(x.midrise_sqnr),
            f"{x.model_clip:.3f}",
            decibels(x.model_sqnr),
            f"{x.leading_clip:.3f}",
            decibels(x.leading_sqnr),
        )
        for x in theory.gaussian
    )


def uniform_rows(theory: Theory) -> Rows:
    """Cells under :data:`UNIFORM_COLUMNS`."""
    return tuple((str(x.bits), *map(decibels, (x.exact, x.formula, x.misread))) for x in theory.uniform)


def weight_rows(theory: Theory, bits: int) -> Rows:
    """Cells under :data:`WEIGHT_COLUMNS`, one row a tensor and last the line of a Gaussian."""
    line = next(x for x in theory.gaussian if x.bits == bits)
    gaussian = ("a Gaussian", "", "", "", decibels(line.sqnr), "", decibels(line.lloyd_max), decibels(line.bound))
    widths = [(loss, next(w for w in loss.widths if w.bits == bits)) for loss in theory.weights]
    rows = (
        (
            loss.name,
            "x".join(map(str, loss.shape)),
            f"{loss.loading:.2f}",
            *map(decibels, (w.per_tensor, w.best_clip, w.per_channel, w.lloyd_max, w.bound)),
        )
        for loss, w in widths
    )
    return (*rows, gaussian)


def decibels(value: float | None) -> str:
    """Two decimals; None is a tensor that is held exactly."""
    return "exact" if value is None else f"{value:.2f}"


def measured_widths(theory: Theory) -> tuple[int, ...]:
    """Widths the weights were measured at."""
    return tuple(width.bits for width in theory.weights[0].widths) if theory.weights else ()


def render_text(theory: Theory) -> str:
    """Tables for a terminal."""
    return "\n".join(_text(theory))


def _text(theory: Theory) -> Iterator[str]:
    yield "Gaussian source: symmetric uniform quantizer with its best clip, best codebook, bound"
    yield from _table(GAUSSIAN_COLUMNS, gaussian_rows(theory))
    yield "\nGaussian source, N = 2^bits levels: best clip in sigma, that of step²/12 + overload, the closed form"
    yield from _table(CLIP_COLUMNS, clip_rows(theory))
    yield "\nUniform source over the whole range: 6.02 dB a bit; 4.77 dB more is a formula without its last term"
    yield from _table(UNIFORM_COLUMNS, uniform_rows(theory))
    for bits in measured_widths(theory):
        yield f"\n{theory.checkpoint}, SQNR in dB at {bits} bits"
        yield from _table(WEIGHT_COLUMNS, weight_rows(theory, bits))
    for name in theory.constant:
        yield f"{name}: constant, held exactly at every width"


def _table(columns: tuple[str, ...], rows: Rows) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        first, *others = row
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells)).rstrip()
