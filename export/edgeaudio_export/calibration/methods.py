"""The calibration methods: from the statistics of a tensor to the range its codes cover.

A range depends on who will round to it, so each method knows the number of codes and whether 0 is their middle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeaudio_export.calibration.histogram import StreamingHistogram

Doubles = npt.NDArray[np.float64]
Ends = tuple[float, float]
"""Lower and upper end of a range; it contains 0."""

ENTROPY_CANDIDATES = 256
"""Thresholds that "entropy" tries, evenly spaced by ratio from one bin per code to everything that was seen."""
_SMOOTHING = 1e-4
"""Count given to a bin that only the reference has, so that the divergence stays finite."""


def seen_ends(histogram: StreamingHistogram, *, symmetric: bool) -> Ends:
    """Everything that was seen, and 0."""
    return _mirrored(min(histogram.minimum, 0.0), max(histogram.maximum, 0.0), symmetric)


def percentile_ends(histogram: StreamingHistogram, percentile: float, *, symmetric: bool) -> Ends:
    """The smallest range that leaves out ``(100 - percentile) / 2`` % of the values at each end.

    Symmetric: the smallest ``[-a, a]`` that holds ``percentile`` % of the values. Values are taken to lie evenly in
    their bin. Where so many values are 0 that nothing else is left, everything is covered.
    """
    low, high = seen_ends(histogram, symmetric=False)
    if symmetric:
        edges, counts = _magnitudes(histogram)
        found = _quantile(edges, counts, percentile / 100.0)
        ends = (-min(found, max(-low, high)), min(found, max(-low, high)))
    else:
        cut = (100.0 - percentile) / 200.0
        edges, counts = histogram.edges, histogram.counts
        ends = (
            min(max(_quantile(edges, counts, cut), low), 0.0),
            max(min(_quantile(edges, counts, 1.0 - cut), high), 0.0),
        )
    # Zeros alone fill the bin [0, width): what lies within one bin is nothing but them.
    return ends if ends[1] - ends[0] > histogram.width else seen_ends(histogram, symmetric=symmetric)


def least_error_ends(histogram: StreamingHistogram, *, n_levels: int, symmetric: bool) -> Ends:
    """The range of least squared rounding and clipping error over the histogram.

    A coarse grid of both ends, evenly spaced by ratio, then a fine one around the best.
    """
    low, high = seen_ends(histogram, symmetric=symmetric)
    used = np.flatnonzero(histogram.counts)
    values, counts = histogram.centers[used], histogram.counts[used].astype(np.float64)
    ends = low, high
    for shares in (2.0 ** (-np.arange(36) / 6), 2.0 ** (np.arange(-7, 8) / 48)):
        lows = np.maximum(ends[0] * shares, low) if low else np.zeros(1)
        highs = np.minimum(ends[1] * shares, high) if high else np.zeros(1)
        grid = (-highs, highs) if symmetric else tuple(np.ravel(g) for g in np.meshgrid(lows, highs, indexing="ij"))
        errors = squared_error(values, counts, *grid, n_levels=n_levels, symmetric=symmetric, bin_width=histogram.width)
        best = int(np.argmin(errors))
        ends = float(grid[0][best]), float(grid[1][best])
    return ends


def squared_error(
    values: Doubles,
    counts: Doubles,
    low: Doubles,
    high: Doubles,
    *,
    n_levels: int,
    symmetric: bool,
    bin_width: float = 0.0,
) -> Doubles:
    """Summed squared error of ``values [V]``, each ``counts [V]`` times, coded in the ranges ``[low[i], high[i]]``.

    Where codes are finer than the histogram's bins the centers of the bins say nothing of the rounding, and uniform
    noise of ``scale**2 / 12`` takes its place.
    """
    errors, half = np.empty(len(low)), n_levels // 2
    for index, (start, stop) in enumerate(zip(low, high, strict=True)):
        scale = stop / (half - 1) if symmetric else (stop - start) / (n_levels - 1)
        zero_point = 0.0 if symmetric else np.clip(np.rint(-half - start / scale), -half, half - 1)
        if scale < bin_width:
            clipped = np.clip(values, (-half - zero_point) * scale, (half - 1 - zero_point) * scale)
            errors[index] = np.square(values - clipped) @ counts + counts.sum() * scale**2 / 12
        else:
            codes = np.clip(np.rint(values / scale), -half - zero_point, half - 1 - zero_point)
            errors[index] = np.square(values - codes * scale) @ counts
    return errors


def entropy_ends(histogram: StreamingHistogram, *, n_levels: int, symmetric: bool) -> Ends:
    """The range whose codes tell least less than the values: least Kullback-Leibler divergence.

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017, as in ONNX Runtime's entropy calibrator: for each threshold t
    the reference is the histogram within ``[-t, t]`` with everything beyond added to its outermost bins, the candidate
    the same without what is beyond, merged to one bin for each code and spread again over the bins that hold
    something. Differences to ONNX Runtime: bins are shared out to the codes evenly instead of the remainder going to
    the last one; a range never leaves what was seen, so that one-sided values get all codes; and the bin of 0 is given
    the count of its neighbour, as in NVIDIA's pytorch-quantization: 0 has an exact code, and the many zeros behind a
    relu would otherwise be all that is weighed.
    """
    low, high = seen_ends(histogram, symmetric=symmetric)
    counts, origin = histogram.counts.copy(), int(np.searchsorted(histogram.edges, 0.0))
    if origin + 1 < counts.size:
        counts[origin] = min(counts[origin], counts[origin + 1])
    first, last = _bin_of(histogram, low), _bin_of(histogram, high)
    reach = max(origin - first, last + 1 - origin)
    if symmetric:
        counts = np.concatenate([np.zeros(max(0, reach - origin), np.int64), counts])
        origin = max(origin, reach)
        counts = np.concatenate([counts, np.zeros(max(0, origin + reach - counts.size), np.int64)])
        first, last = origin - reach, origin + reach - 1
    best, ends = np.inf, (low, high)
    for threshold in _thresholds(n_levels, reach, sides=2 if first < origin <= last else 1):
        start, stop = max(origin - threshold, first), min(origin + threshold, last + 1)
        divergence = merged_divergence(counts, start, stop, n_levels)
        if divergence < best:
            best = divergence
            ends = max((start - origin) * histogram.width, low), min((stop - origin) * histogram.width, high)
    return float(ends[0]), float(ends[1])


def merged_divergence(counts: npt.NDArray[np.int64], start: int, stop: int, n_levels: int) -> float:
    """Divergence in nats that ``n_levels`` codes over the bins ``start`` to ``stop`` cost; see :func:`entropy_ends`."""
    inside = counts[start:stop].astype(np.float64)
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    code = np.arange(inside.size) * n_levels // inside.size
    filled = (reference > 0).astype(np.float64)
    merged = np.bincount(code, inside, n_levels) / np.maximum(np.bincount(code, filled, n_levels), 1.0)
    candidate = merged[code] * filled
    candidate[(candidate == 0.0) & (reference > 0)] = _SMOOTHING
    if not inside.any():
        return float("inf")
    held = reference > 0
    p, q = reference[held] / reference.sum(), candidate[held] / candidate.sum()
    return float(np.sum(p * np.log(p / q)))


def _thresholds(n_levels: int, reach: int, *, sides: int) -> npt.NDArray[np.int64]:
    """Half widths in bins, in growing order, the last of which covers everything."""
    smallest = min(-(-n_levels // sides), reach)
    return np.unique(np.rint(np.geomspace(smallest, reach, ENTROPY_CANDIDATES)).astype(np.int64))


def _bin_of(histogram: StreamingHistogram, value: float) -> int:
    return int(np.clip(np.searchsorted(histogram.edges, value, side="right") - 1, 0, histogram.counts.size - 1))


def _magnitudes(histogram: StreamingHistogram) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """Edges and counts of the absolute values; bins are aligned at 0, so that both sides fold onto each other."""
    steps = np.rint(histogram.edges[:-1] / histogram.width).astype(np.int64)
    bins = np.where(steps >= 0, steps, -1 - steps)
    counts = np.bincount(bins, histogram.counts).astype(np.int64)
    edges: Doubles = np.arange(counts.size + 1, dtype=np.float64) * histogram.width
    return edges, counts


def _quantile(edges: Doubles, counts: npt.NDArray[np.int64], share: float) -> float:
    """The value below which ``share`` of the counts lie, by straight lines between the edges."""
    below = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(share * below[-1], below, edges))


def _mirrored(low: float, high: float, symmetric: bool) -> Ends:
    largest = max(-low, high)
    return (-largest, largest) if symmetric else (low, high)
