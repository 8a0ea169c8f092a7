"""The most recent rows of an endless series, in memory that never grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class RecentRows:
    """Keeps at least the last ``n_kept`` rows; appending writes in place and moves them back once in a while."""

    def __init__(
        self, n_kept: int, row_shape: tuple[int, ...], *, fill: float, dtype: npt.DTypeLike, block: int
    ) -> None:
        """Start with ``n_kept`` rows of ``fill``.

        Args:
            n_kept: Rows that :meth:`last` can look back on before the newest :meth:`extend`.
            row_shape: Shape of a row.
            fill: Stands for the time before the series began.
            dtype: Of the values.
            block: Most rows an :meth:`extend` may add.
        """
        self._n_kept = n_kept
        self._rows: npt.NDArray[Any] = np.full((n_kept + 4 * block, *row_shape), fill, dtype=dtype)
        self._end = n_kept

    def extend(self, n: int) -> npt.NDArray[Any]:
        """Add ``n`` rows and return a view of them, to be filled by the caller."""
        if self._end + n > len(self._rows):
            kept = self._rows[self._end - self._n_kept : self._end].copy()
            self._rows[: self._n_kept] = kept
            self._end = self._n_kept
        self._end += n
        return self._rows[self._end - n : self._end]

    def last(self, n: int) -> npt.NDArray[Any]:
        """View of the newest ``n`` rows, oldest first; valid until the next :meth:`extend`."""
        return self._rows[self._end - n : self._end]
