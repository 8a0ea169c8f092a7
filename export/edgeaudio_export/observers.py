"""The observer of the PT2E flow for weights; activations need none, their parameters are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.calibration import weight_scales
from edgeaudio_export.torchao_pt2e import ObserverBase


class PerTensorWeightObserver(ObserverBase):  # type: ignore[misc]
    """Symmetric int8 scale of weights, one for all of them."""

    def __init__(self, *, dtype: torch.dtype, ch_axis: int | None = None, **scheme: Any) -> None:
        super().__init__(dtype=dtype)
        self.ch_axis = ch_axis
        self.qscheme = scheme["qscheme"]
        self.quant_min, self.quant_max = scheme["quant_min"], scheme["quant_max"]
        self.eps = torch.tensor([torch.finfo(torch.float32).eps])
        self.scales = torch.ones(0)

    def forward(self, x: Tensor) -> Tensor:
        """Observe and pass on."""
        self.scales = torch.from_numpy(weight_scales(x.detach().numpy(), per_channel=self.ch_axis is not None))
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scales float32 ``[O]`` or ``[1]`` and zero points int64, all 0."""
        return self.scales, torch.zeros(self.scales.numel(), dtype=torch.int64)


class PerChannelWeightObserver(PerTensorWeightObserver):
    """Symmetric int8 scales of weights, one for each output channel (axis 0).

    torchao hands the axis over only to a class with PerChannel in its name.
    """
