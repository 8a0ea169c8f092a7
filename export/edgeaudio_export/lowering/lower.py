"""The whole lowering: QDQ ONNX in, integer graph out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgeaudio_export.errors import ExportError, LoweringError
from edgeaudio_export.lowering.borders import insert_borders
from edgeaudio_export.lowering.build import FloatWeights, build
from edgeaudio_export.lowering.fuse import fuse
from edgeaudio_export.lowering.parse import parse
from edgeaudio_runtime.graph import IntegerGraph


def lower(
    model: onnx.ModelProto, *, name: str, state_names: Sequence[str], float_weights: FloatWeights = "float32"
) -> IntegerGraph:
    """Lower one step of a QDQ model to the integer graph.

    Args:
        model: ONNX with inputs features ``[1, T, F]`` and states ``[1, C, K(, F)]``, outputs logits and new states,
            activations between a QuantizeLinear and a DequantizeLinear (features and logits always; others without are
            float32), weights int8 per output channel or per tensor, or float.
        name: Name of the graph.
        state_names: A name for each state, in order.
        float_weights: How the weights of float operations are stored, where they are not int8.

    Returns:
        A validated graph: features and logits int8 or int16, int32 biases of integer operations, ``[N, T, 1, C]``.

    Raises:
        LoweringError: An operation, layout or quantization that the integer graph cannot hold, by name.
    """
    try:
        return build(insert_borders(fuse(parse(model))), name, state_names, float_weights)
    except ExportError as error:
        raise LoweringError(str(error)) from error
