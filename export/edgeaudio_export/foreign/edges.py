"""Activations of a step model: which of them hold codes, which share parameters, and the ranges they run through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

from edgeaudio_export.activation_groups import ActivationGroup
from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.calibration.calibrate import Calibration, Collector
from edgeaudio_export.checks import check_stream
from edgeaudio_export.foreign.step_model import StepModel, constants_of
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.step_graph import Features, Progress
from edgeaudio_export.ties import Ties

MOVING = frozenset({"Concat", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "MaxPool"})
"""Operations that write the codes they read."""
COMPUTING = frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul", "Sigmoid", "AveragePool", "GlobalAveragePool"})
"""Operations for which ONNX Runtime has integer kernels on processors."""


def quantizable_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that shall compute on codes: what ONNX Runtime has integer kernels for, and what only moves values to it.

    Values that float operations hand to each other stay float.
    """
    known = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    nodes = [n for n in model.graph.node if known.get(n.output[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT]
    on_codes = {n.output[0] for n in nodes if n.op_type in COMPUTING}
    on_codes |= {n.output[0] for n in nodes if n.op_type == "Relu" and n.input[0] in on_codes}
    wanted = {name for n in nodes if n.output[0] in on_codes for name in n.input}
    for node in reversed(nodes):
        if node.op_type in MOVING and node.output[0] in wanted:
            on_codes.add(node.output[0])
            wanted.update(node.input)
    constants = set(constants_of(model.graph))
    for node in nodes:
        # ONNX Runtime 1.31 would carry the codes on by itself, in a way that its own next pass then refuses (opset 21).
        data = {name for name in node.input if name not in constants}
        if node.op_type in MOVING and data and data <= on_codes:
            on_codes.add(node.output[0])
    return [node for node in nodes if node.output[0] in on_codes]


def edge_groups(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> tuple[ActivationGroup, ...]:
    """Groups of edges that share parameters: features, logits, and whatever ``nodes`` read and write.

    A state's output belongs to its input. The result of an operation that a Relu alone reads counts as the Relu's.
    """
    constants, ties = set(constants_of(model.graph)), Ties[str]()
    readers = Counter(name for node in model.graph.node for name in node.input)
    moved: set[str] = set()
    ties.add("features")
    for node in nodes:
        read = [name for name in node.input if name and name not in constants]
        for name in (*read, node.output[0]):
            ties.add(name)
        if node.op_type in MOVING:
            moved.add(node.output[0])
        elif node.op_type == "Relu" and readers[read[0]] == 1:
            moved.add(read[0])
        else:
            continue
        for name in read:
            ties.tie(name, node.output[0])
    ties.add("logits")
    groups = ties.groups()
    state_ties = zip(list(model.graph.input)[1:], list(model.graph.output)[1:], strict=True)
    edges = {edge for group in groups.values() for edge in group}
    for before, after in state_ties:
        if before.name in edges and after.name in edges:
            ties.tie(before.name, after.name)
    return tuple(_group(leader, members, moved) for leader, members in ties.groups().items())


def _group(leader: str, members: tuple[str, ...], moved: set[str]) -> ActivationGroup:
    computed = tuple(edge for edge in members if edge not in moved)
    # A group that only moves what float operations computed is known by its first member.
    return ActivationGroup(name=leader, members=members, computed=computed or members[:1], fixed=None)


def calibrate_edges(
    step: StepModel,
    model: onnx.ModelProto,
    groups: Sequence[ActivationGroup],
    streams: Sequence[Features],
    spec: CalibrationSpec,
    progress: Progress | None = None,
) -> Calibration:
    """Roll every stream out from reset in ONNX Runtime and observe the edges of ``groups``.

    Args:
        step: Shapes at the boundary.
        model: What is run; its inputs and outputs are those of ``step.model``.
        groups: What is observed.
        streams: Features, each float32 ``[T, n_features]`` with T a multiple of the step; read once, in order.
        spec: Method and size of the histograms; streams are run one by one.
        progress: Called with (done, total) streams.

    Raises:
        ExportError: A stream of another shape, NaN in a stream or an activation.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {value.name for value in (*model.graph.output, *model.graph.input)}
    inner = [edge for group in groups for edge in group.computed if edge not in present]
    watched.graph.output.extend(onnx.ValueInfoProto(name=edge) for edge in inner)
    runner, collector = OnnxRunner(watched, step, whole=step.whole), Collector(groups, spec)
    for done, stream in enumerate(streams):
        check_stream(step, stream, done)
        for values in runner.steps(stream):
            collector.count_frames(values["features"].shape[1])
            for edge, value in values.items():
                # A batch of one: the row of the stream, whatever the axes of the edge mean.
                collector.see(edge, np.asarray(value)[None])
        collector.end_streams([0])
        if progress is not None:
            progress(done + 1, len(streams))
    return collector.calibration()
