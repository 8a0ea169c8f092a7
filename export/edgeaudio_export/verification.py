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

MAX_MISMATCH_SHARE = 0.001
"""Largest share of codes that may differ after one step. The QDQ model multiplies and adds in float32, so a sum that
falls on the boundary between two codes may go the other way (about 1 in 100,000 for each layer)."""
MAX_LSB = 2
"""Largest difference of one such code, after the layers of one step have passed it on."""
CHECKED_STEPS = 50
"""Steps of the first stream that are compared."""

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoweringFacts:
    """Integer graph against QDQ model: both begin every step with the same state codes."""

    compared: int
    """Codes of logits and new states."""
    mismatches: int
    """Codes that differ."""
    max_lsb: int
    """Largest difference in codes."""


def verify_lowering(graph: IntegerGraph, qdq: OnnxRunner, stream: Features) -> LoweringFacts:
    """Run the first steps of a stream through both; refuse a graph that is not what was quantized."""
    program = NumpyProgram(graph)
    states = program.initial_states()
    differences = []
    for part in split_steps(stream, graph.step_frames)[:CHECKED_STEPS]:
        before = [_to_onnx(states[s.input], graph.tensors[s.input]) for s in graph.states]
        logits, *after = qdq.step(part, before)
        codes = quantize(part, quant_of(graph.input_tensor))[None, :, None, :]
        own_logits, states = program.run_pass(codes, states, 1)
        differences.append(_difference(own_logits, logits[:, :, None, :], graph.output_tensor))
        for state, value in zip(graph.states, after, strict=True):
            real = value.transpose(0, 2, 1)[:, :, None, :]
            differences.append(_difference(states[state.input], real, graph.tensors[state.input]))
    difference = np.concatenate(differences)
    facts = LoweringFacts(
        compared=difference.size, mismatches=int((difference > 0).sum()), max_lsb=int(difference.max())
    )
    if facts.max_lsb > MAX_LSB or facts.mismatches > MAX_MISMATCH_SHARE * facts.compared:
        raise ExportError(
            f"integer graph differs from the QDQ model in {facts.mismatches} of {facts.compared} codes by up to "
            f"{facts.max_lsb}, rounding explains at most {MAX_MISMATCH_SHARE:.1%} by {MAX_LSB}; "
            "this is a fault of the lowering: please report the network"
        )
    return facts


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantization of an integer tensor."""
    if tensor.quant is None:
        raise ExportError(f"tensor {tensor.name!r} is float, must be int8; quantize the whole network")
    return tensor.quant


def _to_onnx(codes: Codes, tensor: Tensor) -> Features:
    """State codes ``[1, K, 1, C]`` to the real values ``[1, C, K]`` that the QDQ model takes."""
    return np.ascontiguousarray(dequantize(codes, quant_of(tensor))[:, :, 0, :].transpose(0, 2, 1))


def _difference(codes: Codes, real: Features, tensor: Tensor) -> npt.NDArray[np.int64]:
    difference: npt.NDArray[np.int64] = np.abs(
        codes.astype(np.int64) - quantize(real, quant_of(tensor)).astype(np.int64)
    ).ravel()
    return difference
