"""Networks for ONNX Runtime alone: what it can compute on int8 codes with our ranges, the rest in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType

from edgeaudio_export.activation_groups import ActivationGroup
from edgeaudio_export.calibration.calibrate import Calibration
from edgeaudio_export.checks import check_streams
from edgeaudio_export.deployment import OnnxOnly
from edgeaudio_export.dynamic import quantize_dynamically
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.codes_boundary import with_codes
from edgeaudio_export.foreign.edges import calibrate_edges, edge_groups, quantizable_nodes
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.torch_network import KeptOperation
from edgeaudio_export.onnx_rewrites import linear_to_conv
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.onnxruntime_path import weight_overrides, write_qdq
from edgeaudio_export.qdq import with_int32_biases
from edgeaudio_export.quantization_plan import boundary_params
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import Backend
from edgeaudio_export.step_graph import Features, Progress
from edgeaudio_runtime.quantization import QuantParams

OFFERED = ("static_w8a8", "dynamic_w8", "float32")
"""Methods for networks that ONNX Runtime alone runs."""
FUSED_CELLS = frozenset({"GRU", "LSTM", "RNN"})
"""Operations that no static method quantizes; of these, dynamic quantization knows the LSTM."""


@dataclass(frozen=True, kw_only=True)
class OnnxOnlyNetwork:
    """What the bundle of a network for ONNX Runtime alone is made from."""

    graph: OnnxOnly
    """The model that speaks codes."""
    float_onnx: bytes
    """Float reference, as :class:`edgeaudio_export.foreign.step_model.StepModel` describes it."""
    simulate: Callable[[Features], Features]
    """The quantized model before its boundary got codes, as it is written: features ``[T, n_features]`` to logits."""
    calibration: Calibration
    """How the ranges were found."""
    recipe: QuantizationRecipe
    """Method and options."""
    kept: tuple[KeptOperation, ...]
    """What keeps the network from the integer graph; empty where the method alone does."""
    float_operations: dict[str, int]
    """Operations with arithmetic that compute in float32, by name, with their number."""

    @property
    def backend(self) -> Backend:
        """Always "onnxruntime"."""
        return "onnxruntime"

    @property
    def recovery(self) -> None:
        """Always None: recovery steps work on what the integer graph holds."""
        return None

    def warnings(self) -> list[str]:
        """One line for each thing that a user would not expect."""
        reasons = ", ".join(entry.describe() for entry in self.kept) or f"method {self.recipe.method}"
        lines = [f"for ONNX Runtime only, no numpy and no LiteRT model; kept there by {reasons}"]
        cells = {kind: n for kind, n in self.float_operations.items() if kind in FUSED_CELLS}
        if cells and self.recipe.scheme.mode != "float":
            shown = ", ".join(f"{n} {kind}" for kind, n in cells.items())
            remedy = "write the cell out as a step of linear layers"
            if self.recipe.scheme.mode == "static" and "LSTM" in cells:
                remedy += ", or try --method dynamic_w8, which knows LSTM"
            lines.append(f"WARNING: {shown} stay float32: ONNX Runtime has no {self.recipe.method} for them; {remedy}")
        return lines

    def facts(self) -> dict[str, Any]:
        """What a manifest says beside the recipe."""
        return {
            "only_for": "onnxruntime",
            "kept_by": [entry.to_dict() for entry in self.kept],
            "float_operations": self.float_operations,
        }


def quantize_onnx_only(
    step: StepModel,
    streams: Sequence[Features],
    *,
    recipe: QuantizationRecipe,
    name: str,
    kept: tuple[KeptOperation, ...] = (),
    progress: Progress | None = None,
) -> OnnxOnlyNetwork:
    """Quantize a step model for ONNX Runtime alone.

    Args:
        step: The float model.
        streams: Calibration features, each float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``.
        recipe: One of :data:`OFFERED`, without recovery and rules for layers.
        name: Name of the graph.
        kept: Why it is not lowered, for the manifest.
        progress: Called with (done, total) streams while calibrating.

    Raises:
        ExportError: Another method, a stream that does not fit, or an activation that has no range; one line.
    """
    _check_recipe(recipe, kept)
    check_streams(step, streams)
    mode = recipe.scheme.mode
    if mode == "static" and step.whole:
        raise ExportError(
            f"method={recipe.method!r} needs steps of one length; choose 'dynamic_w8' or 'float32' for a network that "
            "hears whole recordings"
        )
    model = step.model if mode != "static" else _with_convolutions(step.model)
    nodes = quantizable_nodes(model) if mode == "static" else []
    groups = edge_groups(model, nodes)
    calibration = calibrate_edges(step, model, groups, streams, recipe.calibration, progress)
    quantized = _quantized(step, model, nodes, calibration, recipe)
    features = step.features or _boundary(calibration, "features", recipe)
    logits = _boundary(calibration, "logits", recipe)
    return OnnxOnlyNetwork(
        graph=with_codes(quantized, step, features, logits, name=name),
        float_onnx=step.model.SerializeToString(),
        simulate=OnnxRunner(quantized, step, whole=step.whole).run_stream,
        calibration=calibration,
        recipe=recipe,
        kept=kept,
        float_operations=_float_operations(model, quantized, nodes),
    )


def _check_recipe(recipe: QuantizationRecipe, kept: tuple[KeptOperation, ...]) -> None:
    if recipe.method not in OFFERED:
        reasons = ", ".join(entry.describe() for entry in kept)
        raise ExportError(
            f"method={recipe.method!r} needs the integer graph, which {reasons} keep the model from; choose one of "
            f"{list(OFFERED)}"
        )
    if recipe.recovery or recipe.layers:
        raise ExportError(
            f"recovery={list(recipe.recovery)} and rules for layers need the integer graph; leave them out for a model "
            "that ONNX Runtime alone runs"
        )


def _with_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Linear layers as convolutions where every one reads ``[N, T, C]``; else the model as it is."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*inferred.value_info, *inferred.input)}
    read = [node.input[0] for node in model.graph.node if node.op_type == "MatMul"]
    return linear_to_conv(model) if all(ranks.get(name) == 3 for name in read) else model


def _quantized(
    step: StepModel,
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    calibration: Calibration,
    recipe: QuantizationRecipe,
) -> onnx.ModelProto:
    if recipe.scheme.mode == "float":
        return model
    if recipe.scheme.mode == "dynamic":
        return quantize_dynamically(
            model, per_channel=recipe.per_channel, reduce_range=recipe.reduce_range, leave=step.float_operations
        )
    chosen = {node.name for node in nodes}
    kinds = sorted({node.op_type for node in nodes})
    leave = [node.name for node in model.graph.node if node.op_type in kinds and node.name not in chosen]
    overrides: dict[str, Any] = {}
    for group in calibration.groups:
        params = _params(calibration, group, recipe)
        overrides |= {edge: [_unsigned(params)] for edge in group.members}
    overrides |= weight_overrides(model, recipe.per_channel)
    features = np.zeros((1, step.step_frames, step.n_features), np.float32)
    feed = [features, *(state.numpy() for state in step.initial_state())]
    qdq = write_qdq(
        model,
        overrides,
        feed,
        per_channel=recipe.per_channel,
        operations=kinds,
        leave=leave,
        activations=QuantType.QUInt8,
    )
    return with_int32_biases(qdq)


def _unsigned(params: QuantParams) -> dict[str, Any]:
    """The same range as uint8 codes, for ONNX Runtime.

    On x86 its optimizer makes signed codes unsigned, misses those that two operations read, and then fuses nothing
    around them.
    """
    zero_point = np.array(params.zero_point - params.low, np.uint8)
    return {"quant_type": QuantType.QUInt8, "scale": np.array(params.scale[0], np.float32), "zero_point": zero_point}


def _params(calibration: Calibration, group: ActivationGroup, recipe: QuantizationRecipe) -> QuantParams:
    symmetric = recipe.symmetric("int8")
    return calibration.range(group.name, "int8", symmetric=symmetric).params("int8", symmetric=symmetric)


def _boundary(calibration: Calibration, edge: str, recipe: QuantizationRecipe) -> QuantParams:
    group = next(group for group in calibration.groups if edge in group.members)
    return (
        _params(calibration, group, recipe) if recipe.scheme.mode == "static" else boundary_params(calibration, group)
    )


_MOVES = frozenset({"Constant", "Identity", "Concat", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather",
                    "Shape", "Split", "Flatten", "Expand", "Pad", "Cast", "Dropout"})  # fmt: skip
"""Operations that compute nothing."""


def _float_operations(
    model: onnx.ModelProto, quantized: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]
) -> dict[str, int]:
    """What is left in float of the float model's operations: neither quantized statically, nor replaced."""
    on_codes = {node.name for node in nodes}
    left = {node.name for node in quantized.graph.node}
    found = Counter(
        node.op_type
        for node in model.graph.node
        if node.op_type not in _MOVES and node.name not in on_codes and node.name in left
    )
    return dict(sorted(found.items()))
