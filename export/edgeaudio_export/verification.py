"""The integer graph held against the QDQ model it was lowered from, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_export.onnx_runner import OnnxRunner, split_steps
from edgeaudio_export.step_graph import Features
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.graph import IntegerGraph, Tensor
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far codes may be from the QDQ model after one step."""

    lsb: int
    """Difference that rounding explains in any code."""
    share: float
    """Largest share of codes that may differ by more."""
    limit: int
    """Largest difference of these, after the layers of one step have passed it on."""


INT8 = Tolerance(lsb=0, share=0.002, limit=8)
"""The QDQ model multiplies and adds in float32, so a sum that falls on the boundary between two codes may go the other
way (about 1 in 100,000 for each layer); what follows it in the step makes more of it (3 codes behind 12 blocks). How
many is a matter of the processor's order of adding: 23 of 21,800 codes of one GRU, each by one, on an x86 without
VNNI."""
WIDE = Tolerance(lsb=16, share=0.0, limit=16)
"""int16 codes, and float32 in steps of its largest value over 32767: a float32 sum has 24 bits, so one code more or
less for each layer is rounding, and gains of layers multiply it. 16 of them are a sixteenth of an int8 step."""
MIXED_INT8 = Tolerance(lsb=0, share=0.05, limit=8)
"""Where an operation computes in int16 and its result becomes int8, it is rounded twice: of the 128 int16 codes within
an int8 step one is halfway and may go the other way, 0.4 % of the codes for each such layer, and the next layers sum
over many codes."""
MIXED_WIDE = Tolerance(lsb=16, share=0.1, limit=8 * 256)
"""The same seen in int16 codes, 256 of which are an int8 step."""
CHECKED_STEPS = 50
"""Steps of the first stream that are compared."""

Values = npt.NDArray[Any]
"""Codes or float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoweringFacts:
    """Integer graph against QDQ model: both begin every step with the same state codes."""

    compared: int
    """Codes of logits and new states; values of float32 states count in 32767ths of the largest."""
    mismatches: int
    """Codes that differ."""
    max_lsb: int
    """Largest difference in codes, int8 or int16."""


def verify_lowering(graph: IntegerGraph, qdq: OnnxRunner, stream: Features) -> LoweringFacts:
    """Run the first steps of a stream through both; refuse a graph that is not what was quantized."""
    program = NumpyProgram(graph)
    states, initial = program.initial_states(), qdq.initial_states()
    differences: dict[str, list[npt.NDArray[np.int64]]] = {}
    for part in split_steps(stream, graph.step_frames)[:CHECKED_STEPS]:
        before = [
            _to_onnx(states[s.input], graph.tensors[s.input], like.shape)
            for s, like in zip(graph.states, initial, strict=True)
        ]
        logits, *after = qdq.step(part, before)
        codes = quantize(part, quant_of(graph.input_tensor)).reshape(program.feature_shape(1))
        own_logits, states = program.run_pass(codes, states, 1)
        pairs = [(graph.output_tensor, own_logits, logits[:, :, None, :])]
        for state, value in zip(graph.states, after, strict=True):
            pairs.append((graph.tensors[state.input], states[state.input], _to_graph(value)))
        for tensor, own, real in pairs:
            differences.setdefault(tensor.dtype, []).append(_difference(own, real, tensor))
    found = {dtype: np.concatenate(parts) for dtype, parts in differences.items()}
    for dtype, difference in found.items():
        _judge(difference, dtype, _tolerance(graph, dtype))
    everything = np.concatenate(list(found.values()))
    return LoweringFacts(
        compared=everything.size, mismatches=int((everything > 0).sum()), max_lsb=int(everything.max())
    )


def _tolerance(graph: IntegerGraph, dtype: str) -> Tolerance:
    is_mixed = any(op.kind == "requantize" and graph.tensors[op.outputs[0]].dtype == "int8" for op in graph.ops)
    if dtype == "int8":
        return MIXED_INT8 if is_mixed else INT8
    return MIXED_WIDE if is_mixed or _has_codes(graph) else WIDE


def _has_codes(graph: IntegerGraph) -> bool:
    """Whether an operation writes int8: one such code that falls the other way is many int16 codes."""
    return any(graph.tensors[op.outputs[0]].dtype == "int8" for op in graph.ops)


def _judge(difference: npt.NDArray[np.int64], dtype: str, tolerance: Tolerance) -> None:
    beyond, largest = int((difference > tolerance.lsb).sum()), int(difference.max())
    if largest > tolerance.limit or beyond > tolerance.share * difference.size:
        raise ExportError(
            f"integer graph differs from the QDQ model in {beyond} of {difference.size} {dtype} values by up to "
            f"{largest} codes, rounding explains at most {tolerance.share:.1%} by {tolerance.limit}; "
            "this is a fault of the lowering: please report the network"
        )


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantization of an integer tensor."""
    if tensor.quant is None:
        raise ExportError(f"tensor {tensor.name!r} is float, must be codes; give the boundary Q/DQ pairs")
    return tensor.quant


def _to_onnx(values: Values, tensor: Tensor, shape: tuple[int, ...]) -> Features:
    """State ``[1, K, F, C]``, codes or float32, to the real ``[1, C, K]`` or ``[1, C, K, F]`` of the QDQ model."""
    real = values if tensor.quant is None else dequantize(values, tensor.quant)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2).reshape(shape))


def _to_graph(values: Features) -> Features:
    """The other way round."""
    return values.reshape(*values.shape[:3], -1).transpose(0, 2, 3, 1)


def _difference(values: Values, real: Features, tensor: Tensor) -> npt.NDArray[np.int64]:
    if tensor.quant is None:
        unit = max(float(np.abs(real).max()), 1e-30) / 32767
        steps: npt.NDArray[np.float64] = np.abs(values.astype(np.float64) - real) / unit
        return np.rint(steps).astype(np.int64).ravel()
    difference: npt.NDArray[np.int64] = np.abs(
        values.astype(np.int64) - quantize(real, tensor.quant).astype(np.int64)
    ).ravel()
    return difference
