"""From a checkpoint or an ONNX model to a diagnosis: quantized as asked, looked at on clips that did not calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import probe_conditions
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.errors import EdgeAudioError, SpecError
from edgeaudio_runtime.front_end import compute_features

if TYPE_CHECKING:
    from edgeaudio.exporting import ExportChoices
    from edgeaudio.onnx_exporting import CalibrationData, ForeignModel
    from edgeaudio_export.calibration.coverage import CoverageReport
    from edgeaudio_export.diagnosis.diagnosis import Diagnosis
    from edgeaudio_export.errors import ExportError
    from edgeaudio_export.foreign.step_model import StepModel
    from edgeaudio_export.foreign.torch_network import KeptOperation
    from edgeaudio_export.quantize import QuantizedNetwork
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.training_data import TrainingData
    from edgeaudio_runtime.features import FeatureSpec
    from edgeaudio_runtime.graph import IntegerGraph
    from edgeaudio_runtime.quantization import QuantParams

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedNetwork:
    """A diagnosis with what belongs beside it in a report."""

    name: str
    """Name of the model."""
    choices: Mapping[str, Any]
    """How it was quantized: backend, method, calibration, clips that calibrated."""
    diagnosis: Diagnosis
    """Where it loses."""
    coverage: CoverageReport
    """Which activations leave their range under conditions that calibration did not see."""
    command: str
    """The command line that gives the same numbers again."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``docs/diagnosis.md`` says what the keys mean."""
        return {
            "name": self.name,
            "quantization": dict(self.choices),
            **self.diagnosis.to_dict(),
            "coverage": self.coverage.to_dict(),
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A quantized network with the clips to look at, wherever it came from."""

    name: str
    """Name of the model."""
    task: str
    """"keyword" or "ctc"."""
    features: FeatureSpec
    """Its front end."""
    step_frames: int
    """Feature frames a step takes."""
    quantized: QuantizedNetwork
    """The float step and what came of it."""
    clips: npt.NDArray[np.int16]
    """Recordings ``[N, samples]`` at the rate of the front end that did not calibrate."""


def diagnose_checkpoint(
    checkpoint: Checkpoint, data: TrainingData, choices: ExportChoices, *, n_clips: int, command: str
) -> DiagnosedNetwork:
    """Quantize a checkpoint and diagnose it on ``n_clips`` validation clips, spread evenly over all of them.

    Raises:
        ExportError: The network or the clips cannot be quantized or compared.
    """
    from edgeaudio.exporting import quantize_checkpoint

    subject = Subject(
        name=checkpoint.name,
        task=checkpoint.task,
        features=checkpoint.features,
        step_frames=checkpoint.module.step_frames,
        quantized=quantize_checkpoint(checkpoint, data.train, choices),
        clips=spread(data.validation.waveforms, n_clips),
    )
    return diagnose_quantized(subject, command=command)


def diagnose_onnx(
    model: ForeignModel, step: StepModel, data: CalibrationData, choices: ExportChoices, *, command: str
) -> DiagnosedNetwork:
    """Quantize a foreign model, read by :func:`read_lowerable`, and diagnose it on the clips of ``data`` held out.

    Raises:
        SpecError: No clip is held out.
        ExportError: The model or the clips cannot be quantized or compared.
    """
    from edgeaudio.exporting import quantization_recipe
    from edgeaudio.onnx_exporting import quantize_onnx
    from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork
    from edgeaudio_export.quantize import check_backend
    from edgeaudio_models.recipe import CalibrationRecipe

    if not len(data.held_out):
        raise SpecError(f"clips={len(data.clips)} in --data, must be at least 2: one calibrates, another is looked at")
    check_backend(choices.backend, quantization_recipe(CalibrationRecipe(), choices))
    quantized = quantize_onnx(model, step, data, choices)
    if isinstance(quantized, OnnxOnlyNetwork):
        raise _stays_with_onnxruntime(model, quantized.kept)
    subject = Subject(
        name=model.path.stem,
        task=model.task,
        features=model.features,
        step_frames=step.step_frames,
        quantized=quantized,
        clips=np.stack(data.held_out),
    )
    return diagnose_quantized(subject, command=command)


def read_lowerable(model: ForeignModel) -> StepModel:
    """The network step of a foreign model, if the integer graph has all of its operations.

    Raises:
        ExportError: Not a step model of this front end and these labels, or one that stays with ONNX Runtime.
    """
    from edgeaudio.onnx_exporting import read_step
    from edgeaudio_export.foreign.quantize import rebuild

    step = read_step(model)
    network, kept = rebuild(step)
    if network is None:
        raise _stays_with_onnxruntime(model, kept)
    return step


def _stays_with_onnxruntime(model: ForeignModel, kept: Sequence[KeptOperation]) -> ExportError:
    from edgeaudio_export.errors import ExportError

    reasons = ", ".join(entry.describe() for entry in kept)
    return ExportError(
        f"{model.path}: kept with ONNX Runtime by {reasons}; only layers of the integer graph can be diagnosed: write "
        "them in its operations, or ship the model for ONNX Runtime as it is, by edgeaudio export"
    )


def diagnose_quantized(subject: Subject, *, command: str) -> DiagnosedNetwork:
    """Hold a quantized network against its float step on clips that did not calibrate.

    Raises:
        ExportError: The clips cannot be compared.
    """
    from edgeaudio_export.calibration.coverage import coverage
    from edgeaudio_export.diagnosis.diagnosis import diagnose

    quantized, clips, step_frames = subject.quantized, subject.clips, subject.step_frames
    with one_torch_thread():
        say(f"diagnosing {subject.name} on {len(clips)} clips that did not calibrate")
        with progress_bar("layers") as progress:
            diagnosis = diagnose(
                quantized.step,
                quantized.graph,
                clip_features(subject.features, clips, step_frames=step_frames),
                method=quantized.calibration.spec.method,
                last_only=subject.task == "keyword",
                models=artifacts(quantized.graph),
                progress=progress,
            )
        say("probing the calibrated ranges")
        conditions = probe_conditions(subject.features, clips, step_frames=step_frames)
        params = group_params(quantized.graph, diagnosis)
        covered = coverage(quantized.step, quantized.calibration, conditions, params=params)
    return DiagnosedNetwork(
        name=subject.name,
        choices=_said(quantized),
        diagnosis=diagnosis,
        coverage=covered,
        command=command,
    )


def spread(clips: npt.NDArray[np.int16], n_clips: int) -> npt.NDArray[np.int16]:
    """``n_clips`` rows of ``clips [N, samples]`` at even distances; all of them where there are fewer."""
    chosen = np.linspace(0, len(clips) - 1, min(n_clips, len(clips))).astype(np.intp)
    return np.asarray(clips)[chosen]


def clip_features(spec: FeatureSpec, clips: npt.NDArray[np.int16], *, step_frames: int) -> Features:
    """Features ``[N, T, n_features]`` of clips ``[N, samples]``, T a multiple of the network's step."""
    return np.stack([compute_features(spec, clip, multiple_of=step_frames) for clip in clips])


def artifacts(graph: IntegerGraph) -> dict[str, bytes]:
    """The graph as each engine gets it; an engine that cannot have it is left out and named on stderr."""
    from edgeaudio_export.targets.onnx_target import to_onnx
    from edgeaudio_export.targets.tflite_target import to_tflite

    found: dict[str, bytes] = {}
    for engine, write in (("onnxruntime", to_onnx), ("litert", to_tflite)):
        try:
            found[engine] = write(graph)
        except EdgeAudioError as error:
            say(f"no artifact for {engine}: {error}")
    return found


def group_params(graph: IntegerGraph, diagnosis: Diagnosis) -> dict[str, QuantParams]:
    """Quantization of every activation group that has codes, by its name."""
    named = {layer.group: graph.tensors[layer.tensor.tensor].quant for layer in diagnosis.layers}
    return {group: quant for group, quant in named.items() if quant is not None}


def _said(quantized: QuantizedNetwork) -> dict[str, Any]:
    facts = quantized.calibration.facts()
    return {
        "backend": quantized.backend,
        "method": quantized.recipe.method,
        "recipe": quantized.recipe.to_dict(),
        "calibration": facts.method,
        "calibration_clips": facts.clips,
    }
