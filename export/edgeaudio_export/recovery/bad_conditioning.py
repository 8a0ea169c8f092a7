"""The opposite of recovery: a network of the same float function that 8 bits ruin, to show what recovery is worth.

In every group of channels one is multiplied by a large factor where it is produced and divided by it where it is read.
The channel is the one with the heaviest tail (largest peak relative to its root mean square), so that the range of the
whole tensor is set by values that are rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from edgeaudio_export.recovery.channel_groups import ChannelGroup, channel_groups
from edgeaudio_export.recovery.equalization import rescale
from edgeaudio_export.recovery.observation import observe
from edgeaudio_export.step_graph import Features, StepGraph

MIN_PEAK = 0.2
"""A channel whose peak is below this share of the group's largest would not stand out enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AmplifiedChannel:
    """The outlier of one group."""

    group: str
    """First layer that writes into the group."""
    channel: int
    """Index of the channel."""
    kurtosis_before: float
    """Excess kurtosis of all values of the group: 0 for a Gaussian, 3 for a Laplacian."""
    kurtosis_after: float
    """The same with the outlier."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def worsen(
    step: StepGraph,
    streams: Sequence[Features],
    *,
    factor: float = 50.0,
    batch: int = 32,
    names: Sequence[str] | None = None,
) -> tuple[StepGraph, tuple[AmplifiedChannel, ...]]:
    """Amplify one channel of every group by ``factor`` without changing the float function.

    Args:
        step: Float step graph; it is left as it was.
        streams: Features ``[T, n_features]`` on which tails are measured.
        factor: How far the outlier stands out.
        batch: Streams run side by side.
        names: Groups to worsen, by their first producer; None means all.
    """
    groups = [group for group in channel_groups(step) if names is None or group.name in names]
    seen, done = observe(step, streams, groups, batch=batch), []
    for group in groups:
        rows = seen.samples[group.name]
        channel = _heaviest_tail(rows)
        factors = torch.ones(group.channels)
        factors[channel] = 1.0 / factor
        step = rescale(step, group, factors)
        done.append(_facts(group, channel, rows, rows / factors))
    return step, tuple(done)


def _heaviest_tail(rows: Tensor) -> int:
    peaks = rows.abs().amax(dim=0)
    tails = peaks / rows.square().mean(dim=0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return int(tails.where(peaks >= MIN_PEAK * peaks.max(), 0.0).argmax())


def _facts(group: ChannelGroup, channel: int, before: Tensor, after: Tensor) -> AmplifiedChannel:
    return AmplifiedChannel(
        group=group.name,
        channel=channel,
        kurtosis_before=excess_kurtosis(before),
        kurtosis_after=excess_kurtosis(after),
    )


def excess_kurtosis(values: Tensor) -> float:
    """``E[(x - m)**4] / E[(x - m)**2]**2 - 3`` of all values."""
    centered = values.double() - values.double().mean()
    return float(centered.pow(4).mean() / centered.square().mean().square() - 3.0)
