"""Observers of the PT2E flow that wrap the calibration of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.calibration import Method, StreamingHistogram, weight_scales
from edgeaudio_export.torchao_pt2e import ObserverBase


class HistogramObserver(ObserverBase):  # type: ignore[misc]
    """Counts every activation it is shown; int8, affine, per tensor."""

    def __init__(self, *, histogram: StreamingHistogram, method: Method, dtype: torch.dtype, **scheme: Any) -> None:
        super().__init__(dtype=dtype)
        self.histogram = histogram
        self.method: Method = method
        self.qscheme = scheme["qscheme"]
        self.quant_min, self.quant_max = scheme["quant_min"], scheme["quant_max"]
        self.eps = torch.tensor([torch.finfo(torch.float32).eps])

    def forward(self, x: Tensor) -> Tensor:
        """Observe and pass on."""
        self.histogram.observe(x.detach().numpy())
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale float32 ``[1]`` and zero point int64 ``[1]``."""
        params = self.histogram.range(self.method).params()
        return torch.tensor(params.scale, dtype=torch.float32), torch.tensor([params.zero_point])


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
