"""Scales of weights, which need no data: the largest weight of a channel decides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WEIGHT_LEVELS = 127
"""Largest weight code; -128 is not used, so that weights are symmetric."""
MIN_RELATIVE_WEIGHT_SCALE = 2.0**-10
"""A channel's weight scale is at least this share of the largest channel's: finer steps vanish in the shared
activation scale, and the int32 bias of a dead channel would overflow."""


def weight_scales(weights: npt.NDArray[np.float32], *, per_channel: bool = True) -> npt.NDArray[np.float32]:
    """Symmetric scale of each output channel: ``max |w| / 127`` over all axes but the first; float32 ``[O]``.

    Or one scale for all of them, ``[1]``, if not ``per_channel``. A channel far below the largest gets
    ``MIN_RELATIVE_WEIGHT_SCALE`` of it; weights that are all 0 get scale 1.
    """
    rows = weights.reshape(weights.shape[0] if per_channel else 1, -1)
    largest = np.abs(rows.astype(np.float64)).max(axis=1)
    floor = largest.max() * MIN_RELATIVE_WEIGHT_SCALE
    if floor == 0.0:
        return np.ones(len(rows), dtype=np.float32)
    scales: npt.NDArray[np.float32] = (np.maximum(largest, floor) / WEIGHT_LEVELS).astype(np.float32)
    return scales
