"""Path 2: ONNX Runtime's ``quantize_static`` on the float model, with the ranges, ties and weight scales of this
package.

ONNX Runtime only writes the model: its own calibration would keep every activation of every clip and cannot feed
states back.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeaudio_export.calibration import CalibrationFacts, CalibrationSpec, StreamingHistogram, weight_scales
from edgeaudio_export.onnx_rewrites import linear_to_conv
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quiet import quiet_root
from edgeaudio_export.step_graph import Features, Progress, StepGraph
from edgeaudio_export.ties import Ties
from edgeaudio_runtime.quantization import QuantParams

TIED = frozenset({"Add", "Sub", "Concat", "Slice", "Transpose", "Relu"})
FIXED = {
    "Sigmoid": QuantParams(scale=(1 / 256,), zero_point=-128),
    "Tanh": QuantParams(scale=(1 / 128,), zero_point=0),
    "Softmax": QuantParams(scale=(1 / 256,), zero_point=-128),
}
QUANTIZED = sorted({"Conv", "Mul"} | TIED | set(FIXED))


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeResult:
    """What path 2 yields."""

    qdq: onnx.ModelProto
    """The model that ONNX Runtime wrote."""
    facts: CalibrationFacts
    """How its ranges were found."""
    runner: OnnxRunner
    """The QDQ model, run as it is written."""

    def simulate(self, features: Features) -> Features:
        """Features ``[T, n_features]`` to dequantized logits ``[T_out, n_labels]``, one stream from reset."""
        return self.runner.run_stream(features)


def quantize_with_onnxruntime(
    step: StepGraph,
    float_onnx: onnx.ModelProto,
    streams: Sequence[Features],
    spec: CalibrationSpec,
    progress: Progress | None = None,
) -> OnnxRuntimeResult:
    """Collect ranges on streams rolled out from reset, then let ONNX Runtime write the QDQ model with them."""
    model = linear_to_conv(float_onnx)
    ties = EdgeTies(model)
    histograms = collect(model, ties, step, streams, spec, progress)
    ranges = {name: histogram.range(spec.method) for name, histogram in histograms.items()}
    params = {**{name: found.params() for name, found in ranges.items()}, **ties.fixed}
    overrides = {edge: [_override(params[ties.leader(edge)])] for edge in ties.edges}
    overrides.update(_weight_overrides(model))
    qdq = _quantize(model, overrides, step)
    facts = CalibrationFacts(
        method=spec.method,
        n_bins=spec.n_bins,
        clips=len(streams),
        frames=sum(map(len, streams)),
        ranges={histograms[leader].name: found for leader, found in ranges.items()},
    )
    return OnnxRuntimeResult(qdq=qdq, facts=facts, runner=OnnxRunner(qdq, step.network))


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
        self.unseen = _before_relu(graph)
        self.fixed = {self.leader(n.output[0]): FIXED[n.op_type] for n in nodes if n.op_type in FIXED}

    def _tie(self, node: onnx.NodeProto) -> None:
        if node.op_type in TIED:
            for name in node.input:
                if name not in self.constants:
                    self._ties.tie(name, node.output[0])

    def leader(self, edge: str) -> str:
        """The first edge of the group."""
        return self._ties.leader(edge)


def _before_relu(graph: onnx.GraphProto) -> set[str]:
    """Edges that a relu alone reads: their codes below the zero point are clamped, so their values do not count."""
    readers = Counter(name for node in graph.node for name in node.input)
    outputs = {o.name for o in graph.output}
    relus = {node.input[0] for node in graph.node if node.op_type == "Relu"}
    made = {node.output[0] for node in graph.node if node.op_type in ("Conv", "Add", "Sub", "Mul")}
    return {edge for edge in relus & made if readers[edge] == 1 and edge not in outputs}


def collect(
    model: onnx.ModelProto,
    ties: EdgeTies,
    step: StepGraph,
    streams: Sequence[Features],
    spec: CalibrationSpec,
    progress: Progress | None,
) -> dict[str, StreamingHistogram]:
    """One histogram for each group of tied edges without fixed parameters, by the first edge of the group."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    inner = [
        e
        for e in ties.edges
        if e not in known and e not in ties.unseen and e not in {i.name for i in model.graph.input}
    ]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    runner = OnnxRunner(watched, step.network)
    names = dict(zip((i.name for i in model.graph.input), ("features", *step.network.state_names), strict=True))
    leaders = [leader for leader in map(ties.leader, ties.edges) if leader not in ties.fixed]
    histograms = {leader: StreamingHistogram(names.get(leader, leader), spec.n_bins) for leader in leaders}
    total, done = sum(len(s) // step.network.step_frames for s in streams), 0
    for stream in streams:
        for values in runner.steps(stream):
            for name, value in values.items():
                if ties.leader(name) in histograms:
                    histograms[ties.leader(name)].observe(value)
            done += 1
        if progress is not None:
            progress(done, total)
    return histograms


def _quantize(model: onnx.ModelProto, overrides: Mapping[str, Any], step: StepGraph) -> onnx.ModelProto:
    features, states = step.example()
    names = [i.name for i in model.graph.input]
    reader = _OneStep(dict(zip(names, [features.numpy(), *(s.numpy() for s in states)], strict=True)))
    # ONNX Runtime's calibration prints on stdout, which belongs to results.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet_root(_ADVICE):
        path = Path(folder) / "qdq.onnx"
        quantize_static(
            model,
            str(path),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QInt8,
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


_ADVICE = "pre-processing before quantization"
"""Shape inference and fusion of batch norms, which the float model has behind it."""


class _OneStep(CalibrationDataReader):  # type: ignore[misc]
    """ONNX Runtime insists on calibration data, although every range is given."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, Any] | None:
        return self._feeds.pop() if self._feeds else None


def _override(params: QuantParams) -> dict[str, Any]:
    return {
        "quant_type": QuantType.QInt8,
        "scale": np.array(params.scale[0], np.float32),
        "zero_point": np.array(params.zero_point, np.int8),
    }


def _weight_overrides(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    names = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    return {
        name: [
            {"axis": 0, "quant_type": QuantType.QInt8, "scale": np.array(scale), "zero_point": np.array(0, np.int8)}
            for scale in weight_scales(weights[name])
        ]
        for name in names
    }
