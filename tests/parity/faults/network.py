"""Damage to an integer graph, as a faulty exporter would do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.quantization import QuantParams, dequantize

Damage = Callable[[IntegerGraph], IntegerGraph]


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantization of a tensor that has one."""
    assert tensor.quant is not None
    return tensor.quant


def conv(graph: IntegerGraph, kind: str, index: int) -> Op:
    """The n-th convolution that is "pointwise" (square), "depthwise" (with a longer kernel) or "any"."""
    found = []
    for op in graph.ops:
        if op.kind == "conv":
            n_out, n_t, _, n_in = graph.tensors[op.inputs[1]].shape
            kinds = {"pointwise": n_out == n_in and n_t == 1, "depthwise": n_in == 1 and 2 < n_t < 20, "any": True}
            found += [op] if kinds[kind] else []
    return found[index]


def with_constant(graph: IntegerGraph, name: str, data: Any) -> IntegerGraph:
    """Another value of a constant."""
    return replace(graph, constants={**graph.constants, name: np.ascontiguousarray(data)})


def with_scale(graph: IntegerGraph, name: str, scale: tuple[float, ...]) -> IntegerGraph:
    """Another scale of a tensor."""
    tensor = graph.tensors[name]
    changed = replace(tensor, quant=replace(quant_of(tensor), scale=scale))
    return replace(graph, tensors={**graph.tensors, name: changed})


def transposed(index: int) -> Damage:
    """Inputs and outputs of a square pointwise convolution exchanged."""

    def damage(graph: IntegerGraph) -> IntegerGraph:
        name = conv(graph, "pointwise", index).inputs[1]
        return with_constant(graph, name, graph.constants[name].transpose(3, 1, 2, 0))

    return damage


def all_transposed(graph: IntegerGraph) -> IntegerGraph:
    """The same of every one of them."""
    for index in range(sum(op.kind == "conv" for op in graph.ops)):
        try:
            graph = transposed(index)(graph)
        except IndexError:
            return graph
    return graph


def one_scale(graph: IntegerGraph) -> IntegerGraph:
    """A depthwise layer quantized by one scale for all channels, its bias in the steps of the sums."""
    op = conv(graph, "depthwise", 0)
    name, bias = op.inputs[1:]
    quant = quant_of(graph.tensors[name])
    step = max(quant.scale)
    codes = np.rint(dequantize(graph.constants[name], quant) / step).astype(np.int8)
    graph = with_scale(with_constant(graph, name, codes), name, (step,) * len(quant.scale))
    old, new = quant_of(graph.tensors[bias]), quant_of(graph.tensors[op.inputs[0]]).scale[0] * step
    sums = np.rint(dequantize(graph.constants[bias], old) / new).astype(np.int32)
    return with_scale(with_constant(graph, bias, sums), bias, (new,) * len(old.scale))


def doubled_scale(kind: str, index: int) -> Damage:
    """Weights of a layer that stand for twice what they should."""

    def damage(graph: IntegerGraph) -> IntegerGraph:
        name = conv(graph, kind, index).inputs[1]
        return with_scale(graph, name, tuple(2 * value for value in quant_of(graph.tensors[name]).scale))

    return damage


def negated_channel(graph: IntegerGraph) -> IntegerGraph:
    """Weights of one output channel with the other sign."""
    name = conv(graph, "pointwise", 1).inputs[1]
    data = graph.constants[name].copy()
    data[3] = -data[3]
    return with_constant(graph, name, data)


def dead_channel(graph: IntegerGraph) -> IntegerGraph:
    """Weights of one output channel lost."""
    name = conv(graph, "depthwise", 2).inputs[1]
    data = graph.constants[name].copy()
    data[5] = 0
    return with_constant(graph, name, data)


def coarse_bias(graph: IntegerGraph) -> IntegerGraph:
    """A float bias that went through 8 bits before it became int32."""
    name = conv(graph, "pointwise", 0).inputs[2]
    data = graph.constants[name]
    step = np.abs(data).max() / 127
    return with_constant(graph, name, np.rint(np.rint(data / step) * step).astype(np.int32))


def one_bias_code(graph: IntegerGraph) -> IntegerGraph:
    """One bias a little too large."""
    name = conv(graph, "any", -3).inputs[2]
    data = graph.constants[name].copy()
    data[0] += np.abs(data).max() // 4
    return with_constant(graph, name, data)


def lost_relu(graph: IntegerGraph) -> IntegerGraph:
    """A layer that lost its relu: values below 0 got a range of codes, and nothing stops them."""
    op = conv(graph, "depthwise", 1)
    name = op.outputs[0]
    centred = replace(quant_of(graph.tensors[name]), zero_point=0)
    tensors = {**graph.tensors, name: replace(graph.tensors[name], quant=centred)}
    ops = tuple(replace(each, attrs={**each.attrs, "relu": False}) if each is op else each for each in graph.ops)
    return replace(graph, tensors=tensors, ops=ops)


def wide_range(graph: IntegerGraph) -> IntegerGraph:
    """Activations of one layer with 64 times the scale they need: a few codes are left to them."""
    name = conv(graph, "depthwise", 1).outputs[0]
    graph = with_scale(graph, name, (64 * quant_of(graph.tensors[name]).scale[0],))
    for op in graph.ops:
        if op.kind == "conv" and op.inputs[0] == name:
            quant = quant_of(graph.tensors[op.inputs[2]])
            sums = np.rint(graph.constants[op.inputs[2]] / 64).astype(np.int32)
            graph = with_constant(graph, op.inputs[2], sums)
            graph = with_scale(graph, op.inputs[2], tuple(64 * value for value in quant.scale))
    return graph


def late_state(index: int) -> Damage:
    """A state that keeps the frames before those it should."""

    def damage(graph: IntegerGraph) -> IntegerGraph:
        written = graph.states[index].output
        ops = tuple(
            replace(op, attrs={**op.attrs, "start": op.attrs["start"] - 1, "stop": -1})
            if op.outputs[0] == written
            else op
            for op in graph.ops
        )
        return replace(graph, ops=ops)

    return damage


def other_rule(graph: IntegerGraph) -> IntegerGraph:
    """Another requantization rule than the one that was measured."""
    return replace(graph, requantization="tflm")


def doubled_output(graph: IntegerGraph) -> IntegerGraph:
    """Logits in steps twice as large."""
    return with_scale(graph, graph.output, tuple(2 * value for value in quant_of(graph.output_tensor).scale))
