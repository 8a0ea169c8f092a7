"""Bundles of every method: their artifacts, what is said about those they lack, and proof on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_export.bundle_writer import BundleContents, write_bundle
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.selftest import self_test
from tests.graph_builders import GraphBuilder, residual_graph
from tests.precision_graphs import method_graph

METHODS = ("static_w8a8", "static_w8a16", "float32", "float16", "weight_only_w8", "mixed")


def sweep(seconds: float = 1.0) -> np.ndarray[Any, np.dtype[np.int16]]:
    time = np.arange(int(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(0).normal(0, 300, len(time))
    return np.rint(9000 * np.sin(2 * np.pi * (100 + 1500 * time) * time) + noise).astype(np.int16)


def contents(graph: IntegerGraph, method: str) -> BundleContents:
    return BundleContents(
        name="net", task="keyword", labels=("_silence_", *(f"word {i}" for i in range(11))),
        background_labels=("_silence_",), features=preset("log_mel"), graph=graph, float_onnx=b"reference",
        latency_frames=0, receptive_field_frames=100, window_frames=52,
        quantization=Quantization(backend="pt2e", method=method, calibration={}, recipe={"method": method}),
        decoding=DetectorConfig().to_dict(), provenance={}, golden_samples=sweep(),
    )  # fmt: skip


def written(folder: Path, method: str, said: list[str]) -> Bundle:
    graph = method_graph(residual_graph(channels=16, blocks=3, window=26), method)
    write_bundle(folder, contents(graph, method), say=said.append)
    return open_bundle(folder)


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_of_every_method_proves_itself_on_every_engine(method: str, tmp_path: Path) -> None:
    said: list[str] = []
    bundle = written(tmp_path, method, said)
    network = bundle.manifest.network
    assert bundle.golden.logits.dtype == network.output_quant.dtype
    assert bundle.golden.codes.dtype == network.input_quant.dtype
    assert {state.dtype for state in network.states} <= {"int8", "int16", "float32"}
    reports = {engine: self_test(bundle, engine=engine) for engine in ("numpy", "onnxruntime", "litert")}
    failed = {
        engine: [stage.describe() for stage in report.stages if not stage.passed] for engine, report in reports.items()
    }
    assert failed == {"numpy": [], "onnxruntime": [], "litert": []}
    exact = {engine for engine, report in reports.items() if report.numerics == "fp32"}
    assert exact == set(bundle.manifest.quantization.exact_engines)
    in_float = [line for line in said if line.startswith("onnxruntime computes")]
    assert len(in_float) == (method in {"static_w8a16", "mixed"})
    assert len(said) == len(in_float)


def test_what_an_engine_computes_in_float_is_said_in_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    written(tmp_path, "static_w8a16", said)
    assert said == [
        "onnxruntime computes 12 of 12 operations in float32, having no int16 kernels for them; "
        "its codes are close, not equal"
    ]


def test_an_engine_that_cannot_run_a_graph_has_no_artifact(tmp_path: Path) -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 4, 1, 40), QuantParams(scale=(0.08,)))
    wide = QuantParams(scale=(0.001,), dtype="int16")
    graph = g.build(g.conv(x, 12, (4, 1), wide))
    said: list[str] = []
    manifest = write_bundle(tmp_path, contents(graph, "by hand"), say=said.append)
    assert manifest.engines == ("numpy", "onnxruntime")
    assert not (tmp_path / "model.tflite").exists()
    assert said[1] == (
        "no model.tflite: operation 'conv' (conv_0) has tensors of types ['int8', 'int16'], for which LiteRT has no "
        "kernel; requantize its inputs to the type of its output"
    )


def test_the_recipe_travels_in_the_manifest(tmp_path: Path) -> None:
    bundle = written(tmp_path, "float16", [])
    assert bundle.manifest.quantization.recipe == {"method": "float16"}
    assert bundle.manifest.schema_version == 3
