"""Constants that are stored narrower than they are computed with: float16, or codes in front of a float operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.quantization import dequantize


def widened_constants(graph: IntegerGraph) -> Mapping[str, str]:
    """Outputs of the ``dequantize`` operations that read a constant, each with the name of that constant."""
    return MappingProxyType(
        {op.outputs[0]: op.inputs[0] for op in graph.ops if op.kind == "dequantize" and op.inputs[0] in graph.constants}
    )


def with_widened_constants(graph: IntegerGraph) -> IntegerGraph:
    """The same computation with those operations done once: their outputs are float32 constants of the result."""
    widened = widened_constants(graph)
    if not widened:
        return graph
    constants = {name: widen(graph.constants[source], graph.tensors[source]) for name, source in widened.items()}
    read = {name for op in graph.ops if op.outputs[0] not in widened for name in op.inputs}
    kept = {name: data for name, data in graph.constants.items() if name in read}
    return replace(
        graph,
        constants={**kept, **constants},
        tensors={name: tensor for name, tensor in graph.tensors.items() if name in kept or name not in graph.constants},
        ops=tuple(op for op in graph.ops if op.outputs[0] not in widened),
    )


def widen(data: npt.NDArray[Any], tensor: Tensor) -> npt.NDArray[np.float32]:
    """Stored constant to float32: codes by their parameters, float16 exactly."""
    if tensor.quant is None:
        return data.astype(np.float32)
    return dequantize(data, tensor.quant)
