"""The picture of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeaudio.plots import Series, line_plot

if TYPE_CHECKING:
    from edgeaudio_models.history import HistoryRow


def learning_curve(history: Sequence[HistoryRow], *, figure: str) -> str:
    """SVG of loss and validation error by epoch.

    Args:
        history: Rows of a training, at least one.
        figure: Name of the validation figure, the larger the better, at most 1; ``1 - figure`` is drawn.

    Returns:
        A whole SVG document.
    """
    epochs = [row.epoch for row in history]
    errors = [1.0 - row.score for row in history]
    return line_plot(
        [
            Series(name="training loss", x=epochs, y=[row.loss for row in history]),
            Series(name=f"1 - {figure}", x=epochs, y=errors),
        ],
        x_label="epoch",
        y_label="nats; share",
        # Without an error there is no logarithm.
        log_y=min(errors) > 0.0,
    )
