"""How good a network is on clips it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeaudio_models.ctc import greedy_decode, label_error_rate
from edgeaudio_models.streaming import StreamingModule, run_from_reset
from edgeaudio_models.waveform_batches import Strings

BATCH_SIZE = 256

FrontEnd = Callable[[Tensor], Tensor]
"""float32 waveforms ``[N, S]`` to features ``[N, T, F]`` with T a multiple of the network's step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeywordMetrics:
    """Accuracy of single clips, each scored at its last step from a reset."""

    accuracy: float
    """Share of the clips that are right, 0 to 1."""
    macro_accuracy: float
    """Mean over the labels that have clips of the share of their clips that are right."""
    label_accuracy: dict[str, float]
    """That share by label."""
    n_clips: int
    """Clips scored."""


def keyword_metrics(predicted: Tensor, label_indices: Tensor, labels: Sequence[str]) -> KeywordMetrics:
    """Compare predicted with true label indices, int64 ``[n]`` both."""
    right = (predicted == label_indices).to(torch.float64)
    share = {
        label: float(right[label_indices == index].mean())
        for index, label in enumerate(labels)
        if bool((label_indices == index).any())
    }
    return KeywordMetrics(
        accuracy=float(right.mean()),
        macro_accuracy=sum(share.values()) / len(share),
        label_accuracy=share,
        n_clips=len(right),
    )


@torch.no_grad()
def last_logits(module: StreamingModule, features: Tensor) -> Tensor:
    """Logits ``[n, n_labels]`` of the last step of clips ``[n, T, F]``, each from a reset, in evaluation mode."""
    module.eval()
    device = _device(module)
    parts = torch.split(features, BATCH_SIZE)
    return torch.cat([run_from_reset(module, part.to(device))[:, -1].cpu() for part in parts])


@torch.no_grad()
def clip_features(front_end: FrontEnd, waveforms: Tensor, *, device: torch.device | None = None) -> Tensor:
    """Features ``[n, T, F]`` of int16 clips ``[n, S]``, computed and left on ``device``; None is the processor."""
    parts = torch.split(waveforms, BATCH_SIZE)
    return torch.cat([front_end(part.to(device=device, dtype=torch.float32) / 32768.0) for part in parts])


@torch.no_grad()
def string_error_rate(
    module: StreamingModule,
    front_end: FrontEnd,
    strings: Strings,
    *,
    outputs_of: Callable[[Tensor], Tensor],
) -> float:
    """Edits per label of greedy decoding over ``strings``; ``outputs_of`` maps samples to outputs, int64 both."""
    module.eval()
    logits = run_from_reset(module, front_end(strings.waveforms.to(_device(module)))).cpu()
    lengths = outputs_of(strings.n_samples).tolist()
    decoded = [greedy_decode(row[:length]) for row, length in zip(logits, lengths, strict=True)]
    return label_error_rate(zip(strings.references(), decoded, strict=True))


def _device(module: StreamingModule) -> torch.device:
    return next(module.parameters()).device
