"""The most recent rows of an endless series, in memory that never grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class RecentRows:
    """Keeps at least the last ``n_kept`` rows; appending writes in place and moves them back once in a while."""

    def __init__(
        self, n_kept: int, row_shape: tuple[int, ...], *, fill: float, dtype: npt.DTypeLike, block: int, window: int = 1
    ) -> None:
        """Start with ``n_kept`` rows of ``fill``.

        Args:
            n_kept: Rows that :meth:`last` can look back on before the newest :meth:`extend`.
            row_shape: Shape of a row.
            fill: Stands for the time before the series began.
            dtype: Of the values.
            block: Most rows an :meth:`extend` may add.
            window: Rows in each of the :meth:`windows`, up to ``n_kept`` + 1.
        """
        self._n_kept = n_kept
        self._rows: npt.NDArray[Any] = np.full((n_kept + 4 * block, *row_shape), fill, dtype=dtype)
        self._end = n_kept
        # A view of all windows there can be, made once: making one takes longer than adding a window up.
        views = np.lib.stride_tricks.sliding_window_view(self._rows, window, axis=0)
        self._windows: npt.NDArray[Any] = np.moveaxis(views, -1, 1)
        self._window = window

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

    def windows(self, n: int) -> npt.NDArray[Any]:
        """View ``[n, window, ...]`` of the windows that end with the newest ``n`` rows; valid as :meth:`last` is."""
        end = self._end - self._window + 1
        return self._windows[end - n : end]
