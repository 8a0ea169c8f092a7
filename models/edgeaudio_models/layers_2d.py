"""Blocks over time and frequency, ``[N, channels, T, frequencies]`` inside, with their past as argument and result.

Time is "valid" on the past joined with the new frames, as in :mod:`edgeaudio_models.layers`; frequency is padded with
zeros on both sides alike, since all of it is there in every frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_models.layers import join_past
from edgeaudio_runtime.errors import SpecError


def frequencies_after(n_frequencies: int, *, kernel_size: int, stride: int) -> int:
    """Frequencies a convolution leaves that pads ``(kernel_size - 1) // 2`` zeros on both sides.

    Raises:
        SpecError: None is left.
    """
    left = (n_frequencies + 2 * ((kernel_size - 1) // 2) - kernel_size) // stride + 1
    if left < 1:
        reason = f"a kernel of {kernel_size} frequencies does not fit in; use more features or a smaller kernel"
        raise SpecError(f"n_frequencies={n_frequencies}, {reason}")
    return left


class StreamingConv2d(nn.Module):
    """Join the past, convolve over time and frequency, normalize: FIFO -> conv2d -> batch norm.

    ``kernel_size`` and ``stride`` are ``(time, frequency)``; ``dilation`` is that of time. The bias lies in the batch
    norm, which export folds into the convolution.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        n_frequencies: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        past = dilation * (kernel_size[0] - 1) - (stride[0] - 1)
        if past < 1:
            raise SpecError(f"kernel_size={kernel_size} must exceed stride={stride} in time, or there is no past")
        self.state_shape = (n_inputs, past, n_frequencies)
        self.n_frequencies = frequencies_after(n_frequencies, kernel_size=kernel_size[1], stride=stride[1])
        self.conv = nn.Conv2d(
            n_inputs,
            n_outputs,
            kernel_size,
            stride=stride,
            padding=(0, (kernel_size[1] - 1) // 2),
            dilation=(dilation, 1),
            groups=groups,
            bias=False,
        )
        self.batch_norm = nn.BatchNorm2d(n_outputs)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, n_inputs, T, F]`` and the past to ``[N, n_outputs, T // stride, F']`` and the new past."""
        joined, past = join_past(past, x)
        return self.batch_norm(self.conv(joined)), past


class PointwiseConv2d(nn.Module):
    """Mix channels at every frame and frequency: conv2d of kernel 1 -> batch norm."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_inputs, n_outputs, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, n_inputs, T, F]`` to ``[N, n_outputs, T, F]``."""
        y: Tensor = self.batch_norm(self.conv(x))
        return y


class SeparableBlock2d(nn.Module):
    """FIFO -> depthwise -> relu -> pointwise -> relu over time and frequency; no residual."""

    def __init__(
        self, channels: int, *, n_frequencies: int, kernel_size: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__()
        self.depthwise = StreamingConv2d(
            channels, channels, n_frequencies=n_frequencies, kernel_size=kernel_size, stride=stride, groups=channels
        )
        self.pointwise = PointwiseConv2d(channels, channels)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, channels, T, F]`` and the past to ``[N, channels, T // stride, F']`` and the new past."""
        y, past = self.depthwise(x, past)
        return torch.relu(self.pointwise(torch.relu(y))), past


class FrequencyMean(nn.Module):
    """Mean over frequency as a depthwise conv2d of equal weights, which is exact in int8 in every engine."""

    def __init__(self, channels: int, *, n_frequencies: int) -> None:
        super().__init__()
        self.weight: Tensor
        weight = torch.full((channels, 1, 1, n_frequencies), 1.0 / n_frequencies)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, T, F]`` to ``[N, channels, T, 1]``."""
        return functional.conv2d(x, self.weight, groups=x.shape[1])


class SubSpectralConv(nn.Module):
    """Depthwise convolution of three frequencies, each band of frequencies normalized by itself.

    Sub-spectral normalization of Chang et al. (arXiv:2103.13620): a batch norm for each channel and band. While it
    learns, the convolution runs once and its bands are normalized. In evaluation every band is a convolution of its own
    with the shared kernel, followed by its norm: the same values, and each norm folds into its convolution exactly.
    """

    def __init__(self, channels: int, *, n_frequencies: int, bands: int, stride: int = 1) -> None:
        super().__init__()
        self.n_frequencies = frequencies_after(n_frequencies, kernel_size=3, stride=stride)
        if self.n_frequencies % bands:
            raise SpecError(f"bands={bands} must divide the {self.n_frequencies} frequencies that are normalized")
        self.conv = nn.Conv2d(
            channels, channels, (1, 3), stride=(1, stride), padding=(0, 1), groups=channels, bias=False
        )
        self.batch_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(bands))
        self._stride, self._inputs = stride, n_frequencies

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, T, F]`` to ``[N, channels, T, F']``."""
        width = self.n_frequencies // len(self.batch_norms)
        if self.training:
            parts = list(torch.split(self.conv(x), width, dim=3))
            bands = [norm(part) for norm, part in zip(self.batch_norms, parts, strict=True)]
        else:
            bands = [self._band(x, norm, i * width, width) for i, norm in enumerate(self.batch_norms)]
        return bands[0] if len(bands) == 1 else torch.cat(bands, dim=3)

    def _band(self, x: Tensor, norm: nn.Module, begin: int, width: int) -> Tensor:
        """Outputs ``begin`` to ``begin + width``, from just the inputs they see.

        Padding is symmetric: of the outermost bands, what the inner side's zero adds is cut off again.
        """
        stride, inputs = self._stride, self._inputs
        first, last = begin * stride - 1, (begin + width - 1) * stride + 2
        inner = first >= 0 and last <= inputs
        at_end = first >= 0 and not inner
        seen = x[:, :, :, max(first - (stride - 1) * at_end, 0) : min(last, inputs)]
        y: Tensor = functional.conv2d(
            seen, self.conv.weight, None, (1, stride), (0, 0 if inner else 1), groups=self.conv.groups
        )
        y = norm(y)
        return y if y.shape[3] == width else y[:, :, :, at_end : at_end + width]
