"""Shares of the arithmetic, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeaudio_export.diagnosis.effective_precision import (
    EnginePrecision,
    Work,
    _delegated,
    effective_precision,
    numpy_work,
    summarize,
)
from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, residual_graph

# features 40 -> 16 channels of kernel 5 (2 frames), one block (depthwise 9, pointwise 16 x 16, 2 frames),
# an average over 12 internal frames once a step, 12 labels.
RESIDUAL = {"channels": 16, "blocks": 1, "window": 12}
MACS = 2 * 16 * 5 * 40 + 2 * 16 * 9 + 2 * 16 * 16 + 16 * 12 + 12 * 16
WEIGHTS = 16 * 5 * 40 + 16 * 9 + 16 * 16 + 16 * 12 + 12 * 16


def test_an_int8_network_runs_in_int8_on_every_engine() -> None:
    graph = residual_graph(**RESIDUAL)  # type: ignore[arg-type]
    found = effective_precision(graph, onnx_model=to_onnx(graph), tflite_model=to_tflite(graph))
    assert list(found) == ["numpy", "onnxruntime", "litert"]
    for engine, row in found.items():
        assert row.macs_per_step == MACS, engine
        assert row.macs_share == {"int8": 1.0, "int16": 0.0, "float32": 0.0}
        assert row.weight_bytes == WEIGHTS
        assert row.bytes_share == {"int8": 1.0}
        assert row.delegated_macs_share == (1.0 if engine == "litert" else 0.0)


def test_a_float_island_with_int8_weights_computes_in_float() -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 4), QuantParams(scale=(0.1,)))
    x = g.conv(x, 8, (1, 1), QuantParams(scale=(0.1,)))
    real = g.op("dequantize", (x,), (1, 2, 1, 8), None)
    codes = g.constant("codes", np.ones((3, 8), np.int8), QuantParams(scale=(0.5,)))
    weight = g.op("dequantize", (codes,), (3, 8), None)
    bias = g.constant("zeros", np.zeros(3, np.float32))
    g.op("fully_connected", (real, weight, bias), (1, 2, 1, 3), None, relu=False)
    work = list(numpy_work(g.build(g.ops[-1].outputs[0])))
    assert work == [
        Work(macs=2 * 8 * 4, weight_bytes=32, computed="int8", stored="int8"),
        Work(macs=2 * 3 * 8, weight_bytes=24, computed="float32", stored="int8"),
    ]


def test_shares_are_of_macs_and_of_bytes() -> None:
    rows = [
        Work(macs=30, weight_bytes=10, computed="int16", stored="int8", delegated=True),
        Work(macs=10, weight_bytes=30, computed="float32", stored="float16"),
    ]
    assert summarize(rows) == EnginePrecision(
        macs_per_step=40,
        macs_share={"int8": 0.0, "int16": 0.75, "float32": 0.25},
        weight_bytes=40,
        bytes_share={"float16": 0.75, "int8": 0.25},
        delegated_macs_share=0.75,
    )


@pytest.mark.parametrize(("inputs", "expected"), [([0], {0, 1, 2}), ([5], {1, 2}), ([6], {2})])
def test_a_delegate_runs_what_lies_between_its_inputs_and_outputs(inputs: list[int], expected: set[int]) -> None:
    chain = [{"op_name": "CONV_2D", "index": i, "inputs": [a], "outputs": [b]} for i, (a, b) in
             enumerate([(0, 5), (5, 6), (6, 7)])]  # fmt: skip
    delegate = {"op_name": "DELEGATE", "index": 3, "inputs": inputs, "outputs": [7]}
    assert _delegated([*chain, delegate]) == expected
