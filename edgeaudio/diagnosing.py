"""From a checkpoint to a diagnosis: quantize it as asked, then look at clips that did not calibrate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import probe_conditions
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.errors import EdgeAudioError
from edgeaudio_runtime.front_end import compute_features

if TYPE_CHECKING:
    from edgeaudio.exporting import ExportChoices
    from edgeaudio_export.calibration.coverage import CoverageReport
    from edgeaudio_export.diagnosis.diagnosis import Diagnosis
    from edgeaudio_export.quantize import QuantizedNetwork
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.training_data import TrainingData
    from edgeaudio_runtime.graph import IntegerGraph
    from edgeaudio_runtime.quantization import QuantParams

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedCheckpoint:
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


def diagnose_checkpoint(
    checkpoint: Checkpoint, data: TrainingData, choices: ExportChoices, *, n_clips: int, command: str
) -> DiagnosedCheckpoint:
    """Quantize a checkpoint and diagnose it on ``n_clips`` validation clips, spread evenly over all of them.

    Raises:
        ExportError: The network or the clips cannot be quantized or compared.
    """
    from edgeaudio.exporting import quantize_checkpoint
    from edgeaudio_export.calibration.coverage import coverage
    from edgeaudio_export.diagnosis.diagnosis import diagnose

    quantized = quantize_checkpoint(checkpoint, data.train, choices)
    clips = spread(data.validation.waveforms, n_clips)
    with one_torch_thread():
        say(f"diagnosing {checkpoint.name} on {len(clips)} validation clips")
        with progress_bar("layers") as progress:
            diagnosis = diagnose(
                quantized.step,
                quantized.graph,
                clip_features(checkpoint, clips),
                method=quantized.calibration.spec.method,
                last_only=checkpoint.task == "keyword",
                models=artifacts(quantized.graph),
                progress=progress,
            )
        say("probing the calibrated ranges")
        conditions = probe_conditions(checkpoint.features, clips, step_frames=checkpoint.module.step_frames)
        params = group_params(quantized.graph, diagnosis)
        covered = coverage(quantized.step, quantized.calibration, conditions, params=params)
    return DiagnosedCheckpoint(
        name=checkpoint.name,
        choices=_said(quantized),
        diagnosis=diagnosis,
        coverage=covered,
        command=command,
    )


def spread(clips: npt.NDArray[np.int16], n_clips: int) -> npt.NDArray[np.int16]:
    """``n_clips`` rows of ``clips [N, samples]`` at even distances; all of them where there are fewer."""
    chosen = np.linspace(0, len(clips) - 1, min(n_clips, len(clips))).astype(np.intp)
    return np.asarray(clips)[chosen]


def clip_features(checkpoint: Checkpoint, clips: npt.NDArray[np.int16]) -> Features:
    """Features ``[N, T, n_features]`` of clips ``[N, samples]``, T a multiple of the network's step."""
    step_frames = checkpoint.module.step_frames
    return np.stack([compute_features(checkpoint.features, clip, multiple_of=step_frames) for clip in clips])


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
