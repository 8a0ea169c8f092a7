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

    model = onnx.shape_inference.infer_shapes(_optimized(bundle))
    weights = {entry.name: entry for entry in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.output)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    # Where a weight stands among the inputs: QLinear operations take input, scale and zero point before it.
    places = {"Conv": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3, "ConvInteger": 1}
    for node in model.graph.node:
        place = places.get(node.op_type)
        if place is None or node.input[place] not in weights:
            continue
        weight = onnx.numpy_helper.to_array(weights[node.input[place]])
        depth = math.prod(weight.shape[1:]) if "Conv" in node.op_type else weight.shape[0]
        macs = math.prod(shapes[node.output[0]]) * depth
        yield Work(macs=macs, weight_bytes=weight.nbytes, int8=weight.dtype in (np.int8, np.uint8))


def _optimized(bundle: Bundle) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The highest level would change layouts, which shape inference does not follow; integer fusion is below it.
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
