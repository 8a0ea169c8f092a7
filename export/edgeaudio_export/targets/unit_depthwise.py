"""Requantization and mean over frequency as a depthwise convolution, the form every engine rounds alike."""

from __future__ import annotations

import numpy as np

from edgeaudio_export.targets.stored_constants import StoredConstant
from edgeaudio_runtime.graph import Tensor
from edgeaudio_runtime.quantization import QuantParams


def unit_depthwise(x: Tensor, bins: int) -> tuple[StoredConstant, StoredConstant]:
    """Weights and biases of ``mean over bins``: codes 1 of scale ``1 / bins``.

    Args:
        x: Input ``[N, T, F, C]``.
        bins: Bins to average; 1 changes the quantization only.
    """
    channels, scale = x.shape[3], float(np.float32(1 / bins))
    shape = (channels, 1, bins, 1)
    if x.quant is None:
        weight = StoredConstant(data=np.full(shape, scale, np.float32))
        return weight, StoredConstant(data=np.zeros(channels, np.float32))
    product = float(np.float32(x.quant.scale[0]) * np.float32(scale))
    weight_quant = QuantParams(scale=(scale,) * channels, axis=0, qmin=-127)
    bias_quant = QuantParams(scale=(product,) * channels, axis=0, dtype="int32")
    weight = StoredConstant(data=np.ones(shape, np.int8), quant=weight_quant)
    return weight, StoredConstant(data=np.zeros(channels, np.int32), quant=bias_quant)
