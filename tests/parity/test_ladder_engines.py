"""The rung of an engine: equality where it is promised, named bounds and equal decisions where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.parity import ladder
from edgeaudio.parity.stages import Stage
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.base import Codes, NetworkSignature, Numerics, Program
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.presets import preset
from tests.graph_builders import residual_graph
from tests.precision_graphs import method_graph


@pytest.fixture(scope="module")
def int16_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random net with int16 activations; its golden recording is noise."""
    pytest.importorskip("onnx", reason="writing a bundle needs edgeaudio-export")
    from edgeaudio_export.bundle_writer import BundleContents, write_bundle

    folder = tmp_path_factory.mktemp("int16")
    noise = np.random.default_rng(0).normal(0, 2000, 16_000).astype(np.int16)
    contents = BundleContents(
        name="net", task="keyword", labels=("_silence_", *(f"word {i}" for i in range(11))),
        background_labels=("_silence_",), features=preset("log_mel"),
        graph=method_graph(residual_graph(channels=16, blocks=3, window=26), "static_w8a16"),
        float_onnx=b"reference", latency_frames=0, receptive_field_frames=100, window_frames=52,
        quantization=Quantization(backend="pt2e", method="static_w8a16", calibration={}),
        decoding=DetectorConfig().to_dict(), provenance={}, golden_samples=noise,
    )  # fmt: skip
    write_bundle(folder, contents)
    return open_bundle(folder)


class Shifted:
    """A program whose logits are some codes too high."""

    engine, version = "shifted", "1"

    def __init__(self, program: Program, lsb: int, numerics: Numerics) -> None:
        self._program, self._lsb, self.numerics = program, lsb, numerics

    @property
    def signature(self) -> NetworkSignature:
        return self._program.signature

    def session(self) -> Any:
        session, lsb = self._program.session(), self._lsb

        class Session:
            def run(self, codes: Codes, /) -> Codes:
                return np.clip(session.run(codes).astype(int) + lsb, -32768, 32767).astype(np.int16)

            def reset(self) -> None:
                session.reset()

        return Session()


def stages(bundle: Bundle, program: Program, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    monkeypatch.setattr(ladder, "MIN_CODES", 2400)
    monkeypatch.setattr(ladder, "FRONT_END_SECONDS", 2)
    return {stage.name: stage for stage in ladder._Ladder(bundle, [], seed=0)._engine(program)}


def test_int16_is_judged_by_what_each_engine_promises(int16_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    litert = stages(int16_bundle, int16_bundle.program("litert"), monkeypatch)
    assert set(litert) == {"engine litert", "streaming litert", "reset litert", "events litert"}
    assert {stage.tolerance for name, stage in litert.items() if "events" not in name} == {"exact"}
    ort = stages(int16_bundle, int16_bundle.program("onnxruntime"), monkeypatch)
    assert set(ort) == {f"{what} onnxruntime" for what in ("engine", "streaming", "reset", "decisions")}
    assert ort["engine onnxruntime"].tolerance == "none off by more than 64"
    assert ort["engine onnxruntime"].mismatches > 0
    assert ort["streaming onnxruntime"].tolerance == "exact"
    assert all(stage.passed for stage in (*litert.values(), *ort.values()))


@pytest.mark.parametrize(
    ("lsb", "numerics", "passed"),
    [(64, "unspecified", True), (65, "unspecified", False), (1, "fp32", False)],
)
def test_an_engine_beyond_its_promise_fails(
    int16_bundle: Bundle, lsb: int, numerics: Numerics, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = Shifted(int16_bundle.program("numpy"), lsb, numerics)
    found = stages(int16_bundle, shifted, monkeypatch)
    assert found["engine shifted"].passed is passed
    assert found["engine shifted"].max_lsb == lsb


def test_int16_golden_data_survive_the_disk(int16_bundle: Bundle) -> None:
    golden = int16_bundle.golden
    assert (golden.codes.dtype, golden.logits.dtype) == (np.int16, np.int16)
    assert np.array_equal(int16_bundle.program("numpy").session().run(golden.codes), golden.logits)
    stored = np.load(Path(int16_bundle.path) / "golden" / "logits.npy")
    assert stored.dtype == np.int16
