"""DsTcResNet: a causal depthwise-separable residual network over time for keywords.

After MatchboxNet (Majumdar and Ginsburg, arXiv:2004.08531) and ``ds_tc_resnet`` of google-research/kws_streaming, which
is its streaming form. What differs from them, and why:

- one width throughout and an identity on every residual branch (they project with a 1x1 convolution), which each
  block takes to the scale of its own sum, so int8 sums are exact; one separable convolution in a residual block (they
  have up to two);
- a relu between depthwise and pointwise: one more non-linearity that costs nothing when fused;
- a dense first convolution of stride 2 (they: depthwise-separable, stride 1) and no dilated 1x1 tail: the frame rate
  is halved where it is cheapest;
- the classifier reads every internal frame and its logits are averaged in a sliding window of one second, one vector a
  step, instead of classifying the average of a whole clip. Both are linear, so on a full window the order changes
  nothing, but the state to carry is ``n_labels`` wide instead of ``channels``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeaudio_models.layers import ResidualBlock, StreamingConv, WindowAverage
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class DsTcResNetConfig:
    """Shape of a :class:`DsTcResNet`."""

    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Labels, background labels included."""
    channels: int = 96
    """Width of every layer; a multiple of 16 fills the vector registers of int8 kernels."""
    kernel_sizes: tuple[int, ...] = (9, 9, 9, 9, 9)
    """Kernel of the depthwise convolution, one a block, in internal frames."""
    stem_kernel_size: int = 5
    """Kernel of the first convolution, in feature frames."""
    stem_stride: int = 2
    """Feature frames an internal frame."""
    step_frames: int = 4
    """Feature frames a step; a multiple of ``stem_stride``."""
    window_frames: int = 100
    """Feature frames averaged before the classifier; a multiple of ``step_frames``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_sizes", tuple(self.kernel_sizes))
        if self.n_features < 1 or self.n_labels < 1 or self.channels < 1:
            sizes = f"n_features={self.n_features}, n_labels={self.n_labels} and channels={self.channels}"
            raise SpecError(f"{sizes} must be >= 1")
        if not self.kernel_sizes or min(self.kernel_sizes) < 2:
            raise SpecError(f"kernel_sizes={list(self.kernel_sizes)} must name a kernel >= 2 for at least one block")
        if self.step_frames % self.stem_stride:
            raise SpecError(f"step_frames={self.step_frames} must be a multiple of stem_stride={self.stem_stride}")
        if self.window_frames % self.step_frames or self.window_frames <= self.step_frames:
            rule = f"a multiple of step_frames={self.step_frames} and exceed it"
            raise SpecError(f"window_frames={self.window_frames} must be {rule}")


class DsTcResNet(StreamingModule):
    """Stem of stride 2, residual blocks, linear classifier, average over a window; one logit vector a step."""

    def __init__(self, config: DsTcResNetConfig) -> None:
        super().__init__()
        channels, stride = config.channels, config.stem_stride
        self.stem = StreamingConv(config.n_features, channels, kernel_size=config.stem_kernel_size, stride=stride)
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel_size=size) for size in config.kernel_sizes)
        internal_step = config.step_frames // stride
        self.average = WindowAverage(config.n_labels, window=config.window_frames // stride, stride=internal_step)
        self.classifier = nn.Conv1d(channels, config.n_labels, 1)
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        self.receptive_field_frames = config.stem_kernel_size + stride * (
            sum(size - 1 for size in config.kernel_sizes) + config.window_frames // stride - 1
        )
        self.state_names = ("stem", *(f"block_{i}" for i in range(len(config.kernel_sizes))), "average")
        self.state_shapes = (
            self.stem.state_shape,
            *((channels, size - 1) for size in config.kernel_sizes),
            self.average.state_shape,
        )

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, new_state = self.frame_logits(features.transpose(1, 2), state[:-1])
        x, past = self.average(x, state[-1])
        return x.transpose(1, 2), (*new_state, past)

    def frame_logits(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits before they are averaged.

        Args:
            x: Features ``[N, n_features, T]``.
            state: All but that of the average.

        Returns:
            ``[N, n_labels, T // stem_stride]`` and the new state.
        """
        x, past = self.stem(x, state[0])
        new_state = [past]
        x = torch.relu(x)
        for block, before in zip(self.blocks, state[1:], strict=True):
            x, past = block(x, before)
            new_state.append(past)
        return self.classifier(x), tuple(new_state)
