"""Path 2: ties on the float ONNX graph, the rewrite of linear layers, and what ONNX Runtime is told to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="the float model comes from torch: pip install 'edgeaudio[torch]'")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.onnx_rewrites import linear_to_conv
from edgeaudio_export.onnxruntime_path import EdgeTies

FLOAT_TOLERANCE = 1e-5
"""MatMul and pointwise Conv add the same float32 products in another order."""


def linear_model(with_bias: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(5, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m" if with_bias else "y"], name="linear")]
    if with_bias:
        nodes.append(helper.make_node("Add", ["b", "m"], ["y"], name="bias"))
    else:
        del weights["b"]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"x": [1, 4, 5], "y": [1, 4, 3]}.items()
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "linear", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_linear_layer_becomes_a_pointwise_convolution_of_the_same_values(with_bias: bool) -> None:
    model = linear_model(with_bias)
    rewritten = linear_to_conv(model)
    onnx.checker.check_model(rewritten)
    assert [node.op_type for node in rewritten.graph.node] == ["Transpose", "Conv", "Transpose"]
    x = np.random.default_rng(1).normal(size=(1, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(run(rewritten, x), run(model, x), atol=FLOAT_TOLERANCE)


def test_edges_of_the_residual_stream_are_tied(quantized: Callable[..., Any]) -> None:
    model = onnx.load_from_string(quantized("Keyword", "pt2e").float_onnx)
    ties = EdgeTies(model)
    adds = [node for node in model.graph.node if node.op_type == "Add"]
    assert len(adds) == 2
    leaders = {ties.leader(edge) for add in adds for edge in (*add.input, *add.output)}
    assert leaders == {ties.leader(name) for name in ("state_1_in", "state_1_out", "state_2_in", "state_3_out")}
    assert len(leaders) == 1


def test_every_float_operation_stands_between_quantize_and_dequantize(quantized: Callable[..., Any]) -> None:
    model = onnx.load_from_string(quantized("Ctc", "onnxruntime").qdq_onnx)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    constants = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            read = {makers[name] for name in node.input if name and name not in constants}
            assert read <= {"DequantizeLinear", "Constant"}, node.name
