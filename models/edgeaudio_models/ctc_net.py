"""CtcNet: a causal network of the same blocks that emits one label distribution every 40 ms for CTC.

Two strided convolutions subsample time by four, as the convolutional front of icefall's ``tiny_transducer_ctc`` does;
residual blocks follow at that rate and a linear layer reads every frame. Label 0 is the blank (Graves et al., 2006).
With ``squeeze_channels`` each residual branch is gated by a running average of itself, the squeeze-excitation of
ContextNet (Han et al., arXiv:2005.03191) made causal: the average is over the last ``squeeze_window`` frames, theirs is
over the whole utterance; its two layers keep the sigmoid, and relu takes the place of their swish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeaudio_models.layers import GatedResidualBlock, ResidualBlock, SeparableBlock, StreamingConv
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError

STEM_STRIDE = 2
SUBSAMPLING = 4
"""Feature frames a logit vector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CtcNetConfig:
    """Shape of a :class:`CtcNet`."""

    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Labels with the blank, which is label 0."""
    channels: int = 128
    """Width of every layer."""
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7, 7, 7)
    """Kernel of the depthwise convolution, one a block, in frames of 4 feature frames."""
    stem_kernel_size: int = 5
    """Kernel of both subsampling convolutions, in frames of their input."""
    step_frames: int = 4
    """Feature frames a step; a multiple of 4, one logit vector for each 4."""
    squeeze_channels: int = 0
    """Width of the bottleneck of a block's squeeze-excitation; 0: blocks without one. ContextNet has channels / 8."""
    squeeze_window: int = 25
    """Frames of 4 feature frames that the squeeze-excitation averages, >= 2; without effect if there is none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_sizes", tuple(self.kernel_sizes))
        if self.n_features < 1 or self.channels < 1:
            raise SpecError(f"n_features={self.n_features} and channels={self.channels} must be >= 1")
        if self.n_labels < 2:
            raise SpecError(f"n_labels={self.n_labels} must be >= 2: the blank and at least one label")
        if not self.kernel_sizes or min(self.kernel_sizes) < 2:
            raise SpecError(f"kernel_sizes={list(self.kernel_sizes)} must name a kernel >= 2 for at least one block")
        if self.squeeze_channels < 0 or self.squeeze_window < 2:
            window = f"squeeze_window={self.squeeze_window} must be >= 2"
            raise SpecError(f"squeeze_channels={self.squeeze_channels} must be >= 0 and {window}")
        if self.step_frames < 1 or self.step_frames % SUBSAMPLING:
            raise SpecError(f"step_frames={self.step_frames} must be a multiple of the subsampling {SUBSAMPLING}")


class CtcNet(StreamingModule):
    """Two convolutions of stride 2, residual blocks, a linear layer on every frame."""

    def __init__(self, config: CtcNetConfig) -> None:
        super().__init__()
        channels, kernel_size = config.channels, config.stem_kernel_size
        self.stem = StreamingConv(config.n_features, channels, kernel_size=kernel_size, stride=STEM_STRIDE)
        self.subsample = SeparableBlock(channels, channels, kernel_size=kernel_size, stride=SUBSAMPLING // STEM_STRIDE)
        self.blocks = nn.ModuleList(_block(config, size) for size in config.kernel_sizes)
        self.classifier = nn.Conv1d(channels, config.n_labels, 1)
        self.step_frames, self.outputs_per_step = config.step_frames, config.step_frames // SUBSAMPLING
        self.n_features, self.n_labels, self.latency_frames = config.n_features, config.n_labels, 0
        gate_reach = (config.squeeze_window - 1) * len(config.kernel_sizes) if config.squeeze_channels else 0
        reach = sum(size - 1 for size in config.kernel_sizes) + gate_reach
        self.receptive_field_frames = kernel_size + STEM_STRIDE * (kernel_size - 1) + SUBSAMPLING * reach
        names, shapes = ["stem", "subsample"], [self.stem.state_shape, self.subsample.depthwise.state_shape]
        for i, block in enumerate(self.blocks):
            names.append(f"block_{i}")
            shapes.append((channels, config.kernel_sizes[i] - 1))
            if isinstance(block, GatedResidualBlock):
                names.append(f"block_{i}_gate")
                shapes.append(block.gate.state_shape)
        self.state_names, self.state_shapes = tuple(names), tuple(shapes)

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, stem_past = self.stem(features.transpose(1, 2), state[0])
        x, past = self.subsample(torch.relu(x), state[1])
        new_state = [stem_past, past]
        for block in self.blocks:
            n_pasts = 2 if isinstance(block, GatedResidualBlock) else 1
            x, *pasts = block(x, *state[len(new_state) : len(new_state) + n_pasts])
            new_state += pasts
        return self.classifier(x).transpose(1, 2), tuple(new_state)


def _block(config: CtcNetConfig, kernel_size: int) -> ResidualBlock | GatedResidualBlock:
    if not config.squeeze_channels:
        return ResidualBlock(config.channels, kernel_size=kernel_size)
    return GatedResidualBlock(
        config.channels, kernel_size=kernel_size, bottleneck=config.squeeze_channels, window=config.squeeze_window
    )
