"""Blocks of the streaming networks, ``[N, channels, T]`` inside, each with its past as an argument and a result.

A convolution over time with kernel k, dilation d and stride s is "valid" on the past joined with the new frames; the
past is the last ``d * (k - 1) - (s - 1)`` frames (google-research/kws_streaming ``layers/stream.py`` keeps the same
count). From a reset that past is real 0, which in int8 is the zero point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_runtime.errors import SpecError


def join_past(past: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Put the past before the new frames: ``(cat([past, x]), its last K frames)`` for a past of K frames."""
    joined = torch.cat([past, x], dim=2)
    return joined, joined[:, :, -past.shape[2] :]


class StreamingConv(nn.Module):
    """Join the past, convolve over time, normalize: FIFO -> conv1d -> batch norm.

    The bias lies in the batch norm, which export folds into the convolution.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.state_shape = (n_inputs, dilation * (kernel_size - 1) - (stride - 1))
        if self.state_shape[1] < 1:
            raise SpecError(f"kernel_size={kernel_size} must exceed stride={stride}, or there is no past to carry")
        self.conv = nn.Conv1d(
            n_inputs,
            n_outputs,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.batch_norm = nn.BatchNorm1d(n_outputs)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, n_inputs, T]`` and the past to ``[N, n_outputs, T // stride]`` and the new past."""
        joined, past = join_past(past, x)
        return self.batch_norm(self.conv(joined)), past


class PointwiseConv(nn.Module):
    """Mix channels frame by frame: conv1d of kernel 1 -> batch norm; a stride keeps the first of that many frames."""

    def __init__(self, n_inputs: int, n_outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_inputs, n_outputs, 1, stride=stride, bias=False)
        self.batch_norm = nn.BatchNorm1d(n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, n_inputs, T]`` to ``[N, n_outputs, T // stride]``."""
        y: Tensor = self.batch_norm(self.conv(x))
        return y


class SeparableBlock(nn.Module):
    """FIFO -> depthwise -> relu -> pointwise -> relu, with an optional stride and another width; no residual."""

    def __init__(self, n_inputs: int, n_outputs: int, *, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.depthwise = StreamingConv(n_inputs, n_inputs, kernel_size=kernel_size, stride=stride, groups=n_inputs)
        self.pointwise = PointwiseConv(n_inputs, n_outputs)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, n_inputs, T]`` and the past to ``[N, n_outputs, T // stride]`` and the new past."""
        y, past = self.depthwise(x, past)
        return torch.relu(self.pointwise(torch.relu(y))), past


class OwnScale(nn.Module):
    """A depthwise convolution of weight 1: changes no value, but in int8 what comes out has a scale of its own.

    An addition is exact in every engine where its inputs and output share one scale. Without this on the way past the
    convolutions, a chain of residual blocks and what feeds it would all share the widest, and narrow activations would
    use few of their codes (``docs/decisions/0011-own-scale-past-a-block.md``). Training skips it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.ones(channels, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, T]``, unchanged."""
        return x if self.training else functional.conv1d(x, self.weight, groups=x.shape[1])


class ResidualBlock(nn.Module):
    """``relu(x + pointwise(relu(depthwise(x))))``: FIFO -> depthwise -> relu -> pointwise -> add -> relu.

    Width and frame rate stay, so that both inputs and the output of the addition can share one scale: then the int8
    sum is exact in every engine. Every value that passes a FIFO is >= 0.
    """

    def __init__(self, channels: int, *, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = StreamingConv(channels, channels, kernel_size=kernel_size, dilation=dilation, groups=channels)
        self.pointwise = PointwiseConv(channels, channels)
        self.skip = OwnScale(channels)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, channels, T]`` and the past to the same shape and the new past."""
        y, past = self.depthwise(x, past)
        return torch.relu(self.skip(x) + self.pointwise(torch.relu(y))), past


class SqueezeExcitation(nn.Module):
    """``x * sigmoid(W2 relu(W1 mean(x)))`` with the mean over the last ``window`` frames: a gate a channel and frame.

    The context of ContextNet (Han et al., arXiv:2005.03191) made causal: its mean is over a whole utterance. FIFO ->
    depthwise conv1d of equal weights -> two 1x1 convolutions; up to 25 taps are one fast kernel.
    """

    def __init__(self, channels: int, *, bottleneck: int, window: int) -> None:
        super().__init__()
        self.average = WindowAverage(channels, window=window, stride=1)
        self.state_shape = self.average.state_shape
        self.squeeze = nn.Conv1d(channels, bottleneck, 1)
        self.excite = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, channels, T]`` and the past to the same shape and the new past."""
        mean, past = self.average(x, past)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean)))), past


class GatedResidualBlock(nn.Module):
    """``relu(x + gate(pointwise(relu(depthwise(x)))))``: a :class:`ResidualBlock` whose branch is gated by its context.

    Two pasts: that of the depthwise convolution and that of the gate's average.
    """

    def __init__(self, channels: int, *, kernel_size: int, bottleneck: int, window: int) -> None:
        super().__init__()
        self.depthwise = StreamingConv(channels, channels, kernel_size=kernel_size, groups=channels)
        self.pointwise = PointwiseConv(channels, channels)
        self.gate = SqueezeExcitation(channels, bottleneck=bottleneck, window=window)
        self.skip = OwnScale(channels)

    def forward(self, x: Tensor, past: Tensor, gate_past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[N, channels, T]`` and both pasts to the same shape and the new pasts."""
        y, past = self.depthwise(x, past)
        y, gate_past = self.gate(self.pointwise(torch.relu(y)), gate_past)
        return torch.relu(self.skip(x) + y), past, gate_past


class WindowAverage(nn.Module):
    """Mean over the last ``window`` frames, once every ``stride`` frames: the mean of each step, then that of steps.

    Only the means of the steps are carried: FIFO -> depthwise conv1d of equal weights. As a convolution the int8 mean
    is exact in every engine, which AVERAGE_POOL is not; up to 25 taps are one fast kernel, a whole window is not. The
    mean times ``gain`` comes out, so that a mean over networks costs no operation of its own.
    """

    def __init__(self, channels: int, *, window: int, stride: int, gain: float = 1.0) -> None:
        super().__init__()
        if window <= stride or window % stride:
            raise SpecError(f"window={window} must be a multiple of stride={stride} and exceed it")
        self.window = window
        self.stride = stride
        steps = window // stride
        self.state_shape = (channels, steps - 1)
        self.step_weight: Tensor
        self.window_weight: Tensor
        self.register_buffer("step_weight", torch.full((channels, 1, stride), 1.0 / stride), persistent=False)
        self.register_buffer("window_weight", torch.full((channels, 1, steps), gain / steps), persistent=False)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, channels, T]`` and the past to ``[N, channels, T // stride]`` and the new past."""
        channels = x.shape[1]
        steps = functional.conv1d(x, self.step_weight, stride=self.stride, groups=channels) if self.stride > 1 else x
        joined, past = join_past(past, steps)
        return functional.conv1d(joined, self.window_weight, groups=channels), past
