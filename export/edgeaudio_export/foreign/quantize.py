"""A foreign step model quantized: to the integer graph for all engines where it fits, else for ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeaudio_export.checks import check_network, check_states, check_streaming, check_streams
from edgeaudio_export.errors import ExportError, LoweringError
from edgeaudio_export.float_onnx import to_onnx
from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork, quantize_onnx_only
from edgeaudio_export.foreign.step_model import StepModel, step_model_of
from edgeaudio_export.foreign.torch_network import KeptOperation, OnnxNetwork, check_rebuilt, kept_operations
from edgeaudio_export.network import StreamingNetwork, frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import Backend, QuantizedNetwork, quantize_network
from edgeaudio_export.step_graph import Features, Progress, export_step


def quantize_foreign(
    step: StepModel,
    streams: Sequence[Features],
    *,
    recipe: QuantizationRecipe,
    backend: Backend,
    name: str,
    network: StreamingNetwork | None = None,
    progress: Progress | None = None,
) -> QuantizedNetwork | OnnxOnlyNetwork:
    """Quantize a float step model and lower it to the integer graph if all of its operations are there.

    Args:
        step: What :func:`edgeaudio_export.foreign.reader.read_step_model` read.
        streams: Calibration features, each float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``.
        recipe: Method and options.
        backend: Which path, where the integer graph is the goal; ONNX Runtime alone has its own.
        name: Name of the graph.
        network: What the step was traced from, if it streams by itself; it is then quantized in place of a network
            rebuilt from the step.
        progress: Called with (done, total) streams while calibrating.

    Returns:
        A network for all engines, or for ONNX Runtime alone with what kept it there.

    Raises:
        ExportError: A stream that does not fit, a method that the model cannot have, an activation without a range.
    """
    check_streams(step, streams)
    if recipe.scheme.mode == "dynamic":
        return quantize_onnx_only(step, streams, recipe=recipe, name=name, progress=progress)
    rebuilt, kept = rebuild(step)
    if rebuilt is not None:
        check_rebuilt(rebuilt, step, streams[0])
        own = rebuilt if network is None else network
        try:
            quantized = quantize_network(own, streams, backend=backend, recipe=recipe, name=name, progress=progress)
            return replace(quantized, float_onnx=step.model.SerializeToString())
        except LoweringError as error:
            kept = (KeptOperation(operation="", count=0, reason=str(error)),)
    return quantize_onnx_only(step, streams, recipe=recipe, name=name, kept=kept, progress=progress)


def rebuild(step: StepModel) -> tuple[OnnxNetwork | None, tuple[KeptOperation, ...]]:
    """The model in torch, if the integer graph has its operations where they stand; else what keeps it from there."""
    kept = kept_operations(step)
    if kept:
        return None, kept
    try:
        network = OnnxNetwork(step)
        export_step(network)
        return network, ()
    except ExportError as error:
        return None, (KeptOperation(operation="", count=0, reason=str(error)),)


def step_model_of_network(network: StreamingNetwork, streams: Sequence[Features]) -> StepModel:
    """The float step model of a streaming network, checked as for the integer graph.

    Raises:
        ExportError: The network does not stream, hides state, or the streams do not fit.
    """
    check_network(network)
    check_streams(network, streams)
    network = frozen_copy(network)
    check_states(network)
    step = export_step(network)
    check_streaming(network, streams[0])
    return step_model_of(to_onnx(step.module, step), network.state_names)
