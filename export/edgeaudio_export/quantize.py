"""The public entry: a float streaming network and calibration streams in, an integer graph with its references out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.calibration.calibrate import Calibration, calibrate
from edgeaudio_export.checks import check_network, check_states, check_streaming, check_streams
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import to_onnx
from edgeaudio_export.lowering.build import FloatWeights
from edgeaudio_export.lowering.lower import lower
from edgeaudio_export.network import StreamingNetwork, frozen_copy
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.onnxruntime_path import OnnxRuntimeResult, quantize_with_onnxruntime
from edgeaudio_export.pt2e import Pt2eResult, quantize_with_pt2e
from edgeaudio_export.qdq import with_int32_biases
from edgeaudio_export.quantization_plan import plan_quantization
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.ranges import refine_ranges
from edgeaudio_export.recovery.recover import RecoveryFacts, StepProgress, recover
from edgeaudio_export.step_graph import Features, Progress, StepGraph, export_step
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
    """Float reference of the network as it was given, one step: ``features [1, step_frames, n_features]``,
    ``state_<i>_in [1, C, K(, F)]`` to ``logits [1, outputs_per_step, n_labels]``, ``state_<i>_out``; states start at
    0."""
    qdq_onnx: bytes
    """The quantized model the graph was lowered from; same inputs and outputs, float32 with Q/DQ pairs inside."""
    simulate: Callable[[Features], Features]
    """The quantizer's own simulation in float: one stream of features ``[T, n_features]`` from reset, T a multiple of
    step_frames, to dequantized logits ``[T_out, n_labels]``. PT2E in torch, or the QDQ model in ONNX Runtime
    unoptimized."""
    calibration: Calibration
    """How the ranges were found; its ``facts()`` are for the manifest."""
    lowering: LoweringFacts
    """How close the integer graph is to ``qdq_onnx`` on the first stream."""
    backend: Backend
    """Which path was taken."""
    recipe: QuantizationRecipe
    """Method and rules."""
    recovery: RecoveryFacts | None
    """What the recovery steps of the recipe did; None without any."""
    step: StepGraph
    """The float network that was quantized: batch norms folded, recovery steps done; what a diagnosis compares with."""


def quantize_network(
    network: StreamingNetwork,
    streams: Sequence[Features],
    *,
    backend: Backend = "pt2e",
    recipe: QuantizationRecipe | None = None,
    calibration: CalibrationSpec | Calibration | None = None,
    name: str,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """Quantize a streaming network as a recipe says and lower it to the integer graph.

    Args:
        network: Float network (see :class:`StreamingNetwork`); it is copied, set to evaluation mode and left as it was.
        streams: Calibration features, each float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``;
            every one is rolled out from reset, step by step.
        backend: "pt2e" or "onnxruntime".
        recipe: Method, calibration, exceptions for layers; None means static int8 with defaults.
        calibration: Takes the place of the recipe's; or a calibration of the same network, whose ranges are taken as
            they are, unless recovery steps change the network.
        name: Name of the integer graph.
        progress: Called with (done, total) streams while calibrating.

    Returns:
        The graph and its float and quantized references.

    Raises:
        ExportError: The network does not stream, hides state, has operations the integer graph lacks, the streams do
            not fit, a rule of the recipe matches no layer, or the backend lacks the method; each in one line with the
            remedy.
    """
    recipe = recipe or QuantizationRecipe()
    step = _exported(network, streams)
    return quantize_step(
        step, streams, backend=backend, recipe=recipe, calibration=calibration, name=name, progress=progress
    )


def quantize_step(
    original: StepGraph,
    streams: Sequence[Features],
    *,
    backend: Backend = "pt2e",
    recipe: QuantizationRecipe,
    calibration: CalibrationSpec | Calibration | None = None,
    name: str,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """As :func:`quantize_network`, from a network that was exported and checked already."""
    check_backend(backend, recipe)
    if calibration is not None:
        spec = calibration if isinstance(calibration, CalibrationSpec) else calibration.spec
        recipe = replace(recipe, calibration=spec)
    float_onnx = to_onnx(original.module, original)
    step, recovery = _recovered(original, streams, recipe, progress)
    # Recovery changes the network, so its activations are observed anew.
    if not isinstance(calibration, Calibration) or recipe.rewrites:
        calibration = calibrate(step, streams, recipe.calibration, progress)
    if "ranges" in recipe.recovery:
        calibration, found = refine_ranges(
            step, calibration, streams, reference=original, recipe=recipe, progress=progress
        )
        recovery = RecoveryFacts(steps=(*(recovery.steps if recovery else ()), ("ranges", found)))
    plan = plan_quantization(step, calibration, recipe)
    if backend == "pt2e":
        quantized: Pt2eResult | OnnxRuntimeResult = quantize_with_pt2e(step, plan)
    else:
        quantized = quantize_with_onnxruntime(step, to_onnx(step.module, step) if recipe.rewrites else float_onnx, plan)
    qdq = with_int32_biases(quantized.qdq)
    float_weights: FloatWeights = "float16" if recipe.scheme.weights == "float16" else "float32"
    graph = lower(qdq, name=name, state_names=step.network.state_names, float_weights=float_weights)
    return QuantizedNetwork(
        graph=graph,
        float_onnx=float_onnx.SerializeToString(),
        qdq_onnx=qdq.SerializeToString(),
        simulate=quantized.simulate,
        calibration=calibration,
        lowering=verify_lowering(graph, OnnxRunner(qdq, step.network), streams[0]),
        backend=backend,
        recipe=recipe,
        recovery=recovery,
        step=step,
    )


def _exported(network: StreamingNetwork, streams: Sequence[Features]) -> StepGraph:
    """One step of a frozen copy of the network, checked for everything that would go wrong later."""
    check_network(network)
    check_streams(network, streams)
    network = frozen_copy(network)
    check_states(network)
    step = export_step(network)
    check_streaming(network, streams[0])
    return step


def _recovered(
    step: StepGraph, streams: Sequence[Features], recipe: QuantizationRecipe, progress: Progress | None
) -> tuple[StepGraph, RecoveryFacts | None]:
    """The step graph after the rewrites of the recipe, and what they did."""
    if not recipe.rewrites:
        return step, None
    return recover(step, streams, recipe, progress=None if progress is None else _for_each_step(progress))


def _for_each_step(progress: Progress) -> StepProgress:
    return lambda name, done, total: progress(done, total)


def check_backend(backend: str, recipe: QuantizationRecipe) -> None:
    """Refuse a backend that does not exist, or cannot do what the recipe's method asks."""
    if backend not in get_args(Backend):
        raise ExportError(f"backend={backend!r} must be one of {list(get_args(Backend))}")
    if recipe.scheme.mode == "dynamic":
        raise ExportError(
            f"method={recipe.method!r} yields no integer graph, ONNX Runtime alone computes it; run: edgeaudio export "
            f"--method {recipe.method}"
        )
    if backend == "onnxruntime" and recipe.scheme.mode != "static":
        raise ExportError(
            f"method={recipe.method!r} leaves activations float, which ONNX Runtime's quantize_static cannot; "
            "choose backend='pt2e'"
        )
