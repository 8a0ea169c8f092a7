"""BcResNet: broadcasted residual learning for keywords, in causal streaming form.

The BC-ResNet of Kim et al. (arXiv:2106.04140): in each block a convolution over frequency keeps the two-dimensional
picture, its mean over frequency is filtered over time, and that is added back onto every frequency. The layers, widths
and dilations are those of the paper; ``scale`` is its multiplier (BC-ResNet-1 to -8). What differs, and why:

- time is causal, with the past as state (theirs is padded on both sides of a clip);
- the classifier reads every frame and its logits are averaged in a sliding window of one second, instead of
  classifying the average of a clip: the same on a full window, and the state is ``n_labels`` wide;
- sub-spectral normalization is a batch norm for each band of a convolution, so that it folds away
  (:class:`edgeaudio_models.layers_2d.SubSpectralConv`): the same values and parameters;
- no dropout in the blocks: the recipes regularize by augmentation.

Swish stays as ``x * sigmoid(x)``: product and table are exact in int8 in every engine, on one value a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeaudio_models.layers import WindowAverage, join_past
from edgeaudio_models.layers_2d import FrequencyMean, PointwiseConv2d, StreamingConv2d, SubSpectralConv
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError

BASE_CHANNELS = 8
"""Width that ``scale`` multiplies."""
STAGE_WIDTHS = (1.0, 1.5, 2.0, 2.5)
"""Width of each stage, in base channels."""
STAGE_BLOCKS = (2, 2, 4, 4)
"""Blocks of each stage; in the i-th, time is dilated by ``2 ** i``."""
STAGE_STRIDES = (1, 2, 2, 1)
"""Stride in frequency of the first block of each stage."""
HEAD_WIDTH, TAIL_WIDTH = 2, 4
"""Widths of the first and the last convolution, in base channels."""
KERNEL, EDGE_KERNEL = 3, 5
"""Kernels of the blocks, and of the first and the last convolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BcResNetConfig:
    """Shape of a :class:`BcResNet`; the defaults are BC-ResNet-1."""

    n_features: int
    """Values in a feature frame; after a halving in frequency, ``bands`` divides what each stage has (40 with 5)."""
    n_labels: int
    """Labels, background labels included."""
    scale: float = 1.0
    """Multiplier of all widths: the number in the name of the published ones (1, 1.5, 2, 3, 6, 8)."""
    bands: int = 5
    """Bands of frequencies that are normalized each by itself."""
    step_frames: int = 4
    """Feature frames a step, >= 1."""
    window_frames: int = 100
    """Feature frames averaged before a decision; a multiple of ``step_frames``."""

    def __post_init__(self) -> None:
        if min(self.n_features, self.n_labels, self.bands, self.step_frames) < 1:
            sizes = f"n_features={self.n_features}, n_labels={self.n_labels}, bands={self.bands}"
            raise SpecError(f"{sizes} and step_frames={self.step_frames} must be >= 1")
        if not 1 / BASE_CHANNELS <= self.scale <= 64:
            raise SpecError(f"scale={self.scale} must be from {1 / BASE_CHANNELS} to 64; 1 is BC-ResNet-1")
        if self.window_frames % self.step_frames or self.window_frames <= self.step_frames:
            rule = f"a multiple of step_frames={self.step_frames} and exceed it"
            raise SpecError(f"window_frames={self.window_frames} must be {rule}")

    def width(self, factor: float) -> int:
        """Channels of a layer of ``factor`` base channels, rounded down as in the authors' code."""
        return int(factor * int(BASE_CHANNELS * self.scale))


class BroadcastBlock(nn.Module):
    """``relu([x +] f2 + f1(mean over frequency of f2))``: f2 over frequency, f1 over time, added onto all frequencies.

    Where width or frequencies change, f2 begins with a 1x1 convolution and there is no identity.
    """

    def __init__(
        self, n_inputs: int, channels: int, *, n_frequencies: int, bands: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        changes = n_inputs != channels or stride > 1
        self.widen = PointwiseConv2d(n_inputs, channels) if changes else None
        self.frequency = SubSpectralConv(channels, n_frequencies=n_frequencies, bands=bands, stride=stride)
        self.n_frequencies = self.frequency.n_frequencies
        self.mean = FrequencyMean(channels, n_frequencies=self.n_frequencies)
        self.time = StreamingConv2d(
            channels, channels, n_frequencies=1, kernel_size=(KERNEL, 1), dilation=dilation, groups=channels
        )
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, n_inputs, T, F]`` and the past to ``[N, channels, T, F']`` and the new past."""
        spectrum = self.frequency(x if self.widen is None else torch.relu(self.widen(x)))
        line, past = self.time(self.mean(spectrum), past)
        line = self.mix(line * torch.sigmoid(line))
        y = spectrum + line
        return torch.relu(y if self.widen is not None else x + y), past


class BcResNet(StreamingModule):
    """First convolution, stages of broadcasted residual blocks, classifier, average over a window."""

    def __init__(self, config: BcResNetConfig) -> None:
        super().__init__()
        head, tail = config.width(HEAD_WIDTH), config.width(TAIL_WIDTH)
        self.head = StreamingConv2d(
            1, head, n_frequencies=config.n_features, kernel_size=(EDGE_KERNEL, EDGE_KERNEL), stride=(1, 2)
        )
        blocks = _blocks(config, head, self.head.n_frequencies)
        self.blocks = nn.ModuleList(blocks)
        last, n_frequencies = config.width(STAGE_WIDTHS[-1]), blocks[-1].n_frequencies
        self.tail = nn.Conv2d(last, last, (EDGE_KERNEL, n_frequencies), groups=last, bias=False)
        self.widen = PointwiseConv2d(last, tail)
        self.classifier = nn.Conv1d(tail, config.n_labels, 1)
        self.average = WindowAverage(config.n_labels, window=config.window_frames, stride=config.step_frames)
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        reach = (KERNEL - 1) * sum(n << i for i, n in enumerate(STAGE_BLOCKS))
        self.receptive_field_frames = reach + 2 * (EDGE_KERNEL - 1) + config.window_frames
        self.state_names = ("head", *(f"block_{i}" for i in range(len(blocks))), "tail", "average")
        self.state_shapes = (
            self.head.state_shape,
            *(block.time.state_shape for block in blocks),
            (last, EDGE_KERNEL - 1, n_frequencies),
            self.average.state_shape,
        )

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, past = self.head(features.unsqueeze(1), state[0])
        new_state = [past]
        x = torch.relu(x)
        for block, before in zip(self.blocks, state[1:-2], strict=True):
            x, past = block(x, before)
            new_state.append(past)
        joined, tail_past = join_past(state[-2], x)
        x = torch.relu(self.widen(self.tail(joined))).squeeze(3)
        x, past = self.average(self.classifier(x), state[-1])
        return x.transpose(1, 2), (*new_state, tail_past, past)


def _blocks(config: BcResNetConfig, n_inputs: int, n_frequencies: int) -> list[BroadcastBlock]:
    blocks: list[BroadcastBlock] = []
    for i, (factor, count, stride) in enumerate(zip(STAGE_WIDTHS, STAGE_BLOCKS, STAGE_STRIDES, strict=True)):
        for j in range(count):
            channels = config.width(factor)
            block = BroadcastBlock(
                n_inputs,
                channels,
                n_frequencies=n_frequencies,
                bands=config.bands,
                stride=stride if j == 0 else 1,
                dilation=1 << i,
            )
            blocks.append(block)
            n_inputs, n_frequencies = channels, block.n_frequencies
    return blocks
