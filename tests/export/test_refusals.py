"""Every network that cannot be exported is refused in one line: its name and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor, nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantize import quantize_network

STREAMS = [np.random.default_rng(i).normal(size=(40, 4)).astype(np.float32) for i in range(2)]


class Plain(nn.Module):
    """The smallest streaming network: a FIFO and a convolution. Subclasses break one thing each."""

    step_frames, n_features, n_labels, outputs_per_step = 2, 4, 3, 2
    state_names: tuple[str, ...] = ("past",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 4, 3)
        self.classifier = nn.Conv1d(4, 3, 1)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 4, 2),)

    def hidden(self, x: Tensor) -> Tensor:
        return x

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        return self.classifier(self.hidden(self.conv(fifo))).transpose(1, 2), (fifo[:, :, -2:],)


class MutatedBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(1, 4, 1))

    def hidden(self, x: Tensor) -> Tensor:
        y = x + self.memory
        self.memory.copy_(x.detach()[:1, :, -1:] * 0.5 + 1)
        return y


class HiddenAttribute(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(1, 4, 1)

    def hidden(self, x: Tensor) -> Tensor:
        y = x + self.memory
        self.memory = x.detach()[:1, :, -1:]
        return y


class TimePadding(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv1d(4, 4, 3, padding=1)

    def hidden(self, x: Tensor) -> Tensor:
        return self.smooth(x)


class Wrapped(Plain):
    layer: nn.Module

    def hidden(self, x: Tensor) -> Tensor:
        return self.layer(x)


def with_layer(layer: nn.Module, kind: str = "Wrapped") -> Plain:
    network = type(kind, (Wrapped,), {})()
    network.layer = layer
    return network


class Recurrent(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 2, bidirectional=True, batch_first=True)

    def hidden(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[0].transpose(1, 2)


class SoftmaxOverTime(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=2)


class SoftmaxOverChannels(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=1)


class ScaledByNumber(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return x * 0.5


class LooseBatchNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def hidden(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(x))


class ForgetsItsPast(Plain):
    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = features.transpose(1, 2)
        logits = self.classifier(self.conv(torch.cat([x[:, :, :2] - x[:, :, :2], x], dim=2)))
        return logits.transpose(1, 2), (state[0] + x[:, :, -2:],)


class GrowingState(Plain):
    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, _ = super().forward(features, state)
        return logits, (torch.cat([state[0], features.transpose(1, 2)], dim=2),)


class TwoForOne(Plain):
    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, new = super().forward(features, state)
        return logits, new * 2


class UnnamedState(Plain):
    state_names = ()


class WrongStep(Plain):
    outputs_per_step = 1


class DeadLayer(Plain):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]


class FrontSlice(Plain):
    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        past = self.classifier(fifo[:, :, 1:-1])
        return past.transpose(1, 2), (fifo[:, :, -2:],)


def with_nan() -> Plain:
    network = Plain()
    with torch.no_grad():
        network.conv.weight[0, 0, 0] = float("nan")
    return network


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "mutated buffer": (MutatedBuffer, r"buffers \['memory'\] change during forward.*explicit state"),
    "hidden attribute": (HiddenAttribute, r"buffers \['memory'\] change during forward.*explicit state"),
    "padding in time": (TimePadding, r"convolution 'smooth' has padding=\[1\] in time.*use padding=0 and a FIFO state"),
    "pool": (
        lambda: with_layer(nn.AvgPool1d(3, 1, 1)),
        r"operation aten.avg_pool1d.default in 'layer' is not in the integer graph; average over a window as a FIFO",
    ),
    "group norm": (
        lambda: with_layer(nn.GroupNorm(2, 4)),
        r"operation aten.group_norm.default in 'layer' .*; use BatchNorm1d or BatchNorm2d after a convolution",
    ),
    "bidirectional": (
        Recurrent,
        r"operation aten.gru.input in 'gru' is not in the integer graph; unroll it into a step",
    ),
    "gelu": (lambda: with_layer(nn.GELU()), r"operation aten.gelu.default in 'layer' .*; supported are conv1d, conv2d"),
    "softmax over time": (SoftmaxOverTime, r"network does not stream: chained steps .* look for .*softmax over time"),
    "softmax over channels": (SoftmaxOverChannels, r"softmax in 'forward' runs over dim=1, not over the labels"),
    "constant factor": (
        ScaledByNumber,
        r"aten.mul.Tensor in 'forward' has a constant operand; fold it into the weights",
    ),
    "loose batch norm": (LooseBatchNorm, r"batch normalization 'norm' does not follow a convolution"),
    "forgets": (ForgetsItsPast, r"network does not stream: chained steps differ from one call by .*missing state"),
    "growing state": (GrowingState, r"state 'past' goes in as \[1, 4, 2\] and comes out as \[1, 4, 4\]; keep the last"),
    "state count": (TwoForOne, r"forward returns 2 states, initial_state 1; return one new state for each"),
    "state names": (UnnamedState, r"initial_state has 1 states but state_names 0; name every state once"),
    "step mismatch": (WrongStep, r"logits of one step are \[1, 2, 3\], must be \[1, 1, 3\] \(step_frames=2\)"),
    "nan": (with_nan, r"weight 'conv.weight' holds NaN or infinite values; train again"),
    "dead layer": (DeadLayer, r"activation 'conv/conv1d' was 0 throughout calibration.*remove the dead layer"),
    "slice from the front": (FrontSlice, r"slice .* starts at frame 1 counted from the front.*x\[:, :, -K:\]"),
    "no network": (lambda: nn.Linear(4, 3), r"network=Linear lacks \['step_frames', 'n_features', 'n_labels'"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_that_cannot_be_exported_is_refused_in_one_line(case: str) -> None:
    make, words = CASES[case]
    with pytest.raises(ExportError, match=words) as caught:
        quantize_network(make(), STREAMS, name="x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ([], r"streams=\[\] must hold at least one feature array"),
        ([np.zeros((4, 5), np.float32)], r"streams\[0\] is float32\[4, 5\], must be float32 \[T, n_features=4\]"),
        ([np.zeros((4, 4), np.float64)], r"streams\[0\] is float64\[4, 4\], must be float32"),
        (
            [STREAMS[0], np.zeros((3, 4), np.float32)],
            r"streams\[1\] has 3 frames.*multiple of step_frames=2.*multiple_of",
        ),
        ([np.zeros((0, 4), np.float32)], r"streams\[0\] has 0 frames"),
        ([np.full((2, 4), np.nan, np.float32)], r"streams\[0\] holds NaN or infinite features"),
    ],
)
def test_calibration_streams_that_do_not_fit_are_refused(streams: list[np.ndarray], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        quantize_network(Plain(), streams, name="x")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ExportError, match=r"backend='tensorrt' must be one of \['pt2e', 'onnxruntime'\]"):
        quantize_network(Plain(), STREAMS, backend="tensorrt", name="x")  # type: ignore[arg-type]
