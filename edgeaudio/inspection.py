"""Effective precision: how many multiply-accumulates and weight bytes of a bundle really run in int8, engine by engine.

Each engine is asked about the graph it executes, not the one it was given: ONNX Runtime after its optimizer.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import load_graph


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One operation with weights."""

    macs: int
    """Multiply-accumulates a step."""
    weight_bytes: int
    """Bytes of its weight."""
    int8: bool
    """Whether input and weight are integer codes."""


def effective_precision(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """For each usable engine: ``macs_per_step``, ``int8_macs_share``, ``weight_bytes``, ``int8_bytes_share``."""
    return {engine: _summary(_READERS[engine](bundle)) for engine in bundle.engines()}


def _summary(work: Iterable[Work]) -> dict[str, Any]:
    rows = list(work)
    macs, weight_bytes = sum(row.macs for row in rows), sum(row.weight_bytes for row in rows)
    return {
        "macs_per_step": macs,
        "int8_macs_share": sum(row.macs for row in rows if row.int8) / max(macs, 1),
        "weight_bytes": weight_bytes,
        "int8_bytes_share": sum(row.weight_bytes for row in rows if row.int8) / max(weight_bytes, 1),
    }


def _numpy_work(bundle: Bundle) -> Iterable[Work]:
    graph = load_graph(bundle.read("model.json"), bundle.read("model.bin"))
    for op in graph.ops:
        if op.kind in ("conv", "fully_connected"):
            yield _graph_work(graph, op.inputs, op.outputs[0])


def _graph_work(graph: IntegerGraph, inputs: tuple[str, ...], output: str) -> Work:
    weight = graph.constants[inputs[1]]
    macs = math.prod(graph.tensors[output].shape) * math.prod(weight.shape[1:])
    return Work(macs=macs, weight_bytes=weight.nbytes, int8=graph.tensors[inputs[0]].dtype == "int8")


def _onnxruntime_work(bundle: Bundle) -> Iterable[Work]:
    import onnx

    model = _optimized(bundle)
    weights = {entry.name: entry for entry in model.graph.initializer}
    # A weight that is dequantized at run time is multiplied in float; its bytes are still those of the codes.
    unpacked = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    # Where a weight stands among the inputs: QLinear operations take input, scale and zero point before it.
    places = {"Conv": 1, "FusedConv": 1, "Gemm": 1, "FusedGemm": 1, "MatMul": 1, "FusedMatMul": 1, "ConvInteger": 1,
              "MatMulInteger": 1, "QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}  # fmt: skip
    weighted = [node for node in model.graph.node if node.op_type in places]
    shapes = _shapes(model, [node.output[0] for node in weighted])
    for node in weighted:
        source = node.input[places[node.op_type]]
        entry = weights.get(unpacked.get(source, source))
        if entry is None:
            continue
        weight, shape = onnx.numpy_helper.to_array(entry), shapes[node.output[0]]
        depth = math.prod(weight.shape[1:]) if "Conv" in node.op_type else weight.size // shape[-1]
        int8 = source in weights and weight.dtype in (np.int8, np.uint8)
        yield Work(macs=math.prod(shape) * depth, weight_bytes=weight.nbytes, int8=int8)


def _shapes(model: Any, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of inner tensors, from a run on zeros: ONNX shape inference stops at the optimizer's own operations."""
    import onnx
    import onnxruntime

    names = list(names)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = {value.name: _zeros(value) for value in model.graph.input}
    return {name: value.shape for name, value in zip(names, session.run(names, zeros), strict=True)}


def _zeros(value: Any) -> npt.NDArray[Any]:
    import onnx

    kind = value.type.tensor_type
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    return np.zeros(shape, dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _optimized(bundle: Bundle) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The highest level adds layouts of this machine's processor; integer fusion is below it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(bundle.read("model.onnx"), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _litert_work(bundle: Bundle) -> Iterable[Work]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bundle.read("model.tflite"))
    interpreter.allocate_tensors()
    tensors = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    for op in interpreter._get_ops_details():
        if op["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        data, weight = tensors[op["inputs"][0]], tensors[op["inputs"][1]]
        shape = [int(size) for size in weight["shape"]]
        depth = math.prod(shape[1:3]) if op["op_name"] == "DEPTHWISE_CONV_2D" else math.prod(shape[1:])
        macs = math.prod(int(size) for size in tensors[op["outputs"][0]]["shape"]) * depth
        weight_bytes = math.prod(shape) * np.dtype(weight["dtype"]).itemsize
        yield Work(macs=macs, weight_bytes=weight_bytes, int8=data["dtype"] == np.int8 and weight["dtype"] == np.int8)


_READERS: dict[str, Callable[[Bundle], Iterable[Work]]] = {
    "numpy": _numpy_work,
    "onnxruntime": _onnxruntime_work,
    "litert": _litert_work,
}
