"""Int8 graphs in other precisions: int16 activations, float islands, constants stored narrow, mixed as one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.quantization import QuantParams, dequantize

WIDTHS = ("int8", "int16", "float32")
"""From narrow to wide."""


def reexpressed(
    graph: IntegerGraph, width: Callable[[str], str], *, weights: str = "float32", name: str = "reexpressed"
) -> IntegerGraph:
    """The same network with other activations.

    Args:
        graph: Int8 throughout.
        width: Name of a tensor to one of WIDTHS; tied tensors must get the same one, input and output an integer one.
        weights: How float operations store their weights: "float32", "float16" or "int8".
        name: Of the result.

    Every operation computes at the widest of its tensors; conversions stand at the borders.
    """
    rewriter = _Rewriter(graph=graph, width=width, weights=weights)
    for op in graph.ops:
        rewriter.rewrite(op)
    states = tuple(replace(s, initial=rewriter.tensor(s.input, width(s.input)).zero_code) for s in graph.states)
    for tensor in (graph.input, *(state.input for state in graph.states)):
        rewriter.declare(tensor, rewriter.tensor(tensor, width(tensor)))
    return replace(
        graph,
        name=name,
        tensors=rewriter.tensors,
        constants=rewriter.constants,
        ops=tuple(rewriter.ops),
        states=states,
    )


def method_graph(graph: IntegerGraph, method: str) -> IntegerGraph:
    """An int8 graph by the name of a method; "mixed" has int8 streams, int16 and float32 between them."""
    ends = {graph.input, graph.output}
    stored = {"float16": "float16", "weight_only_w8": "int8"}.get(method, "float32")
    if method == "static_w8a8":
        return graph
    if method == "static_w8a16":
        return reexpressed(graph, lambda name: "int16", name=method)
    if method == "mixed":
        return reexpressed(graph, _mixed_widths(graph).__getitem__, name=method)
    return reexpressed(graph, lambda name: "int16" if name in ends else "float32", weights=stored, name=method)


def _mixed_widths(graph: IntegerGraph) -> Mapping[str, str]:
    """Outputs of depthwise convolutions (which nothing ties) in turn int16, float32 and int8, the rest int8."""
    widths = dict.fromkeys(graph.tensors, "int8")
    free = [op.outputs[0] for op in graph.ops if op.kind == "conv" and op.attrs.get("groups", 1) > 1]
    for turn, name in enumerate(free):
        widths[name] = ("int16", "float32", "int8")[turn % 3]
    return widths


@dataclass
class _Rewriter:
    graph: IntegerGraph
    width: Callable[[str], str]
    weights: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def tensor(self, name: str, width: str) -> Tensor:
        """A tensor of the int8 graph at another width; int16 covers what int8 covers."""
        old = self.graph.tensors[name]
        assert old.quant is not None
        if width == "int8":
            return old
        if width == "float32":
            return replace(old, dtype="float32", quant=None)
        reach = max(old.quant.high - old.quant.zero_point, old.quant.zero_point - old.quant.low)
        return replace(
            old, dtype="int16", quant=QuantParams(scale=(old.quant.scale[0] * reach / 32767,), dtype="int16")
        )

    def declare(self, name: str, tensor: Tensor) -> str:
        """Add a tensor under a name."""
        self.tensors[name] = replace(tensor, name=name)
        return name

    def rewrite(self, op: Op) -> None:
        """One operation at the widest of its tensors, with its conversions."""
        read = [name for name in op.inputs if name not in self.graph.constants]
        output = op.outputs[0]
        widest = max((self.width(name) for name in (*read, output)), key=WIDTHS.index)
        inputs = tuple(self.converted(name, widest) for name in read) + self.weighted(op, widest)
        exact = widest == self.width(output)
        target = self.declare(output if exact else f"{output}@{widest}", self.tensor(output, widest))
        self.ops.append(replace(op, inputs=inputs, outputs=(target,)))
        if not exact:
            self.convert(target, widest, output, self.width(output))

    def converted(self, name: str, width: str) -> str:
        """A tensor at ``width``, converted once."""
        own = self.width(name)
        wanted = name if own == width else f"{name}@{width}"
        if wanted not in self.tensors and own != width:
            self.declare(wanted, self.tensor(name, width))
            self.convert(name, own, wanted, width)
        return wanted

    def convert(self, source: str, before: str, target: str, after: str) -> None:
        """Append a conversion; ``target`` is declared if it is a tensor of the graph."""
        if target in self.graph.tensors:
            self.declare(target, self.tensor(target, after))
        kind = "dequantize" if after == "float32" else "quantize" if before == "float32" else "requantize"
        self.ops.append(Op(kind=kind, inputs=(source,), outputs=(target,), name=target))

    def weighted(self, op: Op, width: str) -> tuple[str, ...]:
        """Weight and bias of a convolution for activations of ``width``."""
        if op.kind not in {"conv", "fully_connected"}:
            return ()
        weight, bias = (self.graph.tensors[name] for name in op.inputs[1:])
        assert weight.quant is not None
        assert bias.quant is not None
        real_bias = dequantize(self.graph.constants[bias.name], bias.quant)
        if width == "float32":
            return self.real_weight(weight), self.constant(bias.name, real_bias)
        x = self.tensor(op.inputs[0], width).quant
        assert x is not None
        scale = np.float32(x.scale[0]) * np.asarray(weight.quant.scale, np.float32)
        quant = replace(bias.quant, scale=tuple(scale.tolist()))
        codes = np.rint(real_bias.astype(np.float64) / scale).astype(np.int32)
        data = self.graph.constants[weight.name]
        return self.constant(weight.name, data, weight.quant), self.constant(bias.name, codes, quant)

    def real_weight(self, weight: Tensor) -> str:
        """A float weight, stored as asked for."""
        codes = self.graph.constants[weight.name]
        assert weight.quant is not None
        real = dequantize(codes, weight.quant)
        if self.weights == "float32":
            return self.constant(weight.name, real)
        narrow = codes if self.weights == "int8" else real.astype(np.float16)
        stored = self.constant(f"{weight.name}@stored", narrow, weight.quant if self.weights == "int8" else None)
        self.declare(weight.name, Tensor(name=weight.name, shape=real.shape, dtype="float32"))
        self.ops.append(Op(kind="dequantize", inputs=(stored,), outputs=(weight.name,), name=weight.name))
        return weight.name

    def constant(self, name: str, data: npt.NDArray[Any], quant: QuantParams | None = None) -> str:
        """Add a constant."""
        self.constants[name] = data
        return self.declare(name, Tensor(name=name, shape=data.shape, dtype=data.dtype.name, quant=quant))
