"""A float ONNX model of one network step in the one form that everything behind the reader expects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeaudio_export.float_onnx import OPSET_INT16, input_names, output_names
from edgeaudio_export.network import States
from edgeaudio_runtime.quantization import QuantParams


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """Inputs ``features [1, step_frames, n_features]`` and ``state_<i>_in``, outputs
    ``logits [1, outputs_per_step, n_labels]`` and ``state_<i>_out``, all float32 and of fixed shape; states start at 0.
    """

    model: onnx.ModelProto
    """Opset :data:`edgeaudio_export.float_onnx.OPSET_INT16` or later."""
    step_frames: int
    """Feature frames one step consumes."""
    n_features: int
    """Values in a frame."""
    outputs_per_step: int
    """Logit vectors one step yields."""
    n_labels: int
    """Values in a logit vector."""
    state_names: tuple[str, ...]
    """What the model's author called the state inputs."""
    state_shapes: tuple[tuple[int, ...], ...]
    """Shape of each state."""
    whole: bool = False
    """Whether the model takes any number of steps at once, a recording each time; T and T_out are then left open."""
    features: QuantParams | None = None
    """Quantization of the features where it is known beforehand, as of samples; None leaves it to calibration."""
    float_operations: tuple[str, ...] = ()
    """ONNX operations that dynamic quantization leaves in float, beside those it does not know."""

    def initial_state(self, batch: int = 1) -> States:
        """Zeros; ``batch`` is 1, the only one there is."""
        assert batch == 1, batch
        return tuple(torch.zeros(shape) for shape in self.state_shapes)


def step_model_of(model: onnx.ModelProto, state_names: tuple[str, ...]) -> StepModel:
    """A model that has the regular inputs and outputs, brought to the opset whose QuantizeLinear writes int16."""
    if _opset(model) < OPSET_INT16:
        model = onnx.version_converter.convert_version(model, OPSET_INT16)
    inputs = {value.name: shape_of(value) for value in model.graph.input}
    outputs = {value.name: shape_of(value) for value in model.graph.output}
    states = tuple(inputs[name] for name in input_names(len(state_names))[1:])
    assert list(outputs) == output_names(len(state_names)), list(outputs)
    return StepModel(
        model=model,
        step_frames=inputs["features"][1],
        n_features=inputs["features"][2],
        outputs_per_step=outputs["logits"][1],
        n_labels=outputs["logits"][2],
        state_names=state_names,
        state_shapes=states,
    )


QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
                       "QGemm", "ConvInteger", "MatMulInteger"})  # fmt: skip
"""Operations of a model that was quantized elsewhere."""
_PROBABLE = frozenset({"Softmax", "Sigmoid"})
_UNCHANGED = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Cast", "QuantizeLinear",
                        "DequantizeLinear"})  # fmt: skip


def is_quantized(step: StepModel) -> bool:
    """Whether somebody quantized the model already."""
    return any(node.op_type in QUANTIZED for node in step.model.graph.node)


def makes_probabilities(step: StepModel) -> bool:
    """Whether softmax or sigmoid compute the output, but for operations that leave it what it is."""
    makers = {name: node for node in step.model.graph.node for name in node.output}
    node = makers.get("logits")
    while node is not None and node.op_type in _UNCHANGED:
        node = makers.get(node.input[0])
    return node is not None and node.op_type in _PROBABLE


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of an input or output; 0 where one is not fixed."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give edges other names, wherever they stand; an edge that has one of the new names already steps aside."""
    taken = {edge for node in graph.node for edge in (*node.input, *node.output)}
    taken |= {entry.name for entry in (*graph.initializer, *graph.input, *graph.output)}
    aside = {new: f"{new}_inner" for new in names.values() if new in taken and new not in names}
    names = {**aside, **names}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for entry in (*graph.initializer, *graph.input, *graph.output):
        entry.name = names.get(entry.name, entry.name)


def fix_shapes(model: onnx.ModelProto, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> None:
    """Declare these float32 inputs and outputs, in this order, and forget shapes that were inferred for others."""
    graph = model.graph
    for values, shapes in ((graph.input, inputs), (graph.output, outputs)):
        del values[:]
        values.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
        )
    del graph.value_info[:]


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and ``Constant`` nodes by the edge that holds them."""
    found = {entry.name: entry for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.from_array(_plain(node.attribute[0]), node.output[0])
    return found


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what only rearranges constants once, in the file: exporters leave large weights to be turned at run time,
    and quantizers then do not know them for weights.
    """
    graph = model.graph
    values = {name: numpy_helper.to_array(tensor) for name, tensor in constants_of(graph).items()}
    for node in list(graph.node):
        inputs = [name for name in node.input if name]
        if node.op_type not in _REARRANGING or not all(name in values for name in inputs):
            continue
        evaluator = ReferenceEvaluator(node, opsets={"": _opset(model)})
        results = evaluator.run(None, {name: values[name] for name in inputs})
        graph.node.remove(node)
        for name, result in zip(node.output, results, strict=True):
            values[name] = np.asarray(result)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values[name]), name))
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [entry for entry in graph.initializer if entry.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


_REARRANGING = frozenset({"Transpose", "Reshape", "Slice", "Concat", "Squeeze", "Unsqueeze", "Split", "Gather", "Cast"})


def _plain(attribute: onnx.AttributeProto) -> npt.NDArray[np.generic]:
    value = helper.get_attribute_value(attribute)
    return np.asarray(value, dtype=np.float32 if "float" in attribute.name else np.int64)


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
