"""GruNet: one strided convolution, a gated recurrent unit stepped once every internal frame, for keywords.

After the GRU of "Hello Edge" (Zhang et al., arXiv:1711.07128) with the cell of Cho et al. (arXiv:1406.1078) in the form
of cuDNN and ``torch.nn.GRU``, the reset gate applied to the hidden product. What differs, and why:

- the cell is written out as 1x1 convolutions, sums and products with its hidden state explicit: exporters keep a fused
  GRU in float, or unroll a whole clip;
- a convolution subsamples the features first, so that one step of the network is one step of the cell;
- logits of every frame are averaged in a sliding window, as in the other keyword networks, so that what a clip taught
  holds in an endless stream.

Of the published shape is the cell alone: on 10 coefficients, with 154, 250 or 400 values, it and its classifier are the
GRU-S, -M and -L of the paper but for one bias a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_models.layers import StreamingConv, WindowAverage
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class GruNetConfig:
    """Shape of a :class:`GruNet`."""

    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Labels, background labels included."""
    stem_channels: int = 64
    """Width of the convolution before the cell."""
    hidden: int = 64
    """Values of the hidden state."""
    stem_kernel_size: int = 10
    """Kernel of the convolution, in feature frames."""
    step_frames: int = 4
    """Feature frames a step of the cell, the stride of the convolution."""
    window_frames: int = 100
    """Feature frames averaged before a decision; a multiple of ``step_frames``."""

    def __post_init__(self) -> None:
        if min(self.n_features, self.n_labels, self.stem_channels, self.hidden, self.step_frames) < 1:
            sizes = f"n_features={self.n_features}, n_labels={self.n_labels}, stem_channels={self.stem_channels}"
            raise SpecError(f"{sizes}, hidden={self.hidden} and step_frames={self.step_frames} must be >= 1")
        if self.window_frames % self.step_frames or self.window_frames <= self.step_frames:
            rule = f"a multiple of step_frames={self.step_frames} and exceed it"
            raise SpecError(f"window_frames={self.window_frames} must be {rule}")


class GruCell(nn.Module):
    """``h' = (1 - z) n + z h`` with ``r, z = sigmoid(W x + U h)`` and ``n = tanh(W x + r (U h))``, frame by frame."""

    def __init__(self, n_inputs: int, hidden: int) -> None:
        super().__init__()
        self.input_reset, self.input_update, self.input_new = (nn.Conv1d(n_inputs, hidden, 1) for _ in range(3))
        self.hidden_reset, self.hidden_update = (nn.Conv1d(hidden, hidden, 1, bias=False) for _ in range(2))
        self.hidden_new = nn.Conv1d(hidden, hidden, 1)
        self.minus_one: Tensor
        self.one: Tensor
        self.register_buffer("minus_one", -torch.ones(hidden, 1, 1), persistent=False)
        self.register_buffer("one", torch.ones(hidden), persistent=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One frame ``[N, n_inputs, 1]`` and the hidden state ``[N, hidden, 1]`` to the new hidden state."""
        reset = torch.sigmoid(self.input_reset(x) + self.hidden_reset(h))
        keep = torch.sigmoid(self.input_update(x) + self.hidden_update(h))
        new = torch.tanh(self.input_new(x) + reset * self.hidden_new(h))
        return self._complement(keep) * new + keep * h

    def _complement(self, share: Tensor) -> Tensor:
        """``1 - share`` as a depthwise convolution, which has weights and bias on codes in every engine."""
        return functional.conv1d(share, self.minus_one, self.one, groups=len(self.one))


class GruNet(StreamingModule):
    """Strided convolution, cell, linear classifier, average over a window; one logit vector a step."""

    recurrent = True

    def __init__(self, config: GruNetConfig) -> None:
        super().__init__()
        self.stem = StreamingConv(
            config.n_features, config.stem_channels, kernel_size=config.stem_kernel_size, stride=config.step_frames
        )
        self.cell = GruCell(config.stem_channels, config.hidden)
        self.classifier = nn.Conv1d(config.hidden, config.n_labels, 1)
        self.average = WindowAverage(config.n_labels, window=config.window_frames // config.step_frames, stride=1)
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        self.receptive_field_frames = config.stem_kernel_size + config.window_frames - config.step_frames
        self.state_names = ("stem", "hidden", "average")
        self.state_shapes = (self.stem.state_shape, (config.hidden, 1), self.average.state_shape)

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x, stem_past = self.stem(features.transpose(1, 2), state[0])
        x = torch.relu(x)
        # One frame is not cut from the rest: a step is then free of slices.
        frames = [x] if x.shape[2] == 1 else list(torch.split(x, 1, dim=2))
        outputs, hidden = [], state[1]
        for frame in frames:
            hidden = self.cell(frame, hidden)
            outputs.append(hidden)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        x, past = self.average(self.classifier(x), state[2])
        return x.transpose(1, 2), (stem_past, hidden, past)
