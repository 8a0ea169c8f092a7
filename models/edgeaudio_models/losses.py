"""What training minimizes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def keyword_loss(logits: Tensor, label_indices: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy of the last logit vector of each clip, with smoothed targets.

    Args:
        logits: ``[N, T_out, n_labels]`` from reset.
        label_indices: int64 ``[N]``.
        label_smoothing: Probability spread evenly over all labels.
    """
    return functional.cross_entropy(logits[:, -1], label_indices, label_smoothing=label_smoothing)


def ctc_loss(logits: Tensor, n_outputs: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Mean over strings of the CTC loss per label; label 0 is the blank.

    Args:
        logits: ``[N, T_out, n_labels]``.
        n_outputs: Outputs that belong to each string, int64 ``[N]``; the rest is padding.
        targets: Label indices of all strings, one after the other, int64 ``[sum(target_lengths)]``.
        target_lengths: Labels of each string, int64 ``[N]``.

    A string that does not fit its outputs counts as 0 instead of infinity.
    """
    log_probs = functional.log_softmax(logits, dim=2).transpose(0, 1)
    return functional.ctc_loss(log_probs, targets, n_outputs, target_lengths, blank=0, zero_infinity=True)


def word_end_loss(logits: Tensor, word_ends: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Cross-entropy of each word at the output in which it ends.

    Args:
        logits: ``[N, T_out, n_labels]``.
        word_ends: Output of each word, one string after the other, int64 ``[sum(target_lengths)]``; those past the last
            output count as the last.
        targets: Label of each word, in the same order.
        target_lengths: Words of each string, int64 ``[N]``.
    """
    rows = torch.repeat_interleave(torch.arange(len(logits), device=logits.device), target_lengths)
    return functional.cross_entropy(logits[rows, word_ends.clamp_max(logits.shape[1] - 1)], targets)
