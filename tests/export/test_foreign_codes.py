"""ONNX models that were quantized elsewhere: they run as they are, codes at their boundary included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.quantize import quantize_foreign
from edgeaudio_export.foreign.reader import read_step_model
from edgeaudio_export.foreign.step_model import is_quantized, makes_probabilities
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize

FRAMES, FEATURES, LABELS = 4, 6, 3
WEIGHT = np.random.default_rng(0).uniform(-1, 1, (FRAMES * FEATURES, LABELS)).astype(np.float32)
INPUT = QuantParams(scale=(0.05,), zero_point=-11)
STREAM = np.random.default_rng(1).uniform(-5, 5, (20 * FRAMES, FEATURES)).astype(np.float32)


def write(path: Path, *, before: str = "int8", after: str = "uint8", softmax: bool = True, scales: bool = True) -> Path:
    """A step of codes: dequantized, one linear layer, softmax, quantized again."""
    kinds = {"int8": (TensorProto.INT8, np.int8, 0), "uint8": (TensorProto.UINT8, np.uint8, 128)}
    (in_type, in_dtype, in_shift), (out_type, out_dtype, _) = kinds[before], kinds[after]
    constants = {
        "x_scale": np.float32(0.05), "x_zero": np.array(-11 + in_shift, in_dtype), "y_scale": np.float32(1 / 256),
        "y_zero": np.array(0 if after == "uint8" else -128, out_dtype), "flat": np.array([1, -1], np.int64),
        "w": WEIGHT,
    }  # fmt: skip
    read = helper.make_node("DequantizeLinear", ["moved", "x_scale", "x_zero"], ["real"])
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["moved"]),
        read if scales else helper.make_node("Cast", ["moved"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["real", "w"], ["logit"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logit"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", in_type, (1, FRAMES, FEATURES))],
        [helper.make_tensor_value_info("y", out_type, (1, LABELS))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def read(path: Path) -> Any:
    return read_step_model(path, n_features=FEATURES, n_labels=LABELS)


@pytest.mark.parametrize("before", ["int8", "uint8"])
def test_codes_go_in_and_come_out_as_the_model_alone_has_them(tmp_path: Path, before: str) -> None:
    path = write(tmp_path / "net.onnx", before=before)
    step = read(path)
    assert step.features == INPUT
    quantized = quantize_foreign(
        step, [STREAM], recipe=QuantizationRecipe(method="float32"), backend="onnxruntime", name="net"
    )
    signature = quantized.graph.signature
    assert signature.input_quant == INPUT
    codes = quantize(STREAM, INPUT)
    answers = dequantize(quantized.graph.program().session().run(codes), signature.output_quant)
    alone = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    own = codes if before == "int8" else (codes.astype(np.int16) + 128).astype(np.uint8)
    expected = [
        alone.run(None, {"x": part[None]})[0][0] / np.float32(256) for part in own.reshape(20, FRAMES, FEATURES)
    ]
    # The logits travel as int16 codes of up to 1 and some room: half a step of 1 / 16,000.
    np.testing.assert_allclose(answers, expected, atol=1 / 16_000)


def test_a_model_with_codes_inside_is_known_for_quantized_and_its_softmax_found(tmp_path: Path) -> None:
    step = read(write(tmp_path / "net.onnx"))
    assert (is_quantized(step), makes_probabilities(step)) == (True, True)
    step = read(write(tmp_path / "net.onnx", after="int8", softmax=False))
    assert (is_quantized(step), makes_probabilities(step)) == (True, False)


def test_codes_without_a_scale_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", scales=False)
    with pytest.raises(ExportError, match=r"net\.onnx: input 'x' holds codes and nothing says their scale; export the"):
        read(path)


def test_a_boundary_of_other_types_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ExportError, match="'x' is int32, must be float, or int8 or uint8 with a scale; export it again"
    ):
        read(path)
