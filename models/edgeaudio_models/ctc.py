"""Reading CTC outputs: greedy decoding and the error rate of label strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

BLANK = 0
"""Index of the blank label."""


def greedy_decode(logits: Tensor) -> list[int]:
    """Best label of every output, repeats merged, blanks dropped (Graves et al., 2006).

    Args:
        logits: ``[T_out, n_labels]``.

    Returns:
        Label indices, none of them :data:`BLANK`; empty if nothing was heard.
    """
    best = [int(index) for index in logits.argmax(dim=1)]
    return [now for before, now in zip([BLANK, *best], best, strict=False) if now not in (before, BLANK)]


def edit_distance(reference: Sequence[int], hypothesis: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions from one string to the other (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, given in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != given))
    return row[-1]


def label_error_rate(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Edits over reference labels, summed over (reference, hypothesis) pairs: word error rate if labels are words."""
    every = list(pairs)
    n_labels = sum(len(reference) for reference, _ in every)
    return sum(edit_distance(*pair) for pair in every) / max(1, n_labels)
