"""The variables of AdaRound: weights that lie between two codes while they are being decided on.

M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020 (arXiv:2004.10568),
equations 22 to 24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeaudio_export.calibration import WEIGHT_LEVELS
from edgeaudio_export.recovery.layers import per_output, scales_of

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1
"""The sigmoid is stretched to these ends and clipped to [0, 1], so that 0 and 1 are reached (equation 23)."""


class SoftRounding:
    """Weights between the two codes around them: ``scale * (floor(w / scale) + h(v))`` (equation 22)."""

    def __init__(self, weight: Tensor, *, per_channel: bool) -> None:
        self._weight = weight
        self._scale = scales_of(weight, per_channel=per_channel)
        self._floor = torch.floor(weight / self._scale)
        rest = (weight / self._scale - self._floor).clamp(0.01, 0.99)
        self.variable = -torch.log((STRETCH_HIGH - STRETCH_LOW) / (rest - STRETCH_LOW) - 1.0)
        self.variable.requires_grad_(True)
        rows = weight.abs().reshape(len(weight) if per_channel else 1, -1)
        largest = per_output(rows.amax(dim=1), weight)
        self._on_grid = largest >= (WEIGHT_LEVELS - 0.5) * self._scale
        """Channels whose scale comes from their own largest weight, which then has to stay."""
        self._pinned = self._on_grid & (weight.abs() == largest)
        self._largest = largest

    def shares(self) -> Tensor:
        """``h(v)``: how far up each weight is, 0 to 1."""
        return torch.clamp(torch.sigmoid(self.variable) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW, 0.0, 1.0)

    def soft(self) -> Tensor:
        """Weights with their present shares; differentiable."""
        return self._valued(self._floor + self.shares())

    def hard(self) -> Tensor:
        """Every weight on the side that it leans to."""
        return self._valued(self._floor + (self.shares() >= 0.5))

    def nearest(self) -> Tensor:
        """Every weight on the code closest to it."""
        return self._valued(torch.round(self._weight / self._scale))

    def regularizer(self, beta: float) -> Tensor:
        """``sum(1 - |2 h - 1|**beta)`` (equation 24): 0 where every weight is on one side."""
        return (1.0 - (2.0 * self.shares() - 1.0).abs().pow(beta)).sum()

    def _valued(self, codes: Tensor) -> Tensor:
        values = torch.clamp(codes, -WEIGHT_LEVELS, WEIGHT_LEVELS) * self._scale
        # 127 * scale may be a float above the weight the scale came from: then the scale would be another.
        bounded = torch.minimum(torch.maximum(values, -self._largest), self._largest)
        return torch.where(self._pinned, self._weight, torch.where(self._on_grid, bounded, values))
