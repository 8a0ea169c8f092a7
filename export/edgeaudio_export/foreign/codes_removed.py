"""Features and logits of an ONNX model that are codes, as the reals that its own scales make of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.step_model import constants_of
from edgeaudio_runtime.quantization import QuantParams

CODES = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}
"""Types of codes that are read at a boundary."""
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_READS = {"DequantizeLinear": (1, 2), "QLinearConv": (1, 2), "QLinearMatMul": (1, 2), "QGemm": (1, 2)}
"""Operation to the inputs that hold scale and zero point of the codes it reads."""
_WRITES = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QGemm": (7, 8)}
"""Operation to the inputs that hold scale and zero point of the codes it writes."""


def with_real_boundary(model: onnx.ModelProto) -> dict[str, QuantParams]:
    """Put a QuantizeLinear behind inputs and a DequantizeLinear before outputs that are int8 or uint8, in place.

    Returns:
        The quantization of each, uint8 counted as int8 with its zero point 128 lower, so that codes of it go into the
        model and come out unchanged.

    Raises:
        ExportError: Nothing in the model says what the codes stand for.
    """
    found = {}
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type not in CODES:
            continue
        is_input = value in model.graph.input
        scale, zero_point = _parameters(model.graph, value.name, is_input=is_input)
        _convert(model.graph, value, scale, zero_point, is_input=is_input)
        found[value.name] = _params(model.graph, scale, zero_point)
    return found


def _parameters(graph: onnx.GraphProto, name: str, *, is_input: bool) -> tuple[str, str]:
    """Names of the constants that say what the codes of an edge stand for, past operations that only move them."""
    edge, constants = name, constants_of(graph)
    for _ in graph.node:
        node = next((n for n in graph.node if (n.input and n.input[0] == edge if is_input else edge in n.output)), None)
        if node is None:
            break
        places = (_READS if is_input else _WRITES).get(node.op_type)
        if places is not None and len(node.input) > places[1] and {node.input[i] for i in places} <= set(constants):
            return node.input[places[0]], node.input[places[1]]
        if node.op_type not in _MOVES:
            break
        edge = node.output[0] if is_input else node.input[0]
    kind = "input" if is_input else "output"
    raise ExportError(f"{kind} {name!r} holds codes and nothing says their scale; export the model with float ones")


def _convert(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, scale: str, zero_point: str, *, is_input: bool
) -> None:
    codes = f"{value.name}_own_codes"
    for node in graph.node:
        node.input[:] = [codes if name == value.name else name for name in node.input]
        node.output[:] = [codes if name == value.name else name for name in node.output]
    if is_input:
        node = helper.make_node("QuantizeLinear", [value.name, scale, zero_point], [codes], name=codes)
        graph.node.insert(0, node)
    else:
        graph.node.append(helper.make_node("DequantizeLinear", [codes, scale, zero_point], [value.name], name=codes))
    value.type.tensor_type.elem_type = TensorProto.FLOAT


def _params(graph: onnx.GraphProto, scale: str, zero_point: str) -> QuantParams:
    constants = constants_of(graph)
    scales, zero = (numpy_helper.to_array(constants[name]) for name in (scale, zero_point))
    if scales.size != 1:
        raise ExportError(f"scale {scale!r} of codes at the boundary has {scales.size} values, must have one")
    offset = 128 if zero.dtype == np.uint8 else 0
    return QuantParams(scale=(float(scales.item()),), zero_point=int(zero.item()) - offset)
