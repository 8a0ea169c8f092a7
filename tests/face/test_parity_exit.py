"""How ``edgeaudio parity`` ends: 0 for a good bundle, 1 for a damaged one, 2 in one line for what cannot be judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.faults import network
from tests.parity.faults.planting import network_with

pytestmark = pytest.mark.slow

Refuse = Callable[..., str]


@pytest.fixture
def refuse(run: Any) -> Refuse:
    """Run ``edgeaudio parity`` on what it must refuse; its line."""

    def check(*arguments: object) -> str:
        result = run("parity", *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        (line,) = result.stderr.splitlines()
        return str(line).removeprefix("edgeaudio: ")

    return check


def test_a_layer_whose_scale_is_doubled_is_named_and_the_good_bundle_passes(
    run: Any, face: Any, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--checkpoint", face.checkpoint)
    good = run("parity", own_bundle, *command)
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, "passed"), good.output
    network_with(network.doubled_scale("any", 2))(own_bundle, monkeypatch)
    damaged = run("parity", own_bundle, *command)
    assert damaged.exit_code == 1, damaged.output
    *_, first, last = damaged.stdout.splitlines()
    assert last == "did not pass"
    assert first.startswith("first to fail: stored weights: blocks.0.")
    assert first.endswith("; look at: weights")


def test_recordings_without_labels_are_refused(refuse: Refuse, face: Any, tmp_path: Path, write_wav: Any) -> None:
    (tmp_path / "plain").mkdir()
    write_wav(tmp_path / "plain" / "one.wav", np.zeros(16_000, dtype=np.int16))
    line = refuse(face.bundle, "--data", tmp_path / "plain", "--cache", face.cache)
    assert str(tmp_path / "plain") in line


def test_recordings_of_other_labels_are_refused(refuse: Refuse, face: Any, tmp_path: Path, write_wav: Any) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        write_wav(tmp_path / "pets" / label / "one.wav", np.zeros(16_000, dtype=np.int16))
    line = refuse(face.bundle, "--data", tmp_path / "pets", "--cache", face.cache)
    assert "share none with the bundle's ['_silence_'," in line
    assert line.endswith("give recordings of its labels")


def test_a_manifest_of_a_newer_schema_is_refused(refuse: Refuse, own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    (own_bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    line = refuse(own_bundle)
    assert "schema_version=99" in line
    assert "pip install --upgrade" in line


def test_an_engine_that_is_missing_while_its_artifact_is_there_is_refused(
    refuse: Refuse, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (own_bundle / "model.tflite").is_file()
    for package in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, package, None)
    line = refuse(own_bundle)
    assert "engine 'litert'" in line
    assert "neither ai_edge_litert nor tflite_runtime is installed" in line
    assert "pip install 'edgeaudio-runtime[" in line
