"""Method "dynamic_w8": ONNX Runtime's ``quantize_dynamic``, int8 weights with activations quantized at run time."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.registry import IntegerOpsRegistry

from edgeaudio_export.onnxruntime_path import ADVICE
from edgeaudio_export.quiet import quiet_root

OPERATIONS = tuple(IntegerOpsRegistry)
"""Operations that ONNX Runtime knows to quantize at run time."""


def quantize_dynamically(
    model: onnx.ModelProto, *, per_channel: bool = True, reduce_range: bool = False, leave: Sequence[str] = ()
) -> onnx.ModelProto:
    """Give every Conv, constant MatMul and LSTM of a float model int8 weights.

    Args:
        model: Float model; it is left as it was.
        per_channel: One weight scale for each output channel of a MatMul or LSTM; ONNX Runtime gives a Conv one alone.
        leave: Operations, such as "Conv", that stay float.
        reduce_range: Weights of 7 bits; see :class:`edgeaudio_export.quantization_recipe.QuantizationRecipe`.

    Returns:
        A model whose activations are float32, quantized to uint8 by their own extremes in front of each such
        operation, so that no two calls need agree on a scale. A GRU stays float32.
    """
    # ONNX Runtime moves the weights of the model it is given into a temporary file.
    own = onnx.ModelProto()
    own.CopyFrom(model)
    _part_weights(own.graph)
    for node in own.graph.node:
        if node.op_type == "Loop":
            _quantize_body(own, node.attribute[0].g, per_channel=per_channel, reduce_range=reduce_range, leave=leave)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet_root(ADVICE):
        path = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            own,
            str(path),
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=[kind for kind in OPERATIONS if kind not in leave],
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
        return onnx.load(str(path))


def _part_weights(graph: onnx.GraphProto) -> None:
    """Give every Gemm a second matrix of its own.

    ONNX Runtime 1.31 turns the matrices of Gemm operations in place, also those that an embedding reads.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    weights = {entry.name: entry for entry in graph.initializer}
    for i, node in enumerate(graph.node):
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in weights and readers[name] > 1:
            copy = graph.initializer.add()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name}_of_gemm_{i}"


def _quantize_body(model: onnx.ModelProto, body: onnx.GraphProto, **options: Any) -> None:
    """Quantize the body of a loop, which holds its own weights, as a model of its own."""
    alone = onnx.helper.make_model(body, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    body.CopyFrom(quantize_dynamically(alone, **options).graph)
