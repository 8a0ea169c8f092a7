"""The microcontroller's interpreter on our .tflite: its codes are those of the integer graph under its own rule."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio.parity import micro
from edgeaudio.parity.left_out import left_out
from edgeaudio.parity.micro import MicroProgram, boundary_names, micro_stages, missing_micro
from edgeaudio.parity.report import render_stages
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import quantize
from tests.graph_builders import random_codes, residual_graph

STEPS = 300
"""Hundreds of chained steps: an error of the state shows itself late."""
NOT_INSTALLED = "tflite-micro is not installed; run: pip install 'edgeaudio[micro]'"


@pytest.fixture(scope="module", autouse=True)
def tflite_micro() -> Any:
    return pytest.importorskip("tflite_micro", reason=NOT_INSTALLED)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(entry_folder("kws-12-small") / BUNDLE)


@pytest.fixture(scope="module")
def codes(bundle: Bundle) -> Any:
    noise = np.random.default_rng(0).normal(0, 2000, 4 * 160 * STEPS).astype(np.int16)
    return quantize(compute_features(bundle.features, noise, multiple_of=4), bundle.manifest.network.input_quant)


@pytest.fixture
def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)


def program_of(graph: Any) -> MicroProgram:
    from edgeaudio_export.targets.tflite_target import to_tflite

    initial = tuple(state.initial for state in graph.states)
    return MicroProgram(to_tflite(graph), NumpyProgram(graph).signature, initial)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_residual_net_gives_the_codes_of_its_rule_step_after_step(seed: int) -> None:
    graph = residual_graph(seed=seed, channels=(32, 20)[seed], blocks=3, window=(50, 12)[seed])
    codes = random_codes((4 * STEPS, 40), seed=seed)
    wanted = NumpyProgram(replace(graph, requantization="tflm")).session().run(codes)
    assert len(np.unique(wanted)) > 100
    session = program_of(graph).session()
    parts = [session.run(codes[:0]), session.run(codes[:400]), session.run(codes[400:])]
    assert np.array_equal(np.concatenate(parts), wanted)
    assert np.count_nonzero(NumpyProgram(graph).session().run(codes) != wanted) > 0
    session.reset()
    assert np.array_equal(session.run(codes[:40]), wanted[:10])


def test_a_bundle_is_held_to_its_rule_exactly_and_to_the_certified_codes_loosely(bundle: Bundle, codes: Any) -> None:
    logits = bundle.program("numpy").session().run(codes)
    by_rule, certified = micro_stages(bundle, codes, logits)
    assert (by_rule.name, certified.name) == ("tflite-micro", "tflite-micro, rounding")
    assert (by_rule.tolerance, by_rule.codes_apart) == ("exact", {"0": STEPS * 12})
    assert certified.reference == "integer graph, rule 'fp32'"
    assert certified.codes_apart is not None
    assert certified.mismatches == STEPS * 12 - certified.codes_apart["0"] > 0
    assert by_rule.passed
    assert certified.passed


def test_a_state_that_is_lost_shows_in_the_first_stage(
    bundle: Bundle, codes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = micro.MicroSession._step

    def forgetful(session: micro.MicroSession, part: Any) -> Any:
        answer = step(session, part)
        session.reset()
        return answer

    monkeypatch.setattr(micro.MicroSession, "_step", forgetful)
    by_rule, _ = micro_stages(bundle, codes, bundle.program("numpy").session().run(codes))
    assert not by_rule.passed
    assert by_rule.mismatches > by_rule.compared / 2


def test_inputs_and_outputs_are_told_by_their_place_in_the_file(bundle: Bundle) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = bundle.read("model.tflite")
    interpreter = Interpreter(model_content=model)
    details = interpreter.get_input_details(), interpreter.get_output_details()
    assert boundary_names(model) == tuple([entry["name"] for entry in each] for each in details)


def test_without_the_package_the_rung_is_left_out_and_said_to_be(
    bundle: Bundle, codes: Any, without_the_package: None
) -> None:
    assert list(micro_stages(bundle, codes, np.zeros((STEPS, 12), np.int8))) == []
    assert missing_micro(bundle) == NOT_INSTALLED
    lines = left_out(bundle, ["front end"])
    assert lines == [f"tflite-micro: {NOT_INSTALLED}"]
    assert left_out(bundle, ["tflite-micro"]) == []
    document = {"stages": [], "left_out": lines, "passed": True}
    assert f"left out tflite-micro: {NOT_INSTALLED}" in render_stages(document).splitlines()


def test_nothing_is_left_out_where_the_package_is(bundle: Bundle) -> None:
    assert left_out(bundle, []) == []
    assert missing_micro(bundle) is None


def test_a_model_it_cannot_load_is_refused_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    graph = residual_graph(channels=16, blocks=1)
    whole = program_of(graph)
    with pytest.raises(SpecError, match=r"initial_states has 0 values, the model has \d states; give one each"):
        MicroProgram(whole._model, whole.signature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro, "ARENA_BYTES_PER_MODEL_BYTE", 0)
        patch.setattr(micro, "MIN_ARENA_BYTES", 1024)
        with pytest.raises(EngineError, match=r"^tflite-micro cannot load the model: \S"):
            whole.session()
    capfd.readouterr()  # it writes to stderr itself


def test_a_network_of_windows_or_of_int16_has_no_such_rung(bundle: Bundle, codes: Any) -> None:
    manifest = bundle.manifest
    int16 = replace(manifest, quantization=replace(manifest.quantization, method="static_w8a16"))

    class Other:
        def __init__(self, manifest: Any) -> None:
            self.manifest, self.features = manifest, bundle.features

    for other in (int16, replace(manifest, mode="windowed")):
        stand_in: Any = Other(other)
        found: Iterator[Any] = micro_stages(stand_in, codes, codes)
        assert list(found) == []
        assert missing_micro(stand_in) is None


def test_the_version_names_the_package() -> None:
    assert program_of(residual_graph(channels=16, blocks=1)).version.startswith("tflite-micro 0.dev")
