"""In what type each engine computes each operation of an integer graph, and whether the codes are then the same."""

from __future__ import annotations

from collections.abc import Mapping

from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.graph_constants import widened_constants
from edgeaudio_runtime.manifest import ENGINES

_MOVING = frozenset({"concat", "slice", "merge_frequency", "relu", "clamp"})
"""Operations that compute nothing: their codes leave as they came, whatever the type and the engine."""
_LITERT_FLOAT_ON_INT16 = frozenset({"sigmoid", "tanh", "softmax"})


def computes_in(graph: IntegerGraph, engine: str) -> Mapping[str, str]:
    """The type that each operation with arithmetic computes in, by the name of its output.

    Args:
        graph: What the engine's artifact was written from.
        engine: "numpy", "onnxruntime" or "litert".

    Returns:
        "int8", "int16" or "float32" for every operation but those that only move or clip codes, and those that widen
        a constant. ONNX Runtime has no integer kernels for int16 codes, LiteRT none for functions of them that would
        take any scale; both compute in float32 there and round to codes.
    """
    widened = widened_constants(graph)
    ops = [op for op in graph.ops if op.kind not in _MOVING and op.outputs[0] not in widened]
    return {op.outputs[0]: _type(graph, op, engine) for op in ops}


def exact_engines(graph: IntegerGraph) -> tuple[str, ...]:
    """Engines whose codes are the numpy engine's, bit for bit, as far as every operation was measured.

    numpy itself always is. The others are where no operation computes in float32, none adds tensors of different
    scales and none is a softmax; ``docs/numerics.md`` has the measurements.
    """
    return tuple(engine for engine in ENGINES if engine == "numpy" or _is_exact(graph, engine))


def _is_exact(graph: IntegerGraph, engine: str) -> bool:
    computed = computes_in(graph, engine)
    return "float32" not in computed.values() and all(
        op.kind != "softmax" and (op.kind not in {"add", "sub"} or _is_tied(graph, op)) for op in graph.ops
    )


def _is_tied(graph: IntegerGraph, op: Op) -> bool:
    return len({graph.tensors[name].quant for name in (*op.inputs, *op.outputs)}) == 1


def _type(graph: IntegerGraph, op: Op, engine: str) -> str:
    types = {graph.tensors[name].dtype for name in (op.inputs[0], op.outputs[0])}
    if "float32" in types:
        return "float32"
    if "int16" not in types:
        return "int8"
    in_float = engine == "onnxruntime" or (engine == "litert" and op.kind in _LITERT_FLOAT_ON_INT16)
    return "float32" if in_float else "int16"
