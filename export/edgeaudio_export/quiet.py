"""Silence for libraries that report on themselves while they run; nothing of it is the caller's to mend."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TORCH_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.utils._pytree",
    "torch.onnx._internal.exporter._registration",
    "torchao",
    "onnxscript",
    "onnx_ir",
)
"""Loggers of torch, its exporter and torchao."""


@contextmanager
def quiet_torch() -> Iterator[None]:
    """No warnings, and no log lines below an error from ``TORCH_LOGGERS``."""
    loggers = [logging.getLogger(name) for name in TORCH_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_root(words: str) -> Iterator[None]:
    """Drop root log records that contain ``words``: some libraries log their advice without a logger of their own."""

    def keep(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
