"""Float ONNX models as other people export them: one in operations of the integer graph, one beyond it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgeaudio_export.quiet import quiet_torch

STEP_FRAMES = 4


class PlainNet(nn.Module):
    """A convolution with its FIFO as a state, a linear classifier and the mean of a step as a convolution."""

    def __init__(self, n_features: int, n_labels: int, channels: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_features, channels, 3)
        self.mean = nn.Conv1d(channels, channels, STEP_FRAMES, groups=channels, bias=False)
        nn.init.constant_(self.mean.weight, 1 / STEP_FRAMES)
        self.classifier = nn.Linear(channels, n_labels)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        fifo = torch.cat([cache, x.transpose(1, 2)], dim=2)
        y = self.mean(torch.relu(self.conv(fifo)))
        return self.classifier(y.transpose(1, 2)), fifo[:, :, -2:]

    def states(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, self.conv.in_channels, 2),)


class RecurrentNet(nn.Module):
    """The same with a LayerNorm, a fused GRU or LSTM and an AveragePool, none of which the integer graph has."""

    def __init__(self, n_features: int, n_labels: int, hidden: int = 16, cell: str = "GRU") -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_features, hidden, 3)
        self.norm = nn.LayerNorm(hidden)
        self.cell = getattr(nn, cell)(hidden, hidden, batch_first=True)
        self.pool = nn.AvgPool1d(STEP_FRAMES)
        self.classifier = nn.Linear(hidden, n_labels)
        self.is_lstm = cell == "LSTM"

    def forward(self, x: Tensor, h: Tensor, cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fifo = torch.cat([cache, x.transpose(1, 2)], dim=2)
        y = self.norm(torch.relu(self.conv(fifo)).transpose(1, 2))
        y, after = self.cell(y, (h, h) if self.is_lstm else h)
        new_h = after[0] if self.is_lstm else after
        y = self.pool(y.transpose(1, 2)).transpose(1, 2)
        return self.classifier(y), new_h, fifo[:, :, -2:]

    def states(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 1, self.norm.normalized_shape[0]), torch.zeros(1, self.conv.in_channels, 2)


class WindowedNet(nn.Module):
    """No state: a padded convolution over the frames of one window, logits without a time axis."""

    def __init__(self, n_features: int, n_labels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_features, 16, 3, padding=1)
        self.classifier = nn.Linear(16, n_labels)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.relu(self.conv(x.transpose(1, 2))).mean(dim=2))
        return logits

    def states(self) -> tuple[Tensor, ...]:
        return ()


def write_onnx(
    path: Path, net: Any, *, n_features: int, frames: int = STEP_FRAMES, seed: int = 0, **options: Any
) -> Path:
    """Export ``net`` with its own names, weights drawn with ``seed``; ``options`` go to the exporter."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        # What is constant stays: averages, and the scale of a LayerNorm.
        if float(parameter.detach().std()) > 0:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    example = (torch.zeros(1, frames, n_features), *net.states())
    with quiet_torch(), contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            net.eval(), example, **{"dynamo": True, "opset_version": 20, "verbose": False, **options}
        )
    assert program is not None
    onnx.save(program.model_proto, path)
    return path
