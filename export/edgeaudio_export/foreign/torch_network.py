"""A step model as a torch module, where all its operations are some that the integer graph has.

What can be rebuilt takes the way of a checkpoint: the same calibration, plan, quantization and lowering.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.step_model import StepModel, constants_of
from edgeaudio_export.network import States
from edgeaudio_export.onnx_runner import OnnxRunner, split_steps
from edgeaudio_export.step_graph import Features, run_stream

REBUILT_TOLERANCE = 1e-4
"""Largest difference between the rebuilt module and ONNX Runtime, relative to the largest logit: they sum in other
orders."""
CHECKED_STEPS = 12
"""Steps of the first stream on which the two are compared."""

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_WEIGHTED = frozenset({"Conv", "MatMul", "BatchNormalization"})
_RESHAPING = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
_PLAIN = _RESHAPING | {"Relu", "Sigmoid", "Tanh", "Softmax", "Transpose", "Concat", "Slice", "Add", "Sub", "Mul"}
_SILENT = frozenset({"Identity", "Dropout", "Constant"})


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptOperation:
    """An operation that the integer graph does not have, so that the model stays with ONNX Runtime."""

    operation: str
    """ONNX name; empty where it is how the operations are put together."""
    count: int
    """How many there are."""
    reason: str
    """Why it is none of the integer graph's."""

    def describe(self) -> str:
        """For a line of text."""
        return self.reason if not self.operation else f"{self.count} {self.operation} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"operation": self.operation, "count": self.count, "reason": self.reason}


def kept_operations(step: StepModel) -> tuple[KeptOperation, ...]:
    """Operations that keep a model from the integer graph, most frequent first; empty for :class:`OnnxNetwork`."""
    constants = constants_of(step.model.graph)
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in constants.items()}
    biases = set(_biases(step.model.graph, arrays).values())
    found: Counter[tuple[str, str]] = Counter()
    for node in step.model.graph.node:
        reason = "" if node.output[0] in biases else _reason(node, constants)
        if reason:
            found[node.op_type, reason] += 1
    return tuple(
        KeptOperation(operation=operation, count=count, reason=reason)
        for (operation, reason), count in found.most_common()
    )


def _reason(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str:
    """Why a node is not in the integer graph; empty if it is."""
    kind, attributes = node.op_type, _attributes(node)
    if kind in _RECURRENT:
        return "a fused cell; the integer graph takes one written out as a step"
    if kind not in _WEIGHTED | _PLAIN | _SILENT:
        return "not in the integer graph"
    constant = [name in constants for name in node.input if name]
    if kind == "Conv":
        return _conv_reason(attributes, constants, node)
    if kind == "MatMul" and (constant != [False, True] or len(constants[node.input[1]].dims) != 2):
        return "not an activation times a constant matrix"
    if kind in ("Add", "Sub", "Mul") and any(constant):
        return "a constant operand"
    if kind == "Slice" and not all(constant[1:]):
        return "bounds that are computed"
    if kind in _RESHAPING and constant != [False, True]:
        return "a shape that is computed"
    return ""


def _conv_reason(attributes: dict[str, Any], constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto) -> str:
    if node.input[0] in constants or any(name not in constants for name in node.input[1:] if name):
        return "weights that are computed"
    rank = len(constants[node.input[1]].dims) - 2
    if rank not in (1, 2):
        return "not over time, or time and frequency"
    pads = attributes.get("pads", [0, 0] * rank)
    if pads[0] or pads[rank] or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return "padding in time"
    if pads[rank - 1] != pads[-1]:
        return "padding of one side"
    return ""


class OnnxNetwork(nn.Module):
    """A :class:`StreamingNetwork` that computes what a step model computes.

    Layers are called as the nodes of the file. Longer streams are run step by step: the file knows steps only.

    Raises:
        ExportError: An operation has a form that torch does not rebuild; ask :func:`kept_operations` first.
    """

    def __init__(self, step: StepModel) -> None:
        super().__init__()
        self.step_frames, self.n_features = step.step_frames, step.n_features
        self.outputs_per_step, self.n_labels = step.outputs_per_step, step.n_labels
        self.state_names = step.state_names
        self._state_shapes = step.state_shapes
        self._inputs = [value.name for value in step.model.graph.input]
        self._outputs = [value.name for value in step.model.graph.output]
        self._constants = {
            name: numpy_helper.to_array(tensor) for name, tensor in constants_of(step.model.graph).items()
        }
        self._calls: list[tuple[str, Callable[..., Tensor], list[str]]] = []
        self._biases = _biases(step.model.graph, self._constants)
        for node in step.model.graph.node:
            self._add(node)
        self.eval().requires_grad_(False)

    def initial_state(self, batch: int = 1) -> States:
        """Zeros."""
        return tuple(torch.zeros(batch, *shape[1:]) for shape in self._state_shapes)

    def forward(self, features: Tensor, state: States) -> tuple[Tensor, States]:
        """Features ``[N, T, n_features]`` to logits and states, step by step."""
        if features.shape[1] == self.step_frames:
            return self._step(features, state)
        parts = []
        for part in torch.split(features, self.step_frames, dim=1):
            logits, state = self._step(part, state)
            parts.append(logits)
        return torch.cat(parts, dim=1), state

    def _step(self, features: Tensor, state: States) -> tuple[Tensor, States]:
        edges = dict(zip(self._inputs, (features, *state), strict=True))
        for output, call, inputs in self._calls:
            edges[output] = call(*(edges[name] for name in inputs))
        logits, *after = (edges[name] for name in self._outputs)
        return logits, tuple(after)

    def _add(self, node: onnx.NodeProto) -> None:
        kind, output, inputs = node.op_type, node.output[0], [name for name in node.input if name]
        if kind == "Constant" or output in self._biases.values():
            return
        if kind in _WEIGHTED:
            layer = _LAYERS[kind](self, node)
            self.add_module(re.sub(r"\W", "_", node.name).strip("_"), layer)
            biased = output in self._biases
            self._calls.append((self._biases.get(output, output) if biased else output, layer, inputs[:1]))
            return
        constants = {i: self._constants[name] for i, name in enumerate(inputs) if name in self._constants}
        data = [name for name in inputs if name not in self._constants]
        if constants and kind not in {"Slice", "Dropout", *_RESHAPING}:
            raise ExportError(f"{kind} {node.name!r} has a constant operand; fold it into the layer before it")
        self._calls.append((output, _plain_call(kind, _attributes(node), constants), data))

    def conv(self, node: onnx.NodeProto) -> nn.Module:
        """A ``Conv`` over time, or over time and frequency."""
        attributes, (weight, bias) = _attributes(node), self._weight_and_bias(node)
        rank = weight.ndim - 2
        layer = (nn.Conv1d if rank == 1 else nn.Conv2d)(
            weight.shape[1] * attributes.get("group", 1),
            weight.shape[0],
            weight.shape[2:],
            stride=tuple(attributes.get("strides", [1] * rank)),
            padding=tuple(attributes.get("pads", [0] * rank)[:rank]),
            dilation=tuple(attributes.get("dilations", [1] * rank)),
            groups=attributes.get("group", 1),
            bias=bias is not None,
        )
        _fill(layer, weight=weight, bias=bias)
        return layer

    def linear(self, node: onnx.NodeProto) -> nn.Module:
        """A ``MatMul`` by a constant, with the ``Add`` of a constant behind it."""
        weight = self._constants[node.input[1]].T
        bias = self._bias_behind(node)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        _fill(layer, weight=weight, bias=bias)
        return layer

    def batch_norm(self, node: onnx.NodeProto) -> nn.Module:
        """A ``BatchNormalization``."""
        gamma, beta, mean, variance = (self._constants[name] for name in node.input[1:5])
        layer = _BatchNorm(len(gamma), eps=float(_attributes(node).get("epsilon", 1e-5)))
        _fill(layer, weight=gamma, bias=beta, running_mean=mean, running_var=variance)
        return layer

    def _weight_and_bias(self, node: onnx.NodeProto) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        bias = self._constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        return self._constants[node.input[1]], bias

    def _bias_behind(self, node: onnx.NodeProto) -> npt.NDArray[Any] | None:
        return self._constants.get(f"bias of {node.output[0]}")


class _BatchNorm(nn.BatchNorm1d):
    """Over channels of a tensor of any rank, as in ONNX."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank will do."""


_LAYERS: Mapping[str, Callable[[OnnxNetwork, onnx.NodeProto], nn.Module]] = {
    "Conv": OnnxNetwork.conv,
    "MatMul": OnnxNetwork.linear,
    "BatchNormalization": OnnxNetwork.batch_norm,
}


def _biases(graph: onnx.GraphProto, constants: dict[str, npt.NDArray[Any]]) -> dict[str, str]:
    """Outputs of a MatMul that an Add of a constant alone reads, to the output of that Add; the constant is kept."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in graph.node:
        users = readers.get(node.output[0], [])
        if node.op_type != "MatMul" or len(users) != 1 or users[0].op_type != "Add":
            continue
        for name in users[0].input:
            if name in constants and constants[name].ndim == 1:
                found[node.output[0]] = users[0].output[0]
                constants[f"bias of {node.output[0]}"] = constants[name]
    return found


def _plain_call(kind: str, attributes: dict[str, Any], constants: dict[int, npt.NDArray[Any]]) -> Callable[..., Tensor]:
    match kind:
        case "Transpose":
            return lambda x: x.permute(*attributes["perm"])
        case "Concat":
            return lambda *parts: torch.cat(parts, dim=attributes["axis"])
        case "Softmax":
            return lambda x: torch.softmax(x, dim=attributes.get("axis", -1))
        case "Slice":
            return _slice(constants)
        case "Reshape" | "Squeeze" | "Unsqueeze":
            return _reshape(kind, [int(i) for i in constants[1]])
    return _SIMPLE[kind]


_SIMPLE: Mapping[str, Callable[..., Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
}


def _slice(constants: dict[int, npt.NDArray[Any]]) -> Callable[[Tensor], Tensor]:
    starts, ends = constants[1].tolist(), constants[2].tolist()
    axes = constants[3].tolist() if 3 in constants else list(range(len(starts)))
    steps = constants[4].tolist() if 4 in constants else [1] * len(starts)

    def call(x: Tensor) -> Tensor:
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
        return x

    return call


def _reshape(kind: str, numbers: list[int]) -> Callable[[Tensor], Tensor]:
    """A change of shape; ``numbers`` are axes, or sizes of which 0 keeps what it was. The batch is left free."""
    if kind == "Squeeze":
        return lambda x: functools.reduce(torch.squeeze, sorted((i % x.dim() for i in numbers), reverse=True), x)
    if kind == "Unsqueeze":
        return lambda x: functools.reduce(torch.unsqueeze, sorted(i % (x.dim() + len(numbers)) for i in numbers), x)

    def call(x: Tensor) -> Tensor:
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(numbers)]
        return x.reshape(x.shape[0], *sizes[1:]) if sizes[0] in (1, -1) else x.reshape(*sizes)

    return call


def _fill(layer: nn.Module, **values: npt.NDArray[Any] | None) -> None:
    for name, value in values.items():
        if value is not None:
            getattr(layer, name).data = torch.from_numpy(np.array(value, dtype=np.float32))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def check_rebuilt(network: OnnxNetwork, step: StepModel, stream: Features) -> None:
    """The module computes what ONNX Runtime computes, on the first steps of a stream.

    Raises:
        ExportError: It does not.
    """
    features = np.concatenate(split_steps(stream, step.step_frames)[:CHECKED_STEPS])
    theirs, ours = OnnxRunner(step.model, step).run_stream(features), run_stream(network, network, features)
    error, largest = float(np.abs(theirs - ours).max()), max(float(np.abs(theirs).max()), 1.0)
    if error > REBUILT_TOLERANCE * largest:
        raise ExportError(
            f"the model rebuilt in torch differs from ONNX Runtime by {error:.3g} at logits of {largest:.3g}; "
            "this is a fault of the export: please report the model"
        )
