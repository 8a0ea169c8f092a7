"""What dynamic quantization does to graphs by hand: shared matrices, operations that stay float, bodies of loops."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.dynamic import quantize_dynamically

SIZE = 6
INT8_RTOL = 0.02
"""Of the largest value: weights and activations of 8 bits, summed over :data:`SIZE` products."""
WEIGHT = np.random.default_rng(0).standard_normal((3, SIZE)).astype(np.float32)
FLOAT, INTEGER = TensorProto.FLOAT, TensorProto.INT64


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], x: tuple[int, ...], y: tuple[int, ...]
) -> onnx.ModelProto:
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}_{i}"
    values = [helper.make_tensor_value_info("x", FLOAT, x)], [helper.make_tensor_value_info("y", FLOAT, y)]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", *values, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {"x": x})[0]
    return answer


def kinds(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


@pytest.mark.exact_int8
def test_a_matrix_that_an_embedding_and_a_gemm_share_stays_whole() -> None:
    nodes = [
        helper.make_node("Gather", ["w", "row"], ["embedded"]),
        helper.make_node("Add", ["x", "embedded"], ["sum"]),
        helper.make_node("Gemm", ["sum", "w"], ["y"], transB=1),
    ]
    model = model_of(nodes, {"w": WEIGHT, "row": np.array([1])}, (1, SIZE), (1, 3))
    x = np.random.default_rng(1).standard_normal((1, SIZE)).astype(np.float32)
    wanted = (x + WEIGHT[1]) @ WEIGHT.T
    np.testing.assert_allclose(
        run(quantize_dynamically(model), x), wanted, atol=INT8_RTOL * float(np.abs(wanted).max())
    )


def test_operations_that_shall_stay_float_do() -> None:
    kernel = np.random.default_rng(2).standard_normal((4, SIZE, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["heard"]),
        helper.make_node("MatMul", ["heard", "matrix"], ["y"]),
    ]
    matrix = np.random.default_rng(3).standard_normal((8, 5)).astype(np.float32)
    model = model_of(nodes, {"kernel": kernel, "matrix": matrix}, (1, SIZE, 10), (1, 4, 5))
    both, one = quantize_dynamically(model), quantize_dynamically(model, leave=["Conv"])
    assert {"ConvInteger", "MatMulInteger"} <= set(kinds(both.graph))
    assert {"Conv", "MatMulInteger"} <= set(kinds(one.graph))
    assert kinds(model.graph) == ["Conv", "MatMul"]


def test_the_body_of_a_loop_is_quantized_with_its_own_weights() -> None:
    square = (np.random.default_rng(4).standard_normal((SIZE, SIZE)) / SIZE).astype(np.float32)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["v", "square"], ["after"], name="turn"),
         helper.make_node("Identity", ["go_on"], ["goes_on"], name="go")],
        "body",
        [helper.make_tensor_value_info("turn_number", INTEGER, ()),
         helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("v", FLOAT, (1, SIZE))],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("after", FLOAT, (1, SIZE))],
        [numpy_helper.from_array(square, "square")],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["turns", "true", "x"], ["y"], body=body)]
    model = model_of(nodes, {"turns": np.array(3), "true": np.array(True)}, (1, SIZE), (1, SIZE))
    x = np.random.default_rng(5).standard_normal((1, SIZE)).astype(np.float32)
    quantized = quantize_dynamically(model)
    assert "MatMulInteger" in kinds(quantized.graph.node[0].attribute[0].g)
    wanted = x @ square @ square @ square
    np.testing.assert_allclose(run(quantized, x), wanted, atol=3 * INT8_RTOL * float(np.abs(wanted).max()))
