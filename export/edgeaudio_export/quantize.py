"""The public entry: a float streaming network and calibration streams in, an integer graph with its references out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.calibration.calibrate import Calibration, calibrate
from edgeaudio_export.checks import check_network, check_states, check_streaming, check_streams
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import to_onnx
from edgeaudio_export.lowering.lower import lower
from edgeaudio_export.network import StreamingNetwork, frozen_copy
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.onnxruntime_path import quantize_with_onnxruntime
from edgeaudio_export.pt2e import quantize_with_pt2e
from edgeaudio_export.qdq import with_int32_biases
from edgeaudio_export.step_graph import Features, Progress, export_step
from edgeaudio_export.verification import LoweringFacts, verify_lowering
from edgeaudio_runtime.graph import IntegerGraph

Backend = Literal["pt2e", "onnxruntime"]
"""Who quantizes: PyTorch PT2E with this package's quantizer, or ONNX Runtime's ``quantize_static`` with its ranges."""


@dataclass(frozen=True, kw_only=True)
class QuantizedNetwork:
    """An integer graph with what it was made from."""

    graph: IntegerGraph
    """What the targets write."""
    float_onnx: bytes
    """Float reference, one step: ``features [1, step_frames, n_features]``, ``state_<i>_in [1, C, K]`` to
    ``logits [1, outputs_per_step, n_labels]``, ``state_<i>_out``; states start at 0."""
    qdq_onnx: bytes
    """The quantized model the graph was lowered from; same inputs and outputs, float32 with Q/DQ pairs inside."""
    simulate: Callable[[Features], Features]
    """The quantizer's own int8 simulation: one stream of features ``[T, n_features]`` from reset, T a multiple of
    step_frames, to dequantized logits ``[T_out, n_labels]``. PT2E in torch, or the QDQ model in ONNX Runtime
    unoptimized."""
    calibration: Calibration
    """How the ranges were found; its ``facts()`` are for the manifest."""
    lowering: LoweringFacts
    """How close the integer graph is to ``qdq_onnx`` on the first stream."""
    backend: Backend
    """Which path was taken."""


def quantize_network(
    network: StreamingNetwork,
    streams: Sequence[Features],
    *,
    backend: Backend = "pt2e",
    calibration: CalibrationSpec | Calibration | None = None,
    name: str,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """Quantize a streaming network to static int8 and lower it to the integer graph.

    Args:
        network: Float network (see :class:`StreamingNetwork`); it is copied, set to evaluation mode and left as it was.
        streams: Calibration features, each float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``;
            every one is rolled out from reset, step by step.
        backend: "pt2e" or "onnxruntime".
        calibration: Method and histogram size, None means the defaults; or a calibration of the same network, whose
            ranges are taken as they are.
        name: Name of the integer graph.
        progress: Called with (done, total) streams while calibrating.

    Returns:
        The graph and its float and int8 references.

    Raises:
        ExportError: The network does not stream, hides state, has operations the integer graph lacks, or the streams do
            not fit; each in one line with the remedy.
    """
    if backend not in get_args(Backend):
        raise ExportError(f"backend={backend!r} must be one of {list(get_args(Backend))}")
    check_network(network)
    check_streams(network, streams)
    network = frozen_copy(network)
    check_states(network)
    step = export_step(network)
    check_streaming(network, streams[0])
    float_onnx = to_onnx(step.module, step)
    quantize = quantize_with_pt2e if backend == "pt2e" else quantize_with_onnxruntime
    if not isinstance(calibration, Calibration):
        calibration = calibrate(step, streams, calibration or CalibrationSpec(), progress)
    quantized = quantize(step, float_onnx, calibration)
    qdq = with_int32_biases(quantized.qdq)
    graph = lower(qdq, name=name, state_names=network.state_names)
    return QuantizedNetwork(
        graph=graph,
        float_onnx=float_onnx.SerializeToString(),
        qdq_onnx=qdq.SerializeToString(),
        simulate=quantized.simulate,
        calibration=calibration,
        lowering=verify_lowering(graph, OnnxRunner(qdq, network), streams[0]),
        backend=backend,
    )
