"""The integer graph held against the quantizer's own simulation, and against itself in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import Features
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import quantize

MAX_MISMATCH_SHARE = 0.02
"""Largest share of logit codes that may differ from the simulation. It multiplies in float32, so a sum that falls on the
boundary between two codes may go the other way (about 1 in 100,000), which a deep network then spreads."""
MAX_LSB = 3
"""Largest difference of one such code, as between requantization rules on a ten-layer network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoweringFacts:
    """Integer graph against simulation, chained steps from reset."""

    compared: int
    """Logit codes."""
    mismatches: int
    """Codes that differ."""
    max_lsb: int
    """Largest difference."""


def verify_lowering(graph: IntegerGraph, simulate: Callable[[Features], Features], stream: Features) -> LoweringFacts:
    """Run one stream through both; refuse a graph that is not what was quantized or that does not stream."""
    input_quant, output_quant = graph.input_tensor.quant, graph.output_tensor.quant
    assert input_quant is not None
    assert output_quant is not None
    codes = quantize(stream, input_quant)
    program = NumpyProgram(graph)
    whole, session = program.session().run(codes), program.session()
    stepped = np.concatenate(
        [session.run(codes[i : i + graph.step_frames]) for i in range(0, len(codes), graph.step_frames)]
    )
    if not np.array_equal(whole, stepped):
        raise ExportError(
            "integer graph does not stream: one call differs from chained steps; write states as x[:, :, -K:] with a constant K"
        )
    difference = np.abs(stepped.astype(int) - quantize(simulate(stream), output_quant).astype(int))
    facts = LoweringFacts(
        compared=difference.size, mismatches=int((difference > 0).sum()), max_lsb=int(difference.max())
    )
    if facts.max_lsb > MAX_LSB or facts.mismatches > max(1, MAX_MISMATCH_SHARE * facts.compared):
        raise ExportError(
            f"integer graph differs from its simulation in {facts.mismatches} of {facts.compared} codes by up to {facts.max_lsb}, "
            f"at most {MAX_MISMATCH_SHARE:.0%} by {MAX_LSB} are rounding; report the network, this is a fault of the lowering"
        )
    return facts
