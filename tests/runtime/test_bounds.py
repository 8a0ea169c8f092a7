"""What no bundle may ask for, and that an error is one printable line whatever a hostile file put into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeaudio_runtime import bounds
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.engines.numpy_engine import MAX_STEPS_PER_PASS, NumpyProgram
from edgeaudio_runtime.errors import MAX_MESSAGE, BundleError, SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, residual_graph

IS_IT_ONE = "no bundle for a device needs more, is it one?"


def changed(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """``bundle`` with another manifest, the hash of its features made right again."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    manifest["features_hash"] = FeatureSpec.from_dict(manifest["features"]).hash
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "rate": ("features", {"sample_rate": 10**6}, r"sample_rate=1000000 must be <= 768000"),
    "offset": ("features", {"first_offset": 2**40}, r"first_offset=1099511627776 must be <= 4194304"),
    "transform": ("features", {"n_fft": 2**17}, r"n_fft=131072 must be <= 65536"),
    "filterbank": ("features", {"n_fft": 2**15, "n_mels": 1000}, r"n_fft \* n_mels / 2=16384000 must be <= 4194304"),
    "frames": ("features", {"hop_length": 15}, r"frames a second=1066\.6\d* must be <= 1000"),
    "step": ("network", {"step_frames": 2**20}, r"features of a step=41943040 must be <= 4194304"),
    "logits": ("network", {"outputs_per_step": 2**21}, r"logits of a step=8388608 must be <= 4194304"),
    "outputs": ("network", {"outputs_per_step": 41}, r"outputs a second=1025\.0 must be <= 1000"),
    "window": ("network", {"window_frames": 100_001}, r"window_frames=100001 must be <= 100000"),
    "latency": ("network", {"latency_frames": 2**31 - 1}, r"latency_frames=2147483647 must be <= 100000"),
    "count": ("network", {"latency_frames": 2**31}, r"latency_frames=2147483648 must be an integer <= 2147483647"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bundle_that_asks_for_too_much_is_refused_when_it_is_opened(own_bundle: Path, case: str) -> None:
    part, values, words = REFUSED[case]
    mels = {"n_mels": 40} | values
    path = changed(own_bundle, lambda manifest: manifest[part].update(values))
    if part == "features":
        changed(path, lambda manifest: manifest["network"].update(n_features=mels["n_mels"]))
    with pytest.raises(BundleError, match=words):
        open_bundle(path)


def test_too_many_or_too_large_artifacts_are_refused_before_any_is_read(own_bundle: Path) -> None:
    path = changed(own_bundle, lambda manifest: manifest["artifacts"][0].update(size=2**29))
    with pytest.raises(BundleError, match=rf"bytes of all artifacts=\d+ must be <= 536870912; {IS_IT_ONE[:-1]}"):
        open_bundle(path)
    with pytest.raises(BundleError, match="number of artifacts=101 must be <= 100"):
        bounds.check_artifacts([0] * 101)


def test_states_beyond_all_memory_are_refused(own_bundle: Path) -> None:
    path = changed(own_bundle, lambda manifest: manifest["network"]["states"][0].update(shape=[1, 2**30, 1, 2**30]))
    with pytest.raises(BundleError, match=r"elements of all states=1152921504606\d+ must be <= 16777216"):
        open_bundle(path)


def test_a_graph_of_too_many_elements_is_refused_and_each_residual_net_is_far_from_it() -> None:
    quant = QuantParams(scale=(0.1,))
    g = GraphBuilder()
    x = g.activation("features", (1, 2**12, 1, 2**12), quant)
    graph = g.build(g.op("relu", (x,), (1, 2**12, 1, 2**12), quant))
    with pytest.raises(BundleError, match="elements of all tensors of a step=33554432 must be <= 16777216"):
        bounds.check_graph(graph)
    bounds.check_graph(residual_graph(channels=256, blocks=12))


def test_too_many_operations_or_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_graph(channels=8, blocks=1, n_features=6, window=10, n_labels=3)
    # Three fifos of a join and a cut, five convolutions and an addition.
    assert len(graph.states) == 3
    monkeypatch.setattr(bounds, "MAX_STATES", 2)
    with pytest.raises(BundleError, match="states=3 must be <= 2"):
        bounds.check_graph(graph)
    monkeypatch.setattr(bounds, "MAX_OPERATIONS", 11)
    with pytest.raises(BundleError, match="operations=12 must be <= 11"):
        bounds.check_graph(graph)


def test_a_graph_of_too_many_multiplications_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_graph(channels=8, blocks=1, kernel=3, n_features=6, window=10, n_labels=3)
    # By hand: 2 frames x 8 channels x (5 x 6), depthwise 2 x 8 x 3, pointwise 2 x 8 x 8, average 8 x 10, logits 3 x 8.
    macs = 2 * 8 * 30 + 2 * 8 * 3 + 2 * 8 * 8 + 8 * 10 + 3 * 8
    monkeypatch.setattr(bounds, "MAX_MACS_PER_STEP", macs - 1)
    with pytest.raises(BundleError, match=f"multiplications of a step={macs} must be <= {macs - 1}"):
        bounds.check_graph(graph)
    monkeypatch.setattr(bounds, "MAX_MACS_PER_STEP", macs)
    bounds.check_graph(graph)


def test_a_state_that_nothing_writes_is_refused() -> None:
    graph = residual_graph(channels=8, blocks=1, n_features=6, window=10, n_labels=3)
    unwritten = {**graph.tensors, "lost": replace(graph.tensors[graph.states[0].output], name="lost")}
    with pytest.raises(SpecError, match="output 'lost' is written by no operation"):
        replace(graph, tensors=unwritten, states=(replace(graph.states[0], output="lost"), *graph.states[1:]))


def test_large_networks_take_fewer_steps_at_once() -> None:
    small = NumpyProgram(residual_graph(channels=8, blocks=2, window=10, n_features=6, n_labels=3))
    assert small.steps_per_pass == MAX_STEPS_PER_PASS
    large = residual_graph(channels=512, blocks=12)
    n_elements = sum(
        tensor.shape[0] * tensor.shape[1] * tensor.shape[2] * tensor.shape[3]
        for name, tensor in large.tensors.items()
        if name not in large.constants
    )
    assert NumpyProgram(large).steps_per_pass == 2**24 // n_elements < MAX_STEPS_PER_PASS


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("path='a\x1b[31mb' is odd", r"path='a\x1b[31mb' is odd"),
        ("two\nlines", "two lines"),
        ("right\u202eleft \ud800", r"right\u202eleft \ud800"),
        ("größer", "größer"),
    ],
)
def test_a_message_is_one_line_of_printable_characters(message: str, shown: str) -> None:
    assert str(BundleError(message)) == shown
    assert str(SpecError(message)) == shown


def test_a_long_message_keeps_its_ends() -> None:
    text = str(BundleError("name=" + "x" * 10_000 + " must be short; shorten it"))
    assert len(text) <= MAX_MESSAGE
    assert text.startswith("name=xxx")
    assert text.endswith("xxx must be short; shorten it")
    assert " ... " in text
    assert len(str(BundleError("\0" * 900))) == MAX_MESSAGE
