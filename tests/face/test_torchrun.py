"""``torchrun`` with two processes that talk by gloo: the loss curve of one process, and one voice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeaudio_models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

ROUNDING = 2e-3
"""Relative difference of losses; as in ``tests/models/test_training_workers.py``."""


def torchrun(n_processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    command = [*launcher, "-m", "edgeaudio", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_two_processes_have_the_loss_curve_of_one(face: Any, tmp_path: Path) -> None:
    shared = ("--data", face.corpus, "--cache", face.cache, "--device", "cpu")
    done = torchrun(2, "train", face.recipe, *shared, "--output", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two' / 'checkpoint'}\n"
    assert done.stderr.count("epoch 2 of 3: loss") == 1
    found, wanted = load_checkpoint(tmp_path / "two" / "checkpoint"), load_checkpoint(face.checkpoint)
    assert len(found.history) == len(wanted.history) == 3
    for row, expected in zip(found.history, wanted.history, strict=True):
        assert row.loss == pytest.approx(expected.loss, rel=ROUNDING)
        assert row.learning_rate == expected.learning_rate
