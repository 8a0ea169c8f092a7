"""From a ``.tflite`` model of elsewhere, as it is, to a proven bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.card import render_card
from edgeaudio.exporting import golden_samples
from edgeaudio.parity.certificate import certificate, write_certificate
from edgeaudio.parity.ladder import run_ladder
from edgeaudio.progress import say
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.quantization import QuantParams, dequantize
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

if TYPE_CHECKING:
    from edgeaudio_export.bundle_writer import BundleContents
    from edgeaudio_export.foreign.tflite import TfliteModel
    from edgeaudio_export.windows import Windows

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]

METHOD = "as_is"
"""Quantization method of a model that came as it is."""
FEATURE_HEADROOM = 1.1
"""Range of float features over what silence and full scale were heard to give."""
LOGIT_HEADROOM = 4.0
"""Range of float logits over the largest of a probe: real words move a network further than noise."""
_PROBE_SECONDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TfliteSource:
    """A ``.tflite`` file and what it does not say of itself."""

    path: Path
    features: FeatureSpec
    """Front end it was trained with; one that looks at the whole recording is allowed for a model without state."""
    labels: tuple[str, ...]
    """In the order of its output."""
    task: str = "keyword"
    """"keyword" or "ctc"."""
    hop_frames: int | None = None
    """Feature frames from one window to the next, for a model without state; None takes about a quarter of a window."""
    licence: str | None = None
    """SPDX identifier of the model's licence."""


def export_tflite(source: TfliteSource, target: Path, *, clips: Sequence[Int16] = (), force: bool = False) -> Any:
    """Write the bundle of a ``.tflite`` model, unchanged, with its certificate and card.

    Args:
        source: The file and what belongs to it.
        target: Directory to write.
        clips: Recordings at the rate of the front end: for the ladder, and for the range of a float model's output.
        force: Replace ``target``.

    Returns:
        The certificate; the bundle is written even if it did not pass, so that it can be looked into.

    Raises:
        ExportError: The file is no such model, or not of this front end and these labels.
        SpecError: The model cannot run in a stream as it was asked for.
    """
    from edgeaudio_export.bundle_writer import write_bundle
    from edgeaudio_export.foreign.tflite import read_tflite

    refuse_overwrite(target, force=force)
    model = read_tflite(source.path, features=source.features, labels=source.labels)
    windows = plan(source, model)
    say(how_it_listens(source, model, windows))
    if model.float_tensors:
        model = with_ranges(model, source.features, [*clips, _golden(source)])
    with staged_directory(target, force=force) as staged:
        write_bundle(staged, _contents(source, model, windows), say=say)
        bundle = open_bundle(staged)
        say("climbing the parity ladder")
        document = certificate(bundle, run_ladder(bundle, clips))
        write_certificate(bundle, document, render_card(bundle, document))
    return document


def plan(source: TfliteSource, model: TfliteModel) -> Windows | None:
    """Where the windows of a model without state lie; None for one that has it.

    Raises:
        SpecError: What was asked for does not go with the model.
    """
    from edgeaudio_export.windows import plan_windows

    if not model.streams:
        if source.task == "ctc":
            raise SpecError(f"{source.path}: task='ctc' needs a model with states; windows overlap, and repeat labels")
        return plan_windows(source.features, model.signature.step_frames, hop_frames=source.hop_frames)
    if source.hop_frames is not None:
        raise SpecError(f"{source.path}: hop_frames={source.hop_frames} is for a model without states; leave it out")
    if not source.features.streamable:
        raise SpecError(f"{source.path}: has states, but the front end looks at the whole recording; take its preset")
    return None


def how_it_listens(source: TfliteSource, model: TfliteModel, windows: Windows | None) -> str:
    """One line: windows or a stream, whether states are seen or hidden, logits or probabilities."""
    frame_ms = 1000 * source.features.hop_length / source.features.sample_rate
    output = "probabilities" if model.has_probabilities else "logits"
    if windows is not None:
        how = f"windows of {windows.input_frames * frame_ms:g} ms every {windows.hop_frames * frame_ms:g} ms"
        how += "" if source.features.streamable else ", of whole recordings"
    else:
        kept = "state it keeps inside, so that a reset loads it anew" if model.hidden_state else "explicit states"
        how = f"streams in steps of {model.signature.step_frames * frame_ms:g} ms with {kept}"
    return f"{source.path.name}: {how}; its output are {output}"


def with_ranges(model: TfliteModel, features: FeatureSpec, clips: Sequence[Int16]) -> TfliteModel:
    """The model with int16 codes in front of its float features and behind its float logits.

    Args:
        model: With float tensors at its boundary.
        features: Its front end: silence and full scale say how far features reach.
        clips: Recordings that, beside noise, say how far logits reach.
    """
    probe = [*clips, *extremes(features.sample_rate)]
    heard = [compute_features(features, clip) for clip in probe if len(clip)]
    signature = model.signature
    if "features" in model.float_tensors:
        low, high = min(float(x.min()) for x in heard), max(float(x.max()) for x in heard)
        signature = replace(signature, input_quant=_codes_between(low, high, FEATURE_HEADROOM))
        model = replace(model, signature=signature)
    if "logits" in model.float_tensors:
        reach = 1.0 if model.has_probabilities else LOGIT_HEADROOM * _largest_logit(model, heard)
        quant = QuantParams(scale=(reach / 32767,), dtype="int16")
        model = replace(model, signature=replace(signature, output_quant=quant))
    return model


def _codes_between(low: float, high: float, headroom: float) -> QuantParams:
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-6) * headroom
    scale = half / 32767
    return QuantParams(scale=(scale,), zero_point=int(np.clip(round(-middle / scale), -32768, 32767)), dtype="int16")


def _largest_logit(model: TfliteModel, heard: Sequence[Float32]) -> float:
    """By doubling a range until nothing is at its end; a probe through the engine itself."""
    from edgeaudio_runtime.quantization import quantize

    reach = 8.0
    while True:
        quant = QuantParams(scale=(reach / 32767,), dtype="int16")
        session = replace(model, signature=replace(model.signature, output_quant=quant)).program().session()
        largest = 0.0
        for features in heard:
            whole = len(features) // model.signature.step_frames * model.signature.step_frames
            answers = session.run(quantize(features[:whole], model.signature.input_quant))
            largest = max(largest, float(np.abs(dequantize(answers, quant)).max(initial=0.0)))
        if largest < reach * (1 - 1e-3):
            return max(largest, 1e-3)
        reach *= 4


def extremes(sample_rate: int) -> list[Int16]:
    """Silence, the loudest noise and the loudest square wave there can be."""
    n = _PROBE_SECONDS * sample_rate
    sign = np.where(np.random.default_rng(0).random(n) < 0.5, -32768, 32767)
    wave = np.where(np.arange(n) // 32 % 2, -32768, 32767)
    return [np.zeros(n, np.int16), sign.astype(np.int16), wave.astype(np.int16)]


def _contents(source: TfliteSource, model: TfliteModel, windows: Windows | None) -> BundleContents:
    from edgeaudio_export.bundle_writer import BundleContents

    keyword = source.task == "keyword"
    return BundleContents(
        name=source.path.stem,
        task=source.task,
        labels=source.labels,
        background_labels=tuple(label for label in source.labels if _is_background(label)) if keyword else (),
        features=source.features,
        graph=model,
        float_onnx=None,
        latency_frames=0,
        receptive_field_frames=_reach(source, model),
        window_frames=_reach(source, model) if keyword else None,
        quantization=Quantization(backend="foreign", method=METHOD, calibration={}, recipe=_facts(model)),
        decoding=_decoding(source),
        provenance=_provenance(source, model),
        golden_samples=_golden(source),
        windows=windows,
        output="probabilities" if model.has_probabilities else "logits",
    )


def _reach(source: TfliteSource, model: TfliteModel) -> int:
    """Frames an output is taken to depend on: its window, or of a model with state a second."""
    second = round(source.features.sample_rate / source.features.hop_length)
    return max(model.signature.step_frames, second) if model.streams else model.signature.step_frames


def _is_background(label: str) -> bool:
    return label.strip("_").lower() in ("silence", "unknown", "background", "noise")


def _facts(model: TfliteModel) -> dict[str, Any]:
    kept = [{"operation": None, "count": None, "reason": "the file format it came in"}]
    in_float = {"features": "float32"} if model.float_tensors else {}
    return {
        "method": METHOD,
        "only_for": "litert",
        "kept_by": kept,
        "float_operations": {},
        "operations": dict(model.operations),
        "boundary": in_float,
    }


def _decoding(source: TfliteSource) -> dict[str, Any]:
    if source.task == "keyword":
        from edgeaudio_runtime.detector_config import DetectorConfig

        return DetectorConfig().to_dict()
    from edgeaudio_runtime.ctc_decoder import DecoderConfig

    return DecoderConfig(separator=" " if any(len(label) > 1 for label in source.labels[1:]) else "").to_dict()


def _provenance(source: TfliteSource, model: TfliteModel) -> dict[str, Any]:
    return {
        "architecture": f"TensorFlow Lite model {source.path.name}",
        "parameters": model.parameters,
        "licence": source.licence or "unknown",
        "source_sha256": hashlib.sha256(model.model).hexdigest(),
        "sources": [],
        "edgeaudio": metadata.version("edgeaudio"),
    }


def _golden(source: TfliteSource) -> Int16:
    spoken = [label.lower().replace("_", " ") for label in source.labels if not _is_background(label)]
    return golden_samples(spoken, source.features.sample_rate)
