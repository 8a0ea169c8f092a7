"""Small streaming networks for the tests of export: a residual keyword net and a CTC net without averaging."""

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
        if isinstance(module, (nn.Conv1d, nn.Linear)) and module is not getattr(network, "average", None):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    network.train()
    clips = torch.from_numpy(np.stack([speechlike(100, 1000 + i) for i in range(16)]))
    with torch.no_grad():
        for _ in range(30):
            network(clips, network.initial_state(16))  # type: ignore[operator]
    return network.eval()
