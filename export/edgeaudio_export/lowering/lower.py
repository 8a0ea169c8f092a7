"""The whole lowering: QDQ ONNX in, integer graph out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgeaudio_export.lowering.build import build
from edgeaudio_export.lowering.fuse import fuse
from edgeaudio_export.lowering.parse import parse
from edgeaudio_runtime.graph import IntegerGraph


def lower(model: onnx.ModelProto, *, name: str, state_names: Sequence[str]) -> IntegerGraph:
    """Lower one step of a QDQ model to the integer graph.

    Args:
        model: ONNX with inputs features ``[1, T, F]`` and states ``[1, C, K]``, outputs logits and new states, every
            activation between a QuantizeLinear and a DequantizeLinear, int8 weights per output channel.
        name: Name of the graph.
        state_names: A name for each state, in order.

    Returns:
        A validated graph: int8 features, states and logits, int32 biases, ``[N, T, 1, C]``.

    Raises:
        ExportError: An operation, layout or quantization that the integer graph cannot hold, by name.
    """
    return build(fuse(parse(model)), name, state_names)
