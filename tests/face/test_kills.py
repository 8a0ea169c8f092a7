"""A process that is killed, truly, at a moment nobody chose: what it leaves is whole or not there, and work goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.selftest import self_test

pytestmark = pytest.mark.slow

EPOCHS = 6
LONGEST_WAIT_S = 1.5
"""Moments are drawn from this long after a sign of life: writing and proving take about as long."""

Start = Callable[..., "subprocess.Popen[str]"]
Contents = Callable[[Path], dict[str, bytes]]


def shared(face: Any) -> tuple[object, ...]:
    return ("--data", face.corpus, "--cache", face.cache)


def finish(process: subprocess.Popen[str]) -> str:
    """Its stdout; it must have ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)


def test_a_killed_training_goes_on_to_the_weights_it_would_have_had(face: Any, start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "tones.toml"
    switches = f"patience = {EPOCHS}\n\n[augmentation]\nroom_probability = 0.5\nn_rooms = 4\n\n[calibration]"
    recipe.write_text(face.recipe.read_text("utf-8").replace("\n[calibration]", switches), "utf-8")
    command = ("train", recipe, "--epochs", EPOCHS, *shared(face), "--output")
    whole = start(*command, tmp_path / "whole")
    cut = start(*command, tmp_path / "cut")
    assert cut.stderr is not None
    for line in cut.stderr:
        if line.startswith("epoch 2 of"):
            break
    kill(cut)
    finish(whole)
    assert (tmp_path / "cut" / "training_state.pt").is_file()
    assert not (tmp_path / "cut" / "checkpoint").exists()
    resumed = start(*command, tmp_path / "cut")
    _, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert "epoch 1 of" not in err
    assert f"epoch {EPOCHS} of {EPOCHS}" in err
    weights = [(tmp_path / run / "checkpoint" / "weights.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_killed_export_leaves_the_old_bundle_or_the_new_one_whole(
    face: Any, start: Start, run: Any, own_bundle: Path, tmp_path: Path, contents: Contents
) -> None:
    command = ("export", face.checkpoint, *shared(face), "--clips", 2, "--force", "--output", own_bundle)
    before = contents(own_bundle)
    draw = random.Random(0)
    for sign in ("quantizing", "climbing", "climbing"):
        process = start(*command)
        assert process.stderr is not None
        assert any(line.startswith(sign) for line in process.stderr)
        time.sleep(draw.uniform(0, LONGEST_WAIT_S))
        kill(process)
        bundle = open_bundle(own_bundle)
        assert self_test(bundle).passed
        assert set(contents(own_bundle)) == set(before)
    assert run(*command).exit_code == 0
    assert self_test(open_bundle(own_bundle)).passed
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_first_export_leaves_no_bundle_and_the_next_one_works(
    face: Any, start: Start, run: Any, tmp_path: Path
) -> None:
    command = ("export", face.checkpoint, *shared(face), "--clips", 2, "--output", tmp_path / "bundle")
    process = start(*command)
    staged = tmp_path / ".bundle.staged"
    deadline = time.monotonic() + 240
    while not (staged / "manifest.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    kill(process)
    assert not (tmp_path / "bundle").exists()
    assert run("inspect", tmp_path / "bundle").exit_code == 2
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert self_test(open_bundle(tmp_path / "bundle")).passed
    assert not staged.exists()
