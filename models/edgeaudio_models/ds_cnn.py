"""DsCnn: depthwise-separable convolutions over time and frequency for keywords, in causal streaming form.

The DS-CNN of "Hello Edge" (Zhang et al., arXiv:1711.07128), whose small one is the keyword reference of MLPerf Tiny
(Banbury et al., arXiv:2106.07597): a dense convolution of 10 frames by 4 coefficients, then separable 3 x 3 blocks, a
mean over frequency and time, a linear classifier. The defaults are the small one; the other two of the paper are
``channels=172, n_blocks=4`` and ``channels=276, n_blocks=5``, both with ``stem_stride=(2, 1), first_stride=(2, 2)``.
What differs, and why:

- time is causal, with the past as state (theirs is padded on both sides of a clip);
- frequency is padded on both sides alike: with the stride (2, 1) of the larger two the even kernel leaves one
  frequency fewer than TensorFlow's "same" (9 of 10); a mean over frequency follows, so no weight depends on it;
- the classifier reads every frame and its logits are averaged in a sliding window of one second: the same on a full
  window, and the state is ``n_labels`` wide;
- convolutions have no bias beside that of their batch norm, and there is no dropout.

The papers hear 10 cepstral coefficients every 20 ms (the preset ``mlperf_tiny_kws``, with ``step_frames=2`` and
``window_frames=50``). On 40 mel bands every 10 ms the same weights run over 8 times the values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeaudio_models.layers import WindowAverage
from edgeaudio_models.layers_2d import FrequencyMean, SeparableBlock2d, StreamingConv2d
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError

BLOCK_KERNEL = (3, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class DsCnnConfig:
    """Shape of a :class:`DsCnn`; the defaults are the small one of the paper."""

    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Labels, background labels included."""
    channels: int = 64
    """Width of every layer."""
    n_blocks: int = 4
    """Separable blocks."""
    stem_kernel_size: tuple[int, int] = (10, 4)
    """Kernel of the first convolution, frames and features."""
    stem_stride: tuple[int, int] = (2, 2)
    """Its stride in time and frequency."""
    first_stride: tuple[int, int] = (1, 1)
    """Stride of the first block in time and frequency."""
    step_frames: int = 4
    """Feature frames a step; a multiple of the product of both strides in time."""
    window_frames: int = 100
    """Feature frames averaged before a decision; a multiple of ``step_frames``."""

    def __post_init__(self) -> None:
        for name in ("stem_kernel_size", "stem_stride", "first_stride"):
            pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)
            if len(pair) != 2 or min(pair) < 1:
                raise SpecError(f"{name}={list(pair)} must be two numbers >= 1, of time and of frequency")
        if min(self.n_features, self.n_labels, self.channels, self.n_blocks) < 1:
            sizes = f"n_features={self.n_features}, n_labels={self.n_labels}, channels={self.channels}"
            raise SpecError(f"{sizes} and n_blocks={self.n_blocks} must be >= 1")
        if self.step_frames < 1 or self.step_frames % self.subsampling:
            raise SpecError(f"step_frames={self.step_frames} must be a multiple of the subsampling {self.subsampling}")
        if self.window_frames % self.step_frames or self.window_frames <= self.step_frames:
            rule = f"a multiple of step_frames={self.step_frames} and exceed it"
            raise SpecError(f"window_frames={self.window_frames} must be {rule}")

    @property
    def subsampling(self) -> int:
        """Feature frames a frame of the last block."""
        return self.stem_stride[0] * self.first_stride[0]


class DsCnn(StreamingModule):
    """First convolution, separable blocks, mean over frequency, classifier, average over a window."""

    def __init__(self, config: DsCnnConfig) -> None:
        super().__init__()
        channels, subsampling = config.channels, config.subsampling
        self.stem = StreamingConv2d(
            1,
            channels,
            n_frequencies=config.n_features,
            kernel_size=config.stem_kernel_size,
            stride=config.stem_stride,
        )
        blocks: list[SeparableBlock2d] = []
        n_frequencies = self.stem.n_frequencies
        for stride in (config.first_stride, *[(1, 1)] * (config.n_blocks - 1)):
            blocks.append(
                SeparableBlock2d(channels, n_frequencies=n_frequencies, kernel_size=BLOCK_KERNEL, stride=stride)
            )
            n_frequencies = blocks[-1].depthwise.n_frequencies
        self.blocks = nn.ModuleList(blocks)
        self.mean = FrequencyMean(channels, n_frequencies=n_frequencies)
        self.classifier = nn.Conv1d(channels, config.n_labels, 1)
        internal_step, window = config.step_frames // subsampling, config.window_frames // subsampling
        self.average = WindowAverage(config.n_labels, window=window, stride=internal_step)
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        reach = (BLOCK_KERNEL[0] - 1) * (config.stem_stride[0] + subsampling * (config.n_blocks - 1))
        self.receptive_field_frames = config.stem_kernel_size[0] + reach + config.window_frames - subsampling
        self.state_names = ("stem", *(f"block_{i}" for i in range(config.n_blocks)), "average")
        self.state_shapes = (
            self.stem.state_shape,
            *(block.depthwise.state_shape for block in blocks),
            self.average.state_shape,
        )

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, past = self.stem(features.unsqueeze(1), state[0])
        new_state = [past]
        x = torch.relu(x)
        for block, before in zip(self.blocks, state[1:-1], strict=True):
            x, past = block(x, before)
            new_state.append(past)
        x, past = self.average(self.classifier(self.mean(x).squeeze(3)), state[-1])
        return x.transpose(1, 2), (*new_state, past)
