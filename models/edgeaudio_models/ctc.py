"""Reading CTC outputs: greedy decoding and the error rate of label strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """What turns one string into another."""

    substitutions: int = 0
    """Labels replaced by others."""
    deletions: int = 0
    """Labels of the reference that are missing."""
    insertions: int = 0
    """Labels that the reference does not have."""

    @property
    def total(self) -> int:
        """All of them together."""
        return self.substitutions + self.deletions + self.insertions


def count_edits(reference: Sequence[object], hypothesis: Sequence[object]) -> Edits:
    """Fewest insertions, deletions and substitutions from one string to the other (Levenshtein), told apart.

    Of several equally short ways the one with the most substitutions counts.
    """
    # Each cell: edits in all, then deletions and insertions, so that the least tuple is the way wanted.
    row = [(j, 0, j) for j in range(len(hypothesis) + 1)]
    for wanted in reference:
        diagonal, row[0] = row[0], (row[0][0] + 1, row[0][1] + 1, 0)
        for j, given in enumerate(hypothesis, start=1):
            kept = (diagonal[0] + (wanted != given), diagonal[1], diagonal[2])
            deleted = (row[j][0] + 1, row[j][1] + 1, row[j][2])
            inserted = (row[j - 1][0] + 1, row[j - 1][1], row[j - 1][2] + 1)
            diagonal, row[j] = row[j], min(kept, deleted, inserted)
    total, deletions, insertions = row[-1]
    return Edits(substitutions=total - deletions - insertions, deletions=deletions, insertions=insertions)


def edit_distance(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Fewest insertions, deletions and substitutions from one string to the other (Levenshtein)."""
    return count_edits(reference, hypothesis).total


def label_error_rate(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Edits over reference labels, summed over (reference, hypothesis) pairs: word error rate if labels are words."""
    every = list(pairs)
    n_labels = sum(len(reference) for reference, _ in every)
    return sum(edit_distance(*pair) for pair in every) / max(1, n_labels)
