"""Small streaming networks for the tests of export: a residual keyword net, a CTC net without averaging, a net over
time and frequency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

N_FEATURES = 10
CHANNELS = 16
FLOOR = -3.0


class Block(nn.Module):
    """Depthwise over time with a FIFO, pointwise, batch norms, residual add."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.keep = kernel - 1
        self.depthwise = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.pointwise = nn.Conv1d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        fifo = torch.cat([state, x], dim=2)
        y = torch.relu(self.norm1(self.depthwise(fifo)))
        return torch.relu(x + self.norm2(self.pointwise(y))), fifo[:, :, -self.keep :]


class Keyword(nn.Module):
    """Strided stem, residual blocks, average over a window of 12 internal frames as a FIFO, linear classifier."""

    step_frames = 4
    n_features = N_FEATURES
    n_labels = 5
    outputs_per_step = 1
    receptive_field_frames = 44
    latency_frames = 0

    def __init__(self, n_blocks: int = 2, window: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(N_FEATURES, CHANNELS, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.blocks = nn.ModuleList([Block(CHANNELS, 5) for _ in range(n_blocks)])
        self.average = nn.Conv1d(CHANNELS, CHANNELS, window, stride=2, groups=CHANNELS, bias=False)
        nn.init.constant_(self.average.weight, 1 / window)
        self.classifier = nn.Conv1d(CHANNELS, self.n_labels, 1)
        self.keep = window - 2
        self.state_names = ("stem", *(f"block{i}" for i in range(n_blocks)), "average")

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        keeps = [(N_FEATURES, 1), *((CHANNELS, block.keep) for block in self.blocks), (CHANNELS, self.keep)]
        return tuple(torch.zeros(batch, channels, keep) for channels, keep in keeps)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        x, after = torch.relu(self.norm(self.stem(fifo))), [fifo[:, :, -1:]]
        for block, before in zip(self.blocks, state[1:-1], strict=True):
            x, kept = block(x, before)
            after.append(kept)
        fifo = torch.cat([state[-1], x], dim=2)
        after.append(fifo[:, :, -self.keep :])
        return self.classifier(self.average(fifo)).transpose(1, 2), tuple(after)


class Ctc(nn.Module):
    """The same stem and blocks, a gate (sigmoid times value) and one linear output for every internal frame."""

    step_frames = 4
    n_features = N_FEATURES
    n_labels = 7
    outputs_per_step = 2
    receptive_field_frames = 20
    latency_frames = 0
    state_names = ("stem", "block0", "block1")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(N_FEATURES, CHANNELS, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.blocks = nn.ModuleList([Block(CHANNELS, 5), Block(CHANNELS, 5)])
        self.gate = nn.Conv1d(CHANNELS, CHANNELS, 1)
        self.value = nn.Conv1d(CHANNELS, CHANNELS, 1)
        self.classifier = nn.Linear(CHANNELS, self.n_labels)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros(batch, channels, keep) for channels, keep in ((N_FEATURES, 1), (CHANNELS, 4), (CHANNELS, 4))
        )

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        x, after = torch.relu(self.norm(self.stem(fifo))), [fifo[:, :, -1:]]
        for block, before in zip(self.blocks, state[1:], strict=True):
            x, kept = block(x, before)
            after.append(kept)
        x = torch.sigmoid(self.gate(x)) * torch.tanh(self.value(x))
        return self.classifier(x.transpose(1, 2)), tuple(after)


class Spectral(nn.Module):
    """Bins as an axis: strided stem, normalization in two bands, a mean over the bins added to all of them, a gate for
    the frames of a step, bins merged into channels, average over a window of 12 internal frames."""

    step_frames = 4
    n_features = N_FEATURES
    n_labels = 5
    outputs_per_step = 1
    receptive_field_frames = 31
    latency_frames = 0
    state_names = ("stem", "depthwise", "average")
    bins = 5
    window = 12

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.stem = nn.Conv2d(1, channels, (5, 4), stride=(2, 2), padding=(0, 1), bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.bands = nn.ModuleList(
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1), groups=channels, bias=False) for _ in range(2)
        )
        self.band_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.depthwise = nn.Conv2d(channels, channels, (3, 3), padding=(0, 1), groups=channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.mean = constant_taps(nn.Conv2d(channels, channels, (1, self.bins), groups=channels, bias=False))
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.pool = constant_taps(nn.Conv2d(channels, channels, (2, 1), stride=(2, 1), groups=channels, bias=False))
        self.gate = nn.Conv2d(channels, channels, 1)
        self.classifier = nn.Linear(self.bins * channels, self.n_labels)
        self.average = nn.Conv1d(self.n_labels, self.n_labels, self.window, stride=2, groups=self.n_labels, bias=False)
        nn.init.constant_(self.average.weight, 1 / self.window)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        shapes = ((1, 3, N_FEATURES), (self.channels, 2, self.bins), (self.n_labels, self.window - 2))
        return tuple(torch.zeros(batch, *shape) for shape in shapes)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        stem, depthwise, average = state
        fifo = torch.cat([stem, features.unsqueeze(1)], dim=2)
        x, stem = torch.relu(self.norm(self.stem(fifo))), fifo[:, :, -3:]
        low, high = (
            norm(band(part))
            for norm, band, part in zip(self.band_norms, self.bands, (x[..., :2], x[..., 2:]), strict=True)
        )
        x = torch.relu(torch.cat([low, high], dim=3))
        fifo = torch.cat([depthwise, x], dim=2)
        x, depthwise = torch.relu(self.depthwise_norm(self.depthwise(fifo))), fifo[:, :, -2:]
        x = torch.relu(x + self.pointwise(self.mean(x)))
        gate = torch.sigmoid(self.gate(self.pool(self.mean(x))))
        x = x * self.held(gate)
        x = self.classifier(x.permute(0, 2, 3, 1).flatten(2)).transpose(1, 2)
        fifo = torch.cat([average, x], dim=2)
        logits = self.average(fifo).transpose(1, 2)
        return logits, (stem, depthwise, fifo[:, :, 2 - self.window :])

    def held(self, gate: Tensor) -> Tensor:
        """The gate of each step for both of its frames."""
        return gate.repeat_interleave(2, dim=2)


def constant_taps(layer: nn.Conv2d) -> nn.Conv2d:
    """A depthwise convolution that averages."""
    nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    layer.weight.requires_grad_(False)
    return layer


def speechlike(n_frames: int, seed: int) -> npt.NDArray[np.float32]:
    """Features ``[n_frames, N_FEATURES]`` with what log-mel has: slow loudness, correlated bands, stretches at the
    floor."""
    rng = np.random.default_rng(seed)
    loudness = 1.5 * np.sin(np.arange(n_frames) / rng.uniform(4, 9) + rng.uniform(0, 6)) + rng.normal(0, 0.3)
    bands = rng.normal(0, 0.5, (n_frames, N_FEATURES)) + 0.2 * np.cumsum(rng.normal(0, 1.0, N_FEATURES))
    real = loudness[:, None] + bands
    real[rng.integers(n_frames) :][:25] = FLOOR
    return np.clip(real, FLOOR, -FLOOR).astype(np.float32)


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded weights and batch norms that know their inputs, as after training."""
    torch.manual_seed(seed)
    for module in network.modules():
        averages = [getattr(network, name, None) for name in ("average", "mean", "pool")]
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)) and module not in averages:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    network.train()
    clips = torch.from_numpy(np.stack([speechlike(100, 1000 + i) for i in range(16)]))
    with torch.no_grad():
        for _ in range(30):
            network(clips, network.initial_state(16))  # type: ignore[operator]
    return network.eval()
