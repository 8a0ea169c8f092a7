"""The whole diagnosis of a quantized network: every layer, worst first, with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeaudio_export.activation_groups import activation_groups
from edgeaudio_export.diagnosis.activations import FEATURES, TensorReport, report_tensors
from edgeaudio_export.diagnosis.effective_precision import EnginePrecision, effective_precision
from edgeaudio_export.diagnosis.layers import pair_layers
from edgeaudio_export.diagnosis.rollout import Probes, check_probes, float_logits, integer_steps
from edgeaudio_export.diagnosis.saturation import SaturationReport, report_saturation
from edgeaudio_export.diagnosis.sensitivity import (
    LogitDistance,
    Logits,
    Sensitivity,
    logit_distance,
    report_sensitivity,
)
from edgeaudio_export.diagnosis.suggestions import Suggestion, suggest
from edgeaudio_export.diagnosis.weights import WeightReport, report_weights
from edgeaudio_export.step_graph import Progress, StepGraph
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import dequantize


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDiagnosis:
    """One layer, or the input under the name "features"."""

    name: str
    """As in every report."""
    group: str
    """Activation group of its output, as rules of a recipe name it."""
    noise_share: float
    """Its share of the error at the logits: squared error with this layer alone quantized, over the sum of all."""
    tensor: TensorReport
    """Its output."""
    weight: WeightReport | None
    """Its weight, where it has one."""
    sensitivity: Sensitivity
    """What it does to the logits."""
    suggestion: Suggestion | None
    """What to try; None where nothing is worth it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Where an integer graph loses against the float network."""

    network: str
    """Name of the graph."""
    method: str
    """How the ranges were found."""
    clips: int
    """Streams that were looked at."""
    frames: int
    """Feature frames in all of them."""
    last_only: bool
    """Whether a stream's last output alone decides, as for keywords."""
    logits: LogitDistance
    """The integer graph against the float network."""
    layers: tuple[LayerDiagnosis, ...]
    """Worst first: by their share of the error at the logits."""
    saturation: tuple[SaturationReport, ...]
    """What an x86 CPU without VNNI would do under ONNX Runtime, in running order."""
    precision: Mapping[str, EnginePrecision]
    """In what each engine computes."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``docs/diagnosis.md`` says what the keys mean."""
        return asdict(self)


def diagnose(
    step: StepGraph,
    graph: IntegerGraph,
    probes: Probes,
    *,
    method: str,
    last_only: bool,
    models: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Hold an integer graph against the float step it was made from.

    Args:
        step: The float network, as it was quantized.
        graph: What came of it.
        probes: Features ``[N, T, n_features]`` of streams that did not calibrate.
        method: How the ranges were found, for the suggestions.
        last_only: Whether a stream's last output alone decides.
        models: Artifacts by engine ("onnxruntime", "litert"), for their effective precision.
        progress: Called with (layers measured, layers).

    Raises:
        ExportError: The probes are empty or do not fit, or the graph was not made from this network.
    """
    check_probes(step, probes)
    layers = pair_layers(step, graph)
    tensors = {report.layer: report for report in report_tensors(step, graph, layers, probes)}
    weights = {report.layer: report for report in report_weights(step, graph, layers)}
    found = report_sensitivity(step, graph, layers, probes, last_only=last_only, progress=progress)
    noise = {each.layer: _noise(each.alone.sqnr_db) for each in found}
    total = sum(noise.values()) or 1.0
    group_of = {member: group.name for group in activation_groups(step) for member in group.members}
    groups = {FEATURES: FEATURES, **{layer.name: group_of[layer.value.name] for layer in layers}}
    diagnosed = [
        LayerDiagnosis(
            name=each.layer,
            group=groups[each.layer],
            noise_share=noise[each.layer] / total,
            tensor=tensors[each.layer],
            weight=weights.get(each.layer),
            sensitivity=each,
            suggestion=suggest(
                tensors[each.layer],
                weights.get(each.layer),
                group=groups[each.layer],
                method=method,
                noise_share=noise[each.layer] / total,
            ),
        )
        for each in found
    ]
    models = models or {}
    return Diagnosis(
        network=graph.name,
        method=method,
        clips=len(probes),
        frames=probes.shape[0] * probes.shape[1],
        last_only=last_only,
        logits=logit_distance(float_logits(step, probes), integer_logits(graph, probes), last_only=last_only),
        layers=tuple(sorted(diagnosed, key=lambda layer: -layer.noise_share)),
        saturation=report_saturation(
            graph, integer_steps(graph, probes), {layer.tensor: layer.name for layer in layers}
        ),
        precision=effective_precision(graph, onnx_model=models.get("onnxruntime"), tflite_model=models.get("litert")),
    )


def integer_logits(graph: IntegerGraph, probes: Probes) -> Logits:
    """Logits ``[N, T_out, n_labels]`` that the codes of the integer graph stand for."""
    codes = np.concatenate([values[graph.output] for values in integer_steps(graph, probes)], axis=1)[:, :, 0, :]
    quant = graph.output_tensor.quant
    return codes.astype(np.float32) if quant is None else dequantize(codes, quant)


def _noise(sqnr_db: float | None) -> float:
    """Error relative to the signal; 0 where there is none."""
    return 0.0 if sqnr_db is None else float(10 ** (-sqnr_db / 10))
