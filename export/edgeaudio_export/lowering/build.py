"""Pass 5: write the integer graph: weights and biases in its layout, one operation for each node, states by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_export.lowering.layout import GRAPH_AXES, graph_shape, layouts
from edgeaudio_export.lowering.qdq_graph import Constant, Node, QdqGraph
from edgeaudio_runtime.graph import IntegerGraph, Op, StateSpec, Tensor
from edgeaudio_runtime.quantization import QuantParams, dequantize

BIAS_LIMIT = 2**31 - 1
SCALE_TOLERANCE = 1e-6
"""Relative difference up to which an int32 bias scale counts as input scale times weight scale: one float32 product."""


FloatWeights = Literal["float32", "float16"]
"""How weights of float operations are stored."""


def build(
    graph: QdqGraph, name: str, state_names: Sequence[str], float_weights: FloatWeights = "float32"
) -> IntegerGraph:
    """Fused QDQ graph to integer graph; refuses untied edges and operations it does not have."""
    builder = _Builder(graph, float_weights)
    for edge in graph.inputs:
        builder.declare(edge, edge)
    for node in graph.nodes:
        builder.lower(node)
    return builder.finish(name, state_names)


class _Builder:
    def __init__(self, graph: QdqGraph, float_weights: FloatWeights) -> None:
        self.graph = graph
        self.float_weights = float_weights
        self.axes = layouts(graph)
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.ops: list[Op] = []
        self._tensor_of: dict[str, str] = {}

    def declare(self, edge: str, who: str) -> str:
        """A tensor for an activation edge."""
        quant = self.graph.quants.get(edge)
        if edge not in self.graph.shapes or 0 in self.graph.shapes[edge]:
            raise ExportError(f"tensor {edge!r} of {who} has no fixed shape; export one step with a batch of 1")
        shape = self._graph_shape(edge)
        self.tensors[edge] = Tensor(name=edge, shape=shape, dtype=quant.dtype if quant else "float32", quant=quant)
        self._tensor_of[edge] = edge
        return edge

    def _graph_shape(self, edge: str) -> tuple[int, int, int, int]:
        return graph_shape(self.graph.shapes[edge], self.axes[edge])

    def lower(self, node: Node) -> None:
        """One node to at most one operation."""
        if node.op not in _LOWER:
            raise ExportError(
                f"operation {node.op} {node.name!r} is not in the integer graph; lowering knows {sorted(_LOWER)}"
            )
        _LOWER[node.op](self, node)

    def conv(self, node: Node) -> None:
        """``[O, C/g, K]`` weights become ``[O, K, 1, C/g]``, ``[O, C/g, KT, KF]`` become ``[O, KT, KF, C/g]``."""
        rank = len(self.axes[node.output]) - 2
        pads = [int(pad) for pad in node.attrs.get("pads", [0, 0] * rank)]
        if pads[0] or pads[rank]:
            raise ExportError(
                f"convolution {node.name!r} has pads={pads} in time, which does not stream; "
                "use padding=0 and a FIFO state"
            )
        stride, dilation = node.attrs.get("strides", [1] * rank), node.attrs.get("dilations", [1] * rank)
        self._weighted(
            node,
            "conv",
            (0, 2, 3, 1) if rank == 2 else (0, 2, 1),
            node.inputs[2] if len(node.inputs) > 2 else "",
            {
                "stride": (stride[0], stride[1] if rank == 2 else 1),
                "dilation": (dilation[0], dilation[1] if rank == 2 else 1),
                "groups": node.attrs.get("group", 1),
                "pad_f": (pads[1], pads[3]) if rank == 2 else (0, 0),
            },
        )

    def fully_connected(self, node: Node) -> None:
        """``[C, O]`` weights become ``[O, C]``."""
        self._weighted(node, "fully_connected", (1, 0), node.bias or "", {})

    def elementwise(self, node: Node) -> None:
        """Two activations, of which one may have a size of 1; add and sub only with one scale and zero point."""
        for edge in node.inputs:
            if edge in self.graph.constants:
                raise ExportError(
                    f"operation {node.op} {node.name!r} has a constant operand; "
                    "fold it into the weights of a neighbouring convolution"
                )
        if node.op != "Mul":
            self._check_tied(node)
        self._append(node.op.lower(), node, node.inputs, {"relu": node.relu})

    def concat(self, node: Node) -> None:
        """Along time, frequency or channels."""
        self._check_tied(node)
        axis = self._graph_axis(node, node.attrs["axis"])
        self._append("concat", node, node.inputs, {"axis": axis})

    def slice(self, node: Node) -> None:
        """Along time counted from the end, along frequency and channels as it is."""
        self._check_tied(node)
        starts, stops, axes = (self.graph.indices(name) for name in node.inputs[1:4])
        steps = self.graph.indices(node.inputs[4]) if len(node.inputs) > 4 else [1]
        if len(axes) != 1 or steps != [1]:
            raise ExportError(
                f"slice {node.name!r} runs over axes {axes} with steps {steps}; slice one axis with step 1"
            )
        axis = self._graph_axis(node, axes[0])
        size = self.graph.shapes[node.inputs[0]][axes[0]]
        start, stop = starts[0], min(stops[0], size)
        if axis != GRAPH_AXES["T"]:
            start, stop = start % size if start < 0 else start, stop % size if stop < 0 else stop
        else:
            start, stop = _from_the_end(node, start, stop, size)
        self._append("slice", node, node.inputs[:1], {"axis": axis, "start": start, "stop": stop})

    def transpose(self, node: Node) -> None:
        """No operation: the integer graph has one layout."""
        self._check_tied(node)
        self._tensor_of[node.output] = self._tensor_of[node.inputs[0]]

    def reshape(self, node: Node) -> None:
        """No operation, as every tensor has all axes; only bins that become channels are moved."""
        self._check_tied(node)
        before, after = self.axes[node.inputs[0]], self.axes[node.output]
        if "F" in before and "F" not in after and self._graph_shape(node.inputs[0])[GRAPH_AXES["F"]] > 1:
            self._append("merge_frequency", node, node.inputs[:1], {})
        else:
            self._tensor_of[node.output] = self._tensor_of[node.inputs[0]]

    def relu(self, node: Node) -> None:
        """A relu that no operation took in."""
        self._check_tied(node)
        self._append("relu", node, node.inputs, {})

    def activation(self, node: Node) -> None:
        """Sigmoid, tanh, softmax over the labels."""
        if node.op == "Softmax" and self.axes[node.output][node.attrs.get("axis", -1)] != "C":
            raise ExportError(
                f"softmax {node.name!r} does not run over the labels; use the last axis of [N, T, labels]"
            )
        self._append(node.op.lower(), node, node.inputs, {})

    def conversion(self, node: Node) -> None:
        """Between codes and float32, or codes of two kinds."""
        self._append(node.op.lower(), node, node.inputs, {})

    def finish(self, name: str, state_names: Sequence[str]) -> IntegerGraph:
        """Name inputs and outputs and validate."""
        n_inputs = len(self.graph.inputs)
        for edge, role in ((self.graph.inputs[0], "features"), (self.graph.outputs[0], "logits")):
            self.graph.quant(edge, role)
        edges = [self._tensor_of[edge] for edge in (*self.graph.inputs, *self.graph.outputs)]
        if n_inputs != len(self.graph.outputs) or n_inputs != len(state_names) + 1:
            raise ExportError(
                f"model has {n_inputs - 1} states going in, {len(self.graph.outputs) - 1} coming out and "
                f"{len(state_names)} names; each state needs all three"
            )
        names = dict(
            zip(
                edges,
                ("features", *(f"{s}.in" for s in state_names), "logits", *(f"{s}.out" for s in state_names)),
                strict=True,
            )
        )
        if len(names) != len(edges):
            raise ExportError("two states of the model are the same tensor; keep one of them")
        states = []
        for index, state in enumerate(state_names, start=1):
            before, after = edges[index], edges[n_inputs + index]
            self._check_state(state, self.tensors[before], self.tensors[after])
            states.append(
                StateSpec(name=state, input=names[before], output=names[after], initial=self.tensors[before].zero_code)
            )
        return IntegerGraph(
            name=name,
            tensors={names.get(k, k): _renamed(t, names.get(k, k)) for k, t in self.tensors.items()},
            constants=self.constants,
            ops=tuple(_renamed_op(op, names) for op in self.ops),
            input="features",
            output="logits",
            states=tuple(states),
        )

    def _check_state(self, state: str, before: Tensor, after: Tensor) -> None:
        if before.quant != after.quant or before.shape != after.shape:
            raise ExportError(
                f"state {state!r} goes in as {list(before.shape)} with {before.quant} and comes out as "
                f"{list(after.shape)} with {after.quant}; "
                "tie the parameters of a state to those of the activation that fills it"
            )

    def _check_tied(self, node: Node) -> None:
        edges = [name for name in (*node.inputs, node.output) if name in self.graph.quants]
        params = {edge: self.graph.quants[edge] for edge in edges}
        if len(set(params.values())) > 1:
            listed = ", ".join(
                f"{edge}: scale {p.scale[0]:.6g} zero point {p.zero_point}" for edge, p in params.items()
            )
            raise ExportError(
                f"operation {node.op} {node.name!r} has untied tensors ({listed}); give them one scale and zero point"
            )

    def _graph_axis(self, node: Node, axis: int) -> int:
        name = self.axes[node.output][axis]
        if name not in GRAPH_AXES:
            raise ExportError(
                f"operation {node.op} {node.name!r} runs along the batch; use time, frequency or channels"
            )
        return GRAPH_AXES[name]

    def _weighted(self, node: Node, kind: str, weight_axes: tuple[int, ...], bias: str, attrs: dict[str, Any]) -> None:
        """An operation with weights ``[O, ...]`` once their axes are in the order ``weight_axes``."""
        weight = self._weight(node, weight_axes)
        if kind == "conv" and weight.data.ndim == 3:
            weight = Constant(data=weight.data[:, :, None, :], quant=weight.quant)
        if node.output in self.graph.quants:
            names = self._integer_constants(node, weight, bias)
        else:
            names = self._float_constants(node, weight, bias)
        self._append(kind, node, (node.inputs[0],), {**attrs, "relu": node.relu}, names)

    def _weight(self, node: Node, axes: tuple[int, ...]) -> Constant:
        weight = self.graph.constants.get(node.inputs[1])
        is_integer = node.output in self.graph.quants
        if weight is None or (weight.quant is None and is_integer):
            raise ExportError(_NO_WEIGHT.format(op=node.op, name=node.name))
        if weight.quant is not None:
            if weight.quant.dtype != "int8" or weight.quant.zero_point != 0:
                raise ExportError(_NO_WEIGHT.format(op=node.op, name=node.name))
            if weight.data.min() < -127:
                raise ExportError(
                    f"operation {node.op} {node.name!r} has the weight code -128; quantize weights to [-127, 127]"
                )
        if weight.data.ndim != len(axes):
            raise ExportError(
                f"operation {node.op} {node.name!r} has weights of shape {list(weight.data.shape)}; "
                f"the integer graph takes {len(axes)} axes here"
            )
        return weight.transposed(axes)

    def _integer_constants(self, node: Node, weight: Constant, bias: str) -> tuple[str, str]:
        """int8 weights, int32 biases in units of input scale times weight scale."""
        names = (f"{node.output}.weight", f"{node.output}.bias")
        scale = self._weight_scales(node, weight)
        self._constant(names[0], weight.data, QuantParams(scale=scale, axis=0, qmin=-127))
        input_scale = self.graph.quant(node.inputs[0], node.name).scale[0]
        bias_scale = np.float32(input_scale) * np.asarray(scale, dtype=np.float32)
        codes = (
            np.zeros(len(scale), dtype=np.int32)
            if not bias
            else bias_codes(self.graph.constants[bias], bias_scale, node.name)
        )
        self._constant(names[1], codes, QuantParams(scale=tuple(bias_scale.tolist()), axis=0, dtype="int32"))
        return names

    def _float_constants(self, node: Node, weight: Constant, bias: str) -> tuple[str, str]:
        """Weights float32, or stored as int8 or float16 with a dequantize before the operation; float32 biases."""
        names = (f"{node.output}.weight", f"{node.output}.bias")
        values = np.zeros(weight.data.shape[0]) if not bias else real_values(self.graph.constants[bias])
        self._constant(names[1], values, None)
        if weight.quant is not None:
            params = QuantParams(scale=self._weight_scales(node, weight), axis=0, qmin=-127)
            self._constant(names[0], weight.data, params)
        else:
            self._constant(names[0], weight.data, None, self.float_weights)
        if self.tensors[names[0]].dtype == "float32":
            return names
        real = f"{names[0]}.real"
        self.tensors[real] = Tensor(name=real, shape=self.tensors[names[0]].shape, dtype="float32")
        self.ops.append(Op(kind="dequantize", inputs=(names[0],), outputs=(real,), name=node.name))
        return real, names[1]

    def _weight_scales(self, node: Node, weight: Constant) -> tuple[float, ...]:
        """One for each output channel."""
        assert weight.quant is not None
        channels = weight.data.shape[0]
        scale = weight.quant.scale if weight.quant.axis == 0 else weight.quant.scale * channels
        if len(scale) != channels:
            raise ExportError(
                f"operation {node.op} {node.name!r} has weight scales along axis {weight.quant.axis}; "
                "use the output channels"
            )
        return scale

    def _constant(self, name: str, data: npt.NDArray[Any], quant: QuantParams | None, dtype: str = "float32") -> None:
        dtype = dtype if quant is None else quant.dtype
        self.tensors[name] = Tensor(name=name, shape=tuple(data.shape), dtype=dtype, quant=quant)
        self.constants[name] = np.ascontiguousarray(data.astype(dtype))

    def _append(
        self, kind: str, node: Node, edges: Sequence[str], attrs: dict[str, Any], constants: tuple[str, ...] = ()
    ) -> None:
        inputs = (*(self._tensor_of[edge] for edge in edges), *constants)
        self.ops.append(
            Op(kind=kind, inputs=inputs, outputs=(self.declare(node.output, node.name),), attrs=attrs, name=node.name)
        )


_LOWER: dict[str, Callable[[_Builder, Node], None]] = {
    "Conv": _Builder.conv,
    "MatMul": _Builder.fully_connected,
    "Add": _Builder.elementwise,
    "Sub": _Builder.elementwise,
    "Mul": _Builder.elementwise,
    "Concat": _Builder.concat,
    "Slice": _Builder.slice,
    "Transpose": _Builder.transpose,
    "Reshape": _Builder.reshape,
    "Squeeze": _Builder.reshape,
    "Unsqueeze": _Builder.reshape,
    "Relu": _Builder.relu,
    "Sigmoid": _Builder.activation,
    "Tanh": _Builder.activation,
    "Softmax": _Builder.activation,
    "Quantize": _Builder.conversion,
    "Dequantize": _Builder.conversion,
    "Requantize": _Builder.conversion,
}

_NO_WEIGHT = "operation {op} {name!r} needs constant int8 weights with zero point 0; quantize them symmetrically"


def real_values(constant: Constant) -> npt.NDArray[Any]:
    """What a constant stands for, codes or not."""
    return constant.data if constant.quant is None else dequantize(constant.data, constant.quant)


def bias_codes(bias: Constant, scale: npt.NDArray[np.float32], who: str) -> npt.NDArray[np.int32]:
    """Bias as int32 codes of ``scale`` (input scale times weight scale): ``rint(bias / scale)``, half to even.

    Args:
        bias: Float values, or int32 codes that already have this scale.
        scale: float32 ``[O]``.
        who: Name of the operation, for the message.

    Returns:
        int32 ``[O]``.

    Raises:
        ExportError: A code does not fit int32.
    """
    values = bias.data.astype(np.float64)
    if bias.quant is not None:
        own = np.asarray(bias.quant.scale, dtype=np.float64)
        if np.allclose(own, scale, rtol=SCALE_TOLERANCE, atol=0.0):
            return bias.data.astype(np.int32)
        values = (values - bias.quant.zero_point) * own
    codes = np.rint(values / scale.astype(np.float64))
    if np.abs(codes).max() > BIAS_LIMIT:
        raise ExportError(
            f"bias of {who!r} needs code {np.abs(codes).max():.0f}, must fit int32; "
            "the weights of that layer are too small for its bias"
        )
    return codes.astype(np.int32)


def _from_the_end(node: Node, start: int, stop: int, size: int) -> tuple[int, int]:
    if start >= 0:
        raise ExportError(
            f"slice {node.name!r} starts at frame {start} counted from the front, which depends on the step; "
            "count from the end, x[:, :, -K:]"
        )
    return max(start, -size), (stop - size if stop >= 0 else stop)


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name=name, shape=tensor.shape, dtype=tensor.dtype, quant=tensor.quant)


def _renamed_op(op: Op, names: dict[str, str]) -> Op:
    inputs, outputs = (tuple(names.get(edge, edge) for edge in edges) for edges in (op.inputs, op.outputs))
    return Op(kind=op.kind, inputs=inputs, outputs=outputs, attrs=dict(op.attrs), name=op.name)
