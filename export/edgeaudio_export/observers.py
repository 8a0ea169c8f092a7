"""The observer of the PT2E flow for weights; activations need none, their parameters are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.calibration import weight_scales
from edgeaudio_export.torchao_pt2e import ObserverBase


class PerChannelWeightObserver(ObserverBase):  # type: ignore[misc]
    """Symmetric int8 scales of weights, one for each output channel (axis 0)."""

    def __init__(self, *, dtype: torch.dtype, ch_axis: int, **scheme: Any) -> None:
        super().__init__(dtype=dtype)
        self.ch_axis = ch_axis
        self.qscheme = scheme["qscheme"]
        self.quant_min, self.quant_max = scheme["quant_min"], scheme["quant_max"]
        self.eps = torch.tensor([torch.finfo(torch.float32).eps])
        self.scales = torch.ones(0)

    def forward(self, x: Tensor) -> Tensor:
        """Observe and pass on."""
        self.scales = torch.from_numpy(weight_scales(x.detach().numpy()))
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scales float32 ``[O]`` and zero points int64 ``[O]``, all 0."""
        return self.scales, torch.zeros(self.scales.numel(), dtype=torch.int64)
