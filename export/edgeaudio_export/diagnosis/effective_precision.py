"""Effective precision: in what the multiply-accumulates of an artifact really run, engine by engine.

Each engine is asked about the graph it executes, not the one it was given: ONNX Runtime after its optimizer, LiteRT
after its delegate took its part.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.graph import IntegerGraph, Op

PRECISIONS = ("int8", "int16", "float32")
"""Types of the activations that a multiplication reads. int16 activations have int8 weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One operation with weights."""

    macs: int
    """Multiply-accumulates a step."""
    weight_bytes: int
    """Bytes of its weight, as it is stored."""
    computed: str
    """One of :data:`PRECISIONS`: in what it is multiplied."""
    stored: str
    """Type of the stored weight: "int8", "float16" or "float32"."""
    delegated: bool = False
    """Whether LiteRT's delegate XNNPACK runs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePrecision:
    """Shares of the arithmetic and of the weights of one engine."""

    macs_per_step: int
    """Multiply-accumulates of one network step."""
    macs_share: dict[str, float]
    """Share computed in each of :data:`PRECISIONS`."""
    weight_bytes: int
    """Bytes of all weights, biases left out."""
    bytes_share: dict[str, float]
    """Share of the bytes by the type they are stored in."""
    delegated_macs_share: float
    """Share that LiteRT's delegate runs; 0 on other engines."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def effective_precision(
    graph: IntegerGraph, *, onnx_model: bytes | None = None, tflite_model: bytes | None = None
) -> dict[str, EnginePrecision]:
    """By engine: "numpy" always, "onnxruntime" and "litert" where their model is given.

    Args:
        graph: What the numpy engine runs.
        onnx_model: A ``.onnx`` file.
        tflite_model: A ``.tflite`` file.
    """
    work: dict[str, Iterable[Work]] = {"numpy": numpy_work(graph)}
    if onnx_model is not None:
        work["onnxruntime"] = onnxruntime_work(onnx_model)
    if tflite_model is not None:
        work["litert"] = litert_work(tflite_model)
    return {engine: summarize(rows) for engine, rows in work.items()}


def summarize(work: Iterable[Work]) -> EnginePrecision:
    """Sums and shares of single operations."""
    rows = list(work)
    macs, weight_bytes = sum(row.macs for row in rows), sum(row.weight_bytes for row in rows)
    stored = sorted({row.stored for row in rows})
    return EnginePrecision(
        macs_per_step=macs,
        macs_share={p: sum(row.macs for row in rows if row.computed == p) / max(macs, 1) for p in PRECISIONS},
        weight_bytes=weight_bytes,
        bytes_share={s: sum(r.weight_bytes for r in rows if r.stored == s) / max(weight_bytes, 1) for s in stored},
        delegated_macs_share=sum(row.macs for row in rows if row.delegated) / max(macs, 1),
    )


def numpy_work(graph: IntegerGraph) -> Iterator[Work]:
    """Every operation with weights of an integer graph."""
    made = {op.outputs[0]: op for op in graph.ops if op.kind == "dequantize"}
    for op in graph.ops:
        if op.kind in ("conv", "fully_connected"):
            name = op.inputs[1]
            stored = graph.constants[made[name].inputs[0] if name in made else name]
            yield Work(
                macs=macs_of(graph, op),
                weight_bytes=stored.nbytes,
                computed=graph.tensors[op.inputs[0]].dtype,
                stored=stored.dtype.name,
            )


def macs_of(graph: IntegerGraph, op: Op) -> int:
    """Multiply-accumulates that a convolution or fully connected operation takes a step."""
    return math.prod(graph.tensors[op.outputs[0]].shape) * math.prod(graph.tensors[op.inputs[1]].shape[1:])


# Where a weight stands among the inputs: QLinear operations take input, scale and zero point before it.
_ONNX_WEIGHTS = {"Conv": 1, "FusedConv": 1, "Gemm": 1, "FusedGemm": 1, "MatMul": 1, "FusedMatMul": 1, "ConvInteger": 1,
                 "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QLinearConv": 3,
                 "QGemm": 3, "QLinearMatMul": 3}  # fmt: skip
_ONNX_INTEGER = frozenset({"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
                           "QLinearConv", "QGemm", "QLinearMatMul", "DynamicQuantizeLSTM"})  # fmt: skip
_ONNX_CELLS = frozenset({"GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"})
"""Fused cells: input 0 ``[T, N, I]``, weights 1 and 2 multiplied once for each of the T."""


def onnxruntime_work(model_bytes: bytes) -> Iterator[Work]:
    """Every operation with weights of the graph that ONNX Runtime's optimizer leaves."""
    import onnx

    model = _optimized(model_bytes)
    weights = {entry.name: entry for entry in model.graph.initializer}
    # A weight that is widened at run time is multiplied in float; its bytes are still those that are stored.
    widened = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in ("DequantizeLinear", "Cast")}
    weighted = [node for node in model.graph.node if node.op_type in _ONNX_WEIGHTS]
    shapes = _shapes(model, [node.output[0] for node in weighted])
    for node in weighted:
        source = node.input[_ONNX_WEIGHTS[node.op_type]]
        entry = weights.get(widened.get(source, source))
        if entry is None:
            continue
        weight, shape = onnx.numpy_helper.to_array(entry), shapes[node.output[0]]
        depth = math.prod(weight.shape[1:]) if "Conv" in node.op_type else weight.size // shape[-1]
        yield Work(
            macs=math.prod(shape) * depth,
            weight_bytes=weight.nbytes,
            computed="int8" if node.op_type in _ONNX_INTEGER else "float32",
            stored="int8" if weight.dtype == np.uint8 else weight.dtype.name,
        )
    yield from _cells(model, weights)


def _cells(model: Any, weights: dict[str, Any]) -> Iterator[Work]:
    import onnx

    cells = [node for node in model.graph.node if node.op_type in _ONNX_CELLS]
    shapes = _shapes(model, [node.input[0] for node in cells])
    for node in cells:
        for weight in (onnx.numpy_helper.to_array(weights[name]) for name in node.input[1:3] if name in weights):
            yield Work(
                macs=math.prod(shapes[node.input[0]][:2]) * weight.size,
                weight_bytes=weight.nbytes,
                computed="int8" if node.op_type in _ONNX_INTEGER else "float32",
                stored="int8" if weight.dtype == np.uint8 else weight.dtype.name,
            )


def _shapes(model: Any, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of inner tensors, from a run on zeros: ONNX shape inference stops at the optimizer's own operations."""
    import onnx
    import onnxruntime

    if not names:
        return {}
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = {value.name: _zeros(value) for value in model.graph.input}
    return {name: value.shape for name, value in zip(names, session.run(list(names), zeros), strict=True)}


def _zeros(value: Any) -> npt.NDArray[Any]:
    import onnx

    kind = value.type.tensor_type
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    return np.zeros(shape, dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _optimized(model_bytes: bytes) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The highest level adds layouts of this machine's processor; integer fusion is below it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def litert_work(model_bytes: bytes) -> Iterator[Work]:
    """Every operation with weights that a LiteRT interpreter has planned, with its delegate at work."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model_bytes)
    interpreter.allocate_tensors()
    tensors = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    planned = interpreter._get_ops_details()
    delegated = _delegated(planned)
    widened = {int(op["outputs"][0]): int(op["inputs"][0]) for op in planned if op["op_name"] == "DEQUANTIZE"}
    for op in planned:
        if op["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        data, weight = tensors[op["inputs"][0]], tensors[op["inputs"][1]]
        shape = [int(size) for size in weight["shape"]]
        depth = math.prod(shape[1:3]) if op["op_name"] == "DEPTHWISE_CONV_2D" else math.prod(shape[1:])
        stored = tensors[widened.get(int(op["inputs"][1]), int(op["inputs"][1]))]
        yield Work(
            macs=math.prod(int(size) for size in tensors[op["outputs"][0]]["shape"]) * depth,
            weight_bytes=math.prod(shape) * np.dtype(stored["dtype"]).itemsize,
            computed=np.dtype(data["dtype"]).name,
            stored=np.dtype(stored["dtype"]).name,
            delegated=int(op["index"]) in delegated,
        )


def _delegated(planned: Sequence[dict[str, Any]]) -> set[int]:
    """Operations that a delegate runs: those between its outputs and its inputs. They stay in the list beside it."""
    made_by = {int(out): op for op in planned if op["op_name"] != "DELEGATE" for out in op["outputs"]}
    found: set[int] = set()
    for delegate in (op for op in planned if op["op_name"] == "DELEGATE"):
        outside = {int(index) for index in delegate["inputs"]}
        waiting = [int(index) for index in delegate["outputs"]]
        while waiting:
            op = made_by.get(waiting.pop())
            if op is not None and int(op["index"]) not in found:
                found.add(int(op["index"]))
                waiting.extend(int(index) for index in op["inputs"] if int(index) not in outside)
    return found
