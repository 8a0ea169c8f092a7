"""From a checkpoint to a proven bundle: calibrate, quantize, write, climb the ladder; all in one staged directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import calibration_facts, calibration_streams, probe_conditions
from edgeaudio.card import render_card
from edgeaudio.parity.certificate import certificate, write_certificate
from edgeaudio.parity.ladder import TorchSide, one_torch_thread, run_ladder
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

if TYPE_CHECKING:
    from edgeaudio_export.calibration.calibrate import Calibration
    from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork
    from edgeaudio_export.quantization_recipe import QuantizationRecipe
    from edgeaudio_export.quantize import Backend, QuantizedNetwork
    from edgeaudio_export.step_graph import StepGraph
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.recipe import CalibrationRecipe
    from edgeaudio_models.training_data import Examples

Int16 = npt.NDArray[np.int16]
Features = npt.NDArray[np.float32]

LADDER_CLIPS = 32
"""Validation clips the ladder is climbed on, beside the golden recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportChoices:
    """What the caller of an export may choose."""

    backend: Backend = "pt2e"
    """"pt2e" or "onnxruntime"."""
    calibration: str | None = None
    """One of ``edgeaudio_export.calibration.METHODS``; None takes the recipe's."""
    percentile: float | None = None
    """Share of the values that "percentile" covers, in percent; None takes the recipe's."""
    clips: int | None = None
    """Number of calibration clips; None takes the recipe's."""
    quantization: QuantizationRecipe | None = None
    """Method, calibration and rules, all of them; None begins with the default method and the checkpoint's
    calibration."""
    method: str | None = None
    """One of ``edgeaudio_export.quantization_recipe.METHODS``; None takes that of ``quantization``."""
    recovery: tuple[str, ...] | None = None
    """Some of ``edgeaudio_export.quantization_recipe.RECOVERY_STEPS``; None takes those of ``quantization``."""


def export_bundle(
    checkpoint: Checkpoint,
    training: Examples,
    probe: Sequence[Int16],
    target: Path,
    *,
    choices: ExportChoices,
    force: bool = False,
) -> dict[str, Any]:
    """Write a bundle with its certificate and card.

    Args:
        checkpoint: The trained network.
        training: Clips it was trained on; some of them calibrate.
        probe: Other clips, for the ladder.
        target: Directory to write.
        choices: Backend and calibration.
        force: Replace ``target``.

    Returns:
        The certificate; the bundle is written even if it did not pass, so that it can be looked into.
    """
    refuse_overwrite(target, force=force)
    quantized: QuantizedNetwork | OnnxOnlyNetwork
    step: Callable[[], StepGraph] | None = None
    if quantization_recipe(checkpoint.recipe.calibration, choices).scheme.mode == "dynamic":
        quantized = quantize_for_onnxruntime(checkpoint, training, choices)
        simulation = None
    else:
        quantized = quantize_checkpoint(checkpoint, training, choices)
        _say_coverage(checkpoint, quantized, probe)
        simulation, step = quantized.simulate, partial(getattr, quantized, "step")
    with staged_directory(target, force=force) as staged:
        write_quantized(staged, checkpoint, quantized)
        bundle = open_bundle(staged)
        say("climbing the parity ladder")
        side = replace(torch_side(checkpoint, simulation=simulation), step=step, recovered=True)
        stages = run_ladder(bundle, probe[:LADDER_CLIPS], torch_side=side)
        document = certificate(bundle, stages)
        write_certificate(bundle, document, render_card(bundle, document))
    return document


def torch_side(checkpoint: Checkpoint, *, simulation: Any = None) -> TorchSide:
    """The float network of a checkpoint as functions on feature streams."""
    import torch

    module = checkpoint.module

    def offline(features: Features) -> Features:
        with torch.no_grad():
            logits, _ = module(torch.from_numpy(features)[None], module.initial_state(1))
        result: Features = logits[0].numpy()
        return result

    def streaming(features: Features) -> Features:
        state, parts = module.initial_state(1), []
        with torch.no_grad():
            for step in torch.split(torch.from_numpy(features)[None], module.step_frames, dim=1):
                logits, state = module(step, state)
                parts.append(logits[0].numpy())
        return np.concatenate(parts)

    def step() -> StepGraph:
        from edgeaudio_export.network import frozen_copy
        from edgeaudio_export.step_graph import export_step

        return export_step(frozen_copy(module))

    return TorchSide(offline=offline, streaming=streaming, simulation=simulation, step=step)


def quantize_checkpoint(
    checkpoint: Checkpoint, training: Examples, choices: ExportChoices, *, calibration: Calibration | None = None
) -> QuantizedNetwork:
    """Calibrate a checkpoint on some of its training clips and quantize it as chosen.

    ``calibration`` is what an earlier call observed on the same network and clips; the chosen method reads its ranges
    from there, and nothing is rolled out again.
    """
    from edgeaudio_export.quantize import quantize_network

    streams = _calibration_streams(checkpoint, training, choices)
    chosen = quantization_recipe(checkpoint.recipe.calibration, choices)
    spec = chosen.calibration
    say(
        f"quantizing {checkpoint.name} to {chosen.method} by {choices.backend}, {len(streams)} calibration clips, "
        f"ranges by {spec.method}"
    )
    with one_torch_thread(), progress_bar("calibrating") as progress:
        return quantize_network(
            checkpoint.module,
            streams,
            backend=choices.backend,
            recipe=chosen,
            calibration=None if calibration is None else calibration.by(spec),
            name=checkpoint.name,
            progress=progress,
        )


def quantize_for_onnxruntime(checkpoint: Checkpoint, training: Examples, choices: ExportChoices) -> OnnxOnlyNetwork:
    """Quantize a checkpoint by a method that ONNX Runtime alone computes."""
    from edgeaudio_export.foreign.onnx_only import quantize_onnx_only
    from edgeaudio_export.foreign.quantize import step_model_of_network

    streams = _calibration_streams(checkpoint, training, choices)
    chosen = quantization_recipe(checkpoint.recipe.calibration, choices)
    say(f"quantizing {checkpoint.name} to {chosen.method} by onnxruntime, {len(streams)} clips for its boundary")
    with one_torch_thread(), progress_bar("calibrating") as progress:
        step = step_model_of_network(checkpoint.module, streams)
        quantized = quantize_onnx_only(step, streams, recipe=chosen, name=checkpoint.name, progress=progress)
    for line in quantized.warnings():
        say(line)
    return quantized


def _calibration_streams(checkpoint: Checkpoint, training: Examples, choices: ExportChoices) -> Sequence[Features]:
    return calibration_streams(
        checkpoint.features,
        training.waveforms,
        n_clips=choices.clips or checkpoint.recipe.calibration.clips,
        step_frames=checkpoint.module.step_frames,
    )


def quantization_recipe(recipe: CalibrationRecipe, choices: ExportChoices) -> QuantizationRecipe:
    """What the choices come to: ``choices.quantization``, or the defaults with the calibration of a checkpoint's
    ``recipe``; then whatever is chosen singly.

    Raises:
        SpecError: A percentile without the calibration that has one.
        ExportError: Choices that do not go together.
    """
    from edgeaudio_export.calibration import CalibrationSpec
    from edgeaudio_export.quantization_recipe import QuantizationRecipe, decode

    scheme = decode(choices.method or "static_w8a8")
    chosen = choices.quantization or QuantizationRecipe(
        calibration=CalibrationSpec(
            method=recipe.method,  # type: ignore[arg-type]
            percentile=recipe.percentile,
            momentum=recipe.momentum,
        ),
        # Other methods quantize no activation in advance, so there is nothing to recover.
        recovery=recipe.recovery if scheme.mode == "static" else (),
    )
    method = choices.calibration or chosen.calibration.method
    if choices.percentile is not None and method != "percentile":
        raise SpecError(f"percentile={choices.percentile:g} does not go with calibration={method!r}; leave it out")
    percentile = chosen.calibration.percentile if choices.percentile is None else choices.percentile
    return replace(
        chosen,
        calibration=replace(chosen.calibration, method=method, percentile=percentile),  # type: ignore[arg-type]
        method=choices.method or chosen.method,
        recovery=chosen.recovery if choices.recovery is None else choices.recovery,
    )


def _say_coverage(checkpoint: Checkpoint, quantized: QuantizedNetwork, probe: Sequence[Int16]) -> None:
    """Whether other levels, noise, clipping and silence stay within the calibrated ranges, in a few lines on stderr."""
    from edgeaudio_export.calibration.coverage import coverage

    activations = quantized.recipe.scheme.activations
    if activations == "float32":
        return
    conditions = probe_conditions(checkpoint.features, probe, step_frames=checkpoint.module.step_frames)
    params = quantized.calibration.params(activations, symmetric=quantized.recipe.symmetric(activations))
    with one_torch_thread():
        report = coverage(quantized.step, quantized.calibration, conditions, params=params)
    for line in report.summary():
        say(line)


def write_quantized(
    directory: Path,
    checkpoint: Checkpoint,
    quantized: QuantizedNetwork | OnnxOnlyNetwork,
    *,
    float_reference: bool = True,
) -> None:
    """Fill an empty directory with the bundle of a quantized checkpoint; nothing is proven yet.

    ``float_reference=False`` leaves ``model.float.onnx`` out; proving the bundle then takes the checkpoint.
    """
    from edgeaudio_export.bundle_writer import BundleContents, write_bundle
    from edgeaudio_models.corpora import BACKGROUND_LABELS

    module = checkpoint.module
    contents = BundleContents(
        name=checkpoint.name,
        task=checkpoint.task,
        labels=checkpoint.labels,
        background_labels=tuple(label for label in checkpoint.labels if label in BACKGROUND_LABELS),
        features=checkpoint.features,
        graph=quantized.graph,
        float_onnx=quantized.float_onnx if float_reference else None,
        latency_frames=module.latency_frames,
        receptive_field_frames=module.receptive_field_frames,
        window_frames=checkpoint.window_frames,
        quantization=_quantization(checkpoint, quantized),
        decoding=_decoding(checkpoint),
        provenance=_provenance(checkpoint),
        golden_samples=golden_samples(checkpoint.labels, checkpoint.features.sample_rate),
    )
    write_bundle(directory, contents, say=say)


def _quantization(checkpoint: Checkpoint, quantized: QuantizedNetwork | OnnxOnlyNetwork) -> Quantization:
    return Quantization(
        backend=quantized.backend,
        method=quantized.recipe.method,
        calibration={**quantized.calibration.facts().to_dict(), **calibration_facts(checkpoint.features)},
        requantization=quantized.graph.requantization,
        recipe=recipe_facts(quantized),
    )


def recipe_facts(quantized: QuantizedNetwork | OnnxOnlyNetwork) -> dict[str, Any]:
    """The whole recipe, what its recovery steps did, and what keeps the network with ONNX Runtime."""
    from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork

    values = quantized.recipe.to_dict()
    if isinstance(quantized, OnnxOnlyNetwork):
        return {**values, **quantized.facts()}
    return values if quantized.recovery is None else {**values, "recovered": quantized.recovery.to_dict()}


def _decoding(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.task == "keyword":
        from edgeaudio_runtime.detector_config import DetectorConfig

        return DetectorConfig.from_dict({"schema_version": 1, **checkpoint.recipe.detector}).to_dict()
    from edgeaudio_runtime.ctc_decoder import DecoderConfig

    # Labels that are words are told apart by spaces, characters stand side by side.
    words = any(len(label) > 1 for label in checkpoint.labels[1:])
    return DecoderConfig(separator=" " if words else "").to_dict()


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    from edgeaudio_models.architectures import count_parameters
    from edgeaudio_models.recipe_text import format_recipe

    return {
        **checkpoint.provenance,
        "recipe": format_recipe(checkpoint.recipe),
        "architecture": checkpoint.architecture,
        "parameters": count_parameters(checkpoint.module),
        "training_metrics": dict(checkpoint.metrics),
        "edgeaudio": metadata.version("edgeaudio"),
    }


def golden_samples(labels: Sequence[str], sample_rate: int) -> Int16:
    """What the self-test replays: words of the model said by SVOX Pico where it is installed, else sweeps and noise.

    No recording of a person travels in a bundle.
    """
    from edgeaudio_models.corpora import BACKGROUND_LABELS
    from edgeaudio_models.errors import SynthesisError
    from edgeaudio_models.synthesis import synthesize_scene

    words = [label for label in labels if label not in BACKGROUND_LABELS and label.replace(" ", "").isalpha()]
    try:
        return synthesize_scene(words[:3] or ["hello"], gap_s=0.7, seed=1, sample_rate=sample_rate).samples
    except SynthesisError:
        return _sweep(sample_rate)


def _sweep(sample_rate: int, seconds: float = 3.0) -> Int16:
    time = np.arange(int(sample_rate * seconds)) / sample_rate
    tone = np.sin(2 * np.pi * (80 + 600 * time) * time) * np.clip(np.sin(2 * np.pi * 2 * time), 0, 1)
    noise = np.random.default_rng(0).standard_normal(len(time))
    samples: Int16 = np.rint(8000 * tone + 60 * noise).astype(np.int16)
    return samples
