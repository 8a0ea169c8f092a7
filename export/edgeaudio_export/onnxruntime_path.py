"""Path 2: ONNX Runtime's ``quantize_static`` on the float model, with the ranges, ties and weight scales of this
package.

ONNX Runtime only writes the model: its own calibration would keep every activation of every clip and cannot feed
states back.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeaudio_export.activation_groups import ActivationGroup
from edgeaudio_export.calibration import weight_scales
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import OPSET_INT16
from edgeaudio_export.onnx_rewrites import linear_to_conv
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.qdq import without_codes
from edgeaudio_export.quantization_plan import QuantizationPlan
from edgeaudio_export.quiet import quiet_root
from edgeaudio_export.step_graph import Features, StepGraph
from edgeaudio_export.ties import Ties
from edgeaudio_runtime.quantization import QuantParams

TIED = frozenset({"Add", "Sub", "Concat", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Relu"})
QUANTIZED = sorted({"Conv", "Mul", "Sigmoid", "Tanh", "Softmax"} | TIED)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeResult:
    """What path 2 yields."""

    qdq: onnx.ModelProto
    """The model that ONNX Runtime wrote."""
    runner: OnnxRunner
    """The QDQ model, run as it is written."""

    def simulate(self, features: Features) -> Features:
        """Features ``[T, n_features]`` to dequantized logits ``[T_out, n_labels]``, one stream from reset."""
        return self.runner.run_stream(features)


def quantize_with_onnxruntime(
    step: StepGraph, float_onnx: onnx.ModelProto, plan: QuantizationPlan
) -> OnnxRuntimeResult:
    """Let ONNX Runtime write the QDQ model with the parameters of the plan, whose method is a static one."""
    model = linear_to_conv(float_onnx)
    if plan.is_wide:
        model = onnx.version_converter.convert_version(model, OPSET_INT16)
    ties = EdgeTies(model)
    params = params_of_edges(model, ties, step, plan)
    # A Transpose writes the codes it reads, so logits behind one need parameters that their whole group has.
    spare = {ties.leader(edge): found for edge, found in params.items()}
    overrides = {
        edge: [override(params.get(edge) or spare.get(ties.leader(edge), _PLACEHOLDER))] for edge in ties.edges
    }
    overrides.update(weight_overrides(model, plan.recipe.per_channel))
    features, states = step.example()
    feed = [features.numpy(), *(state.numpy() for state in states)]
    qdq = write_qdq(model, overrides, feed, per_channel=plan.recipe.per_channel)
    qdq = without_codes(qdq, model, frozenset(ties.edges) - frozenset(params))
    return OnnxRuntimeResult(qdq=qdq, runner=OnnxRunner(qdq, step.network))


def groups_of_edges(
    model: onnx.ModelProto, ties: EdgeTies, step: StepGraph, groups: Sequence[ActivationGroup]
) -> dict[str, str]:
    """Name of the activation group of every set of tied edges, by the first edge of the set.

    The exporter names an edge after the node of the step graph, only inputs and outputs are named anew.

    Raises:
        ExportError: A set of edges belongs to no group, or to two.
    """
    group_of = {member: group.name for group in groups for member in group.members}
    boundary = dict(zip((i.name for i in model.graph.input), step.inputs, strict=True))
    boundary |= zip((o.name for o in model.graph.output), step.outputs, strict=True)
    found: dict[str, set[str]] = {ties.leader(edge): set() for edge in ties.edges}
    for edge in ties.edges:
        node = boundary.get(edge, edge)
        if node in group_of:
            found[ties.leader(edge)].add(group_of[node])
    for leader, names in found.items():
        if len(names) != 1:
            raise ExportError(
                f"edge {leader!r} of the float ONNX model belongs to activation groups {sorted(names)}, must be one; "
                "this is a fault of the export: please report the network"
            )
    return {leader: names.pop() for leader, names in found.items()}


def params_of_edges(
    model: onnx.ModelProto, ties: EdgeTies, step: StepGraph, plan: QuantizationPlan
) -> dict[str, QuantParams]:
    """Parameters of every edge of the float ONNX model that holds codes."""
    groups = {group.name: group for group in plan.groups}
    names = groups_of_edges(model, ties, step, plan.groups)
    found = {}
    for edge in ties.edges:
        group = groups[names[ties.leader(edge)]]
        if plan.activations[group.name] != "float32":
            found[edge] = plan.params[group.members[0]]
    # Features and logits hold codes in every method.
    for edge, node in (
        (model.graph.input[0].name, step.inputs[0]),
        (model.graph.output[0].name, step.outputs[0]),
    ):
        found[edge] = plan.params[node]
    return found


class EdgeTies:
    """Which activation edges of a float ONNX model share parameters, and which of them calibration looks at."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._ties: Ties[str] = Ties()
        self.constants = {i.name for i in graph.initializer} | {
            n.output[0] for n in graph.node if n.op_type == "Constant"
        }
        nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.edges = [i.name for i in graph.input] + [node.output[0] for node in nodes]
        for edge in self.edges:
            self._ties.add(edge)
        for node in nodes:
            self._tie(node)
        for before, after in zip(list(graph.input)[1:], list(graph.output)[1:], strict=True):
            self._ties.tie(before.name, after.name)

    def _tie(self, node: onnx.NodeProto) -> None:
        if node.op_type in TIED:
            for name in node.input:
                if name not in self.constants:
                    self._ties.tie(name, node.output[0])

    def leader(self, edge: str) -> str:
        """The first edge of the group."""
        return self._ties.leader(edge)


def write_qdq(
    model: onnx.ModelProto,
    overrides: Mapping[str, Any],
    feed: Sequence[npt.NDArray[np.float32]],
    *,
    per_channel: bool,
    operations: Sequence[str] = QUANTIZED,
    leave: Sequence[str] = (),
    activations: QuantType = QuantType.QInt8,
) -> onnx.ModelProto:
    """Let ONNX Runtime put Q/DQ pairs into a float model.

    Args:
        model: Float model.
        overrides: Parameters of edges and weights by name; see :func:`override` and :func:`weight_overrides`.
        feed: An example of every input, in order.
        per_channel: One weight scale for each output channel.
        operations: ONNX names of what shall compute on codes.
        leave: Nodes that shall not.
        activations: Type of the codes that ``overrides`` does not speak of.
    """
    reader = _OneStep(dict(zip([i.name for i in model.graph.input], feed, strict=True)))
    # ONNX Runtime moves the weights of the model it is given into a temporary file.
    own = onnx.ModelProto()
    own.CopyFrom(model)
    # Its calibration prints on stdout, which belongs to results.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet_root(ADVICE):
        path = Path(folder) / "qdq.onnx"
        quantize_static(
            own,
            str(path),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operations),
            nodes_to_exclude=list(leave),
            per_channel=per_channel,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            extra_options={
                "TensorQuantOverrides": dict(overrides),
                "WeightSymmetric": True,
                "QDQKeepRemovableActivations": True,
                "QDQDisableWeightAdjustForInt32Bias": True,
                "ForceQuantizeNoInputCheck": True,
            },
        )
        return onnx.load(str(path))


ADVICE = "pre-processing before quantization"
"""Shape inference and fusion of batch norms, which the float model has behind it."""


class _OneStep(CalibrationDataReader):  # type: ignore[misc]
    """ONNX Runtime insists on calibration data, although every range is given."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, Any] | None:
        return self._feeds.pop() if self._feeds else None


_PLACEHOLDER = QuantParams(scale=(1.0,))
"""ONNX Runtime quantizes every tensor of an operation; those that shall stay float get their codes taken away again."""
_TYPES = {"int8": QuantType.QInt8, "int16": QuantType.QInt16}


def override(params: QuantParams) -> dict[str, Any]:
    """Parameters of an edge as ONNX Runtime takes them."""
    return {
        "quant_type": _TYPES[params.dtype],
        "scale": np.array(params.scale[0], np.float32),
        "zero_point": np.array(params.zero_point, params.dtype),
    }


def weight_overrides(model: onnx.ModelProto, per_channel: bool) -> dict[str, list[dict[str, Any]]]:
    """Scales of the weights of every ``Conv`` as ONNX Runtime takes them."""
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    names = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    axis = {"axis": 0} if per_channel else {}
    return {
        name: [
            {**axis, "quant_type": QuantType.QInt8, "scale": np.array(scale), "zero_point": np.array(0, np.int8)}
            for scale in weight_scales(weights[name], per_channel=per_channel)
        ]
        for name in names
    }
