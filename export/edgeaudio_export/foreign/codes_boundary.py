"""Codes at the boundary of a model that computes in float32 inside, as every engine of a bundle expects them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeaudio_export.deployment import OnnxOnly
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_runtime.engines.base import NetworkSignature
from edgeaudio_runtime.manifest import NetworkState
from edgeaudio_runtime.quantization import QuantParams

_TYPES = {"int8": TensorProto.INT8, "int16": TensorProto.INT16}


def with_codes(
    model: onnx.ModelProto, step: StepModel, features: QuantParams, logits: QuantParams, *, name: str
) -> OnnxOnly:
    """Put a DequantizeLinear before the features and a QuantizeLinear behind the logits.

    Args:
        model: Inputs and outputs as those of ``step.model``; opset 21 or later where the codes are int16.
        step: What it was made from; one of whole recordings leaves their length open here too.
        features: Quantization of the features.
        logits: Quantization of the logits.
        name: Of the graph.

    Returns:
        The model with features ``[1, step_frames, 1, n_features]`` and logits ``[1, outputs_per_step, 1, n_labels]`` as
        codes; states stay float32.
    """
    signature = NetworkSignature(
        step_frames=step.step_frames, n_features=step.n_features, outputs_per_step=step.outputs_per_step,
        n_labels=step.n_labels, input_quant=features, output_quant=logits, whole=step.whole,
    )  # fmt: skip
    own = onnx.ModelProto()
    own.CopyFrom(model)
    graph = own.graph
    graph.name = name
    for node in graph.node:
        node.input[:] = [f"{edge}_real" if edge in _BOUNDARY else edge for edge in node.input]
        node.output[:] = [f"{edge}_real" if edge in _BOUNDARY else edge for edge in node.output]
    nodes = [*_features(graph, signature), *graph.node, *_logits(graph, signature)]
    del graph.node[:]
    graph.node.extend(nodes)
    frames, outputs = ("frames", "outputs") if step.whole else (signature.step_frames, signature.outputs_per_step)
    _retype(graph.input[0], frames, signature.n_features, features)
    _retype(graph.output[0], outputs, signature.n_labels, logits)
    onnx.checker.check_model(own)
    states = tuple(
        NetworkState(name=state, shape=shape, dtype="float32", initial=0)
        for state, shape in zip(step.state_names, step.state_shapes, strict=True)
    )
    return OnnxOnly(model=own.SerializeToString(), signature=signature, states=states)


_BOUNDARY = ("features", "logits")


def _features(graph: onnx.GraphProto, signature: NetworkSignature) -> list[onnx.NodeProto]:
    frames = -1 if signature.whole else signature.step_frames
    shape = _constant(graph, "features_shape", np.array([1, frames, signature.n_features], np.int64))
    return [
        helper.make_node("Reshape", ["features", shape], ["features_codes"], name="features_codes"),
        helper.make_node(
            "DequantizeLinear", ["features_codes", *_parameters(graph, "features", signature.input_quant)],
            ["features_real"], name="features_real",
        ),
    ]  # fmt: skip


def _logits(graph: onnx.GraphProto, signature: NetworkSignature) -> list[onnx.NodeProto]:
    outputs = -1 if signature.whole else signature.outputs_per_step
    shape = _constant(graph, "logits_shape", np.array([1, outputs, 1, signature.n_labels], np.int64))
    return [
        helper.make_node(
            "QuantizeLinear", ["logits_real", *_parameters(graph, "logits", signature.output_quant)],
            ["logits_codes"], name="logits_codes",
        ),
        helper.make_node("Reshape", ["logits_codes", shape], ["logits"], name="logits"),
    ]  # fmt: skip


def _parameters(graph: onnx.GraphProto, label: str, quant: QuantParams) -> list[str]:
    scale, zero_point = np.float32(quant.scale[0]), np.array(quant.zero_point, quant.dtype)
    names = (f"{label}_boundary_scale", f"{label}_boundary_zero_point")
    return [_constant(graph, names[0], np.asarray(scale)), _constant(graph, names[1], zero_point)]


def _constant(graph: onnx.GraphProto, name: str, data: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    graph.initializer.append(numpy_helper.from_array(data, name))
    return name


def _retype(value: onnx.ValueInfoProto, frames: int | str, size: int, quant: QuantParams) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, _TYPES[quant.dtype], (1, frames, 1, size)))
