"""TcResNet: residual blocks of strided dense convolutions over time, frequencies as channels, for keywords.

TC-ResNet8 of Choi et al. (arXiv:1904.03814): a first convolution of kernel 3, then three blocks of two convolutions of
kernel 9, the first of stride 2, each with a projected identity. What differs, and why:

- every convolution is causal (theirs pad both sides), and the projection reads the older frame of each pair;
- the classifier reads every frame of the last block and its logits are averaged in a sliding window, instead of
  classifying the average of a clip: the same on a full window, and the state is ``n_labels`` wide;
- no dropout before the classifier: the recipes regularize by augmentation.

Weights and norms are those of the paper, whose counts (66 k; 145 k at 1.5 times the width) include the two statistics
of every batch norm beside its two learned values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgeaudio_models.layers import PointwiseConv, StreamingConv, WindowAverage
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError

BLOCK_STRIDE = 2
STEM_KERNEL_SIZE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TcResNetConfig:
    """Shape of a :class:`TcResNet`; the defaults are TC-ResNet8."""

    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Labels, background labels included."""
    stem_channels: int = 16
    """Width of the first convolution."""
    channels: tuple[int, ...] = (24, 32, 48)
    """Width of each block; every block halves the frame rate."""
    kernel_size: int = 9
    """Of both convolutions of a block, in frames of their input."""
    window_frames: int = 96
    """Feature frames averaged before a decision; a multiple of the step, which is ``2 ** len(channels)`` frames."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if min(self.n_features, self.n_labels, self.stem_channels, *self.channels, 1 if self.channels else 0) < 1:
            sizes = f"n_features={self.n_features}, n_labels={self.n_labels}, stem_channels={self.stem_channels}"
            raise SpecError(f"{sizes} and channels={list(self.channels)} must be >= 1, for at least one block")
        if self.kernel_size <= BLOCK_STRIDE:
            raise SpecError(f"kernel_size={self.kernel_size} must exceed the stride {BLOCK_STRIDE}")
        if self.window_frames % self.step_frames or self.window_frames <= self.step_frames:
            rule = f"a multiple of the step of {self.step_frames} frames and exceed it"
            raise SpecError(f"window_frames={self.window_frames} must be {rule}")

    @property
    def step_frames(self) -> int:
        """Feature frames a step: one frame of the last block."""
        return int(BLOCK_STRIDE ** len(self.channels))


class StridedBlock(nn.Module):
    """``relu(conv(relu(conv(x))) + relu(projection(x)))`` at half the frame rate."""

    def __init__(self, n_inputs: int, n_outputs: int, *, kernel_size: int) -> None:
        super().__init__()
        self.first = StreamingConv(n_inputs, n_outputs, kernel_size=kernel_size, stride=BLOCK_STRIDE)
        self.second = StreamingConv(n_outputs, n_outputs, kernel_size=kernel_size)
        self.projection = PointwiseConv(n_inputs, n_outputs, stride=BLOCK_STRIDE)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """``[N, n_inputs, T]`` and two pasts to ``[N, n_outputs, T // 2]`` and the new pasts."""
        y, first_past = self.first(x, state[0])
        y, second_past = self.second(torch.relu(y), state[1])
        return torch.relu(y + torch.relu(self.projection(x))), (first_past, second_past)


class TcResNet(StreamingModule):
    """First convolution, strided residual blocks, linear classifier, average over a window; one vector a step."""

    def __init__(self, config: TcResNetConfig) -> None:
        super().__init__()
        widths, kernel_size = (config.stem_channels, *config.channels), config.kernel_size
        self.stem = StreamingConv(config.n_features, config.stem_channels, kernel_size=STEM_KERNEL_SIZE)
        self.blocks = nn.ModuleList(
            StridedBlock(before, after, kernel_size=kernel_size) for before, after in pairwise(widths)
        )
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.average = WindowAverage(config.n_labels, window=config.window_frames // self.step_frames, stride=1)
        self.classifier = nn.Conv1d(widths[-1], config.n_labels, 1)
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        # A block at frames of r feature frames reaches back r (k - 1) by its first, 2 r (k - 1) by its second layer.
        reach = sum(3 * (kernel_size - 1) * BLOCK_STRIDE**i for i in range(len(config.channels)))
        self.receptive_field_frames = STEM_KERNEL_SIZE + reach + config.window_frames - self.step_frames
        names, shapes = ["stem"], [self.stem.state_shape]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, StridedBlock)
            names += [f"block_{i}_first", f"block_{i}_second"]
            shapes += [block.first.state_shape, block.second.state_shape]
        self.state_names, self.state_shapes = (*names, "average"), (*shapes, self.average.state_shape)

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, past = self.stem(features.transpose(1, 2), state[0])
        new_state: State = (past,)
        x = torch.relu(x)
        for i, block in enumerate(self.blocks):
            x, pasts = block(x, state[1 + 2 * i : 3 + 2 * i])
            new_state += pasts
        x, past = self.average(self.classifier(x), state[-1])
        return x.transpose(1, 2), (*new_state, past)
