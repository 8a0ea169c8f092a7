"""Path 2: ONNX Runtime's ``quantize_static`` on the float model, with the ranges, ties and weight scales of this package.

ONNX Runtime only writes the model: its own calibration would keep every activation of every clip and cannot feed states back.
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
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeaudio_export.calibration import CalibrationFacts, CalibrationSpec, StreamingHistogram, weight_scales
from edgeaudio_export.onnx_rewrites import linear_to_conv
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
    runner: ModelRunner
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
        ranges=ranges,
    )
    return OnnxRuntimeResult(qdq=qdq, facts=facts, runner=ModelRunner(qdq, step))


class EdgeTies:
    """Which activation edges of a float ONNX model share parameters, and which of them calibration looks at."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        readers = Counter(name for node in graph.node for name in node.input)
        constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
        relu_inputs = {n.input[0] for n in graph.node if n.op_type == "Relu"}
        outputs = {o.name for o in graph.output}
        self._ties: Ties[str] = Ties()
        self.edges: list[str] = [i.name for i in graph.input if i.name not in constants]
        self.unseen: set[str] = set()
        self.fixed: dict[str, QuantParams] = {}
        for edge in self.edges:
            self._ties.add(edge)
        for node in graph.node:
            if node.op_type == "Constant":
                continue
            output = node.output[0]
            self.edges.append(output)
            self._ties.add(output)
            if output in relu_inputs and readers[output] == 1 and output not in outputs:
                self.unseen.add(output)
            if node.op_type in TIED:
                for name in node.input:
                    if name not in constants:
                        self._ties.tie(name, output)
        for before, after in zip(graph.input, graph.output, strict=True):
            if before.name != "features":
                self._ties.tie(before.name, after.name)
        for node in graph.node:
            if node.op_type in FIXED:
                self.fixed[self.leader(node.output[0])] = FIXED[node.op_type]

    def leader(self, edge: str) -> str:
        """The first edge of the group."""
        return self._ties.leader(edge)


class ModelRunner:
    """A step model with states, run stream by stream in ONNX Runtime without graph optimizations."""

    def __init__(self, model: onnx.ModelProto, step: StepGraph) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._step = step
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def run_steps(self, features: Features) -> Any:
        """Yield all outputs of every step of one stream, from reset; a generator."""
        frames = self._step.network.step_frames
        states = [s.numpy() for s in self._step.network.initial_state(1)]
        for begin in range(0, len(features), frames):
            feed = dict(zip(self.inputs, [features[None, begin : begin + frames], *states], strict=True))
            results = self._session.run(None, feed)
            states = results[1 : len(states) + 1]
            yield feed, results

    def run_stream(self, features: Features) -> Features:
        """Logits ``[T_out, n_labels]``."""
        parts = [results[0][0] for _, results in self.run_steps(features)]
        return np.concatenate(parts) if parts else np.zeros((0, self._step.network.n_labels), dtype=np.float32)


def collect(
    model: onnx.ModelProto,
    ties: EdgeTies,
    step: StepGraph,
    streams: Sequence[Features],
    spec: CalibrationSpec,
    progress: Progress | None,
) -> dict[str, StreamingHistogram]:
    """One histogram for each group of tied edges that has no fixed parameters, by the name of the group's first edge."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    inner = [
        e
        for e in ties.edges
        if e not in known and e not in ties.unseen and e not in {i.name for i in model.graph.input}
    ]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    runner = ModelRunner(watched, step)
    histograms = {
        leader: StreamingHistogram(leader, spec.n_bins)
        for leader in map(ties.leader, ties.edges)
        if leader not in ties.fixed
    }
    total, done = sum(len(s) // step.network.step_frames for s in streams), 0
    for stream in streams:
        for feed, results in runner.run_steps(stream):
            for name, values in [*feed.items(), *zip(runner.outputs, results, strict=True)]:
                if ties.leader(name) in histograms:
                    histograms[ties.leader(name)].observe(values)
            done += 1
        if progress is not None:
            progress(done, total)
    return histograms


def _quantize(model: onnx.ModelProto, overrides: Mapping[str, Any], step: StepGraph) -> onnx.ModelProto:
    features, states = step.example()
    names = [i.name for i in model.graph.input]
    reader = _OneStep(dict(zip(names, [features.numpy(), *(s.numpy() for s in states)], strict=True)))
    # ONNX Runtime's calibration prints on stdout, which belongs to results.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
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
