"""From a float network of elsewhere (an ONNX file, a torch program, a module) to a proven bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import CALIBRATION_SEED, calibration_facts, calibration_streams
from edgeaudio.card import render_card
from edgeaudio.exporting import LADDER_CLIPS, ExportChoices, golden_samples, quantization_recipe, recipe_facts
from edgeaudio.parity.certificate import certificate, write_certificate
from edgeaudio.parity.ladder import one_torch_thread, run_ladder
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.presets import PRESETS, preset, windowed_preset
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory
from edgeaudio_runtime.stream import MAX_WINDOWED_SAMPLES

if TYPE_CHECKING:
    from onnx import GraphProto

    from edgeaudio_export.bundle_writer import BundleContents
    from edgeaudio_export.foreign.huggingface import HuggingFaceModel
    from edgeaudio_export.foreign.module import UserModule
    from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork
    from edgeaudio_export.foreign.step_model import StepModel
    from edgeaudio_export.network import StreamingNetwork
    from edgeaudio_export.quantize import QuantizedNetwork
    from edgeaudio_export.windows import Windows

Features = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

CALIBRATION_CLIPS = 512
"""Calibration clips where the caller does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignModel:
    """A float step model of elsewhere, and what it does not say of itself."""

    path: Path
    """File or directory that it came from; the callable's name for a module."""
    features: FeatureSpec
    """Front end it was trained with."""
    labels: tuple[str, ...]
    """In the order of its logits."""
    task: str = "keyword"
    """"keyword" or "ctc"."""
    step_frames: int | None = None
    """Feature frames a step takes, where the file leaves it open."""
    window_frames: int | None = None
    """Feature frames a decision rests on; None measures the receptive field."""
    hop_frames: int | None = None
    """Feature frames from one window to the next, for a model without states; None takes about a quarter of one."""
    licence: str | None = None
    """SPDX identifier of the model's licence."""
    module: UserModule | None = None
    """The model itself, where a callable returned it."""
    huggingface: HuggingFaceModel | None = None
    """The model itself, where it came from a Hugging Face directory."""

    @property
    def name(self) -> str:
        """For people."""
        if self.module is not None:
            return self.module.name
        return self.path.resolve().name if self.huggingface is not None else self.path.stem

    @property
    def network(self) -> StreamingNetwork | None:
        """The model as a network that streams by itself, where it is one."""
        return None if self.module is None else self.module.network


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationData:
    """What the ranges are found on, and recordings that never calibrate."""

    streams: Sequence[Features] | None = None
    """Features ``[T, n_features]``; None computes them from ``clips``."""
    clips: Sequence[Int16] = ()
    """Recordings at the rate of the front end."""
    at_levels: bool = True
    """Whether ``clips`` are heard louder and softer by turns, or as they are."""
    held_out: Sequence[Int16] = ()
    """Other recordings, for the ladder or a diagnosis."""


def export_onnx(
    model: ForeignModel, data: CalibrationData, target: Path, *, choices: ExportChoices, force: bool = False
) -> dict[str, Any]:
    """Write the bundle of a foreign model with its certificate and card.

    Args:
        model: The file and what belongs to it.
        data: For calibration.
        target: Directory to write.
        choices: Backend, method and calibration.
        force: Replace ``target``.

    Returns:
        The certificate; the bundle is written even if it did not pass, so that it can be looked into.
    """
    from edgeaudio_export.bundle_writer import write_bundle

    refuse_overwrite(target, force=force)
    step = read_step(model)
    windows = plan(model, step)
    for line in (f"{model.path}: {how_it_listens(model, step, windows)}", *notes_of(model)):
        say(line)
    quantized = quantize_onnx(model, step, data, choices)
    with staged_directory(target, force=force) as staged:
        write_bundle(staged, _contents(model, step, windows, quantized, data), say=say)
        bundle = open_bundle(staged)
        say("climbing the parity ladder")
        document = certificate(bundle, run_ladder(bundle, data.held_out))
        write_certificate(bundle, document, render_card(bundle, document))
    return document


def read_step(model: ForeignModel) -> StepModel:
    """The network step of the model, held against the front end and the labels.

    Raises:
        ExportError: Not a step model, or not of this front end and these labels.
    """
    sizes: dict[str, Any] = {
        "n_features": model.features.n_features,
        "n_labels": len(model.labels),
        "step_frames": model.step_frames,
    }
    if model.huggingface is not None:
        return model.huggingface.build()
    if model.module is not None:
        return model.module.step_model(**sizes)
    if model.path.suffix == ".pt2":
        from edgeaudio_export.foreign.torch_program import read_program

        return read_program(model.path, **sizes)
    from edgeaudio_export.foreign.reader import read_step_model

    return read_step_model(model.path, **sizes)


def plan(model: ForeignModel, step: StepModel) -> Windows | None:
    """Where the windows of a keyword model without states lie; None for what streams, or hears whole recordings.

    Raises:
        SpecError: A hop for a model that has no overlapping windows, or one longer than a window.
    """
    from edgeaudio_export.windows import plan_windows

    if model.task == "keyword" and not step.state_names and not step.whole:
        return plan_windows(model.features, step.step_frames, hop_frames=model.hop_frames)
    if model.hop_frames is not None:
        raise SpecError(
            f"{model.path}: hop_frames={model.hop_frames} is for a keyword model without states; leave it out"
        )
    return None


def how_it_listens(model: ForeignModel, step: StepModel, windows: Windows | None) -> str:
    """In words: a stream, windows, or whole recordings."""
    frame_s = model.features.hop_length / model.features.sample_rate
    if step.whole:
        return f"whole recordings of up to {MAX_WINDOWED_SAMPLES // model.features.sample_rate} s"
    if windows is not None:
        return f"windows of {windows.input_frames * frame_s:g} s, one every {windows.hop_frames * frame_s:g} s"
    if step.state_names:
        return f"streams in steps of {step.step_frames * frame_s:g} s"
    return f"windows of {step.step_frames * frame_s:g} s, one after another"


def notes_of(model: ForeignModel) -> tuple[str, ...]:
    """What a user must know beside."""
    return () if model.huggingface is None else model.huggingface.notes


def quantize_onnx(
    model: ForeignModel, step: StepModel, data: CalibrationData, choices: ExportChoices
) -> QuantizedNetwork | OnnxOnlyNetwork:
    """Calibrate a foreign model and quantize it as chosen; what keeps it with ONNX Runtime goes to stderr."""
    from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork
    from edgeaudio_export.foreign.quantize import quantize_foreign
    from edgeaudio_models.recipe import CalibrationRecipe

    recipe = quantization_recipe(CalibrationRecipe(), _for_quantized(model, step, choices))
    streams = data.streams
    if streams is None and not data.at_levels:
        streams = [compute_features(model.features, clip, multiple_of=step.step_frames) for clip in data.clips]
    if streams is None:
        n_clips = choices.clips or CALIBRATION_CLIPS
        streams = calibration_streams(model.features, data.clips, n_clips=n_clips, step_frames=step.step_frames)
    say(f"quantizing {model.name} to {recipe.method} by {choices.backend}, {len(streams)} calibration clips")
    with one_torch_thread(), progress_bar("calibrating") as progress:
        quantized = quantize_foreign(
            step, streams, recipe=recipe, backend=choices.backend, name=model.name, network=model.network,
            progress=progress,
        )  # fmt: skip
    if isinstance(quantized, OnnxOnlyNetwork):
        for line in quantized.warnings():
            say(line)
    return quantized


def _for_quantized(model: ForeignModel, step: StepModel, choices: ExportChoices) -> ExportChoices:
    """The choices, of which a model that was quantized elsewhere needs none."""
    from edgeaudio_export.foreign.step_model import is_quantized

    if not is_quantized(step) or choices.method == "float32":
        return choices
    if choices.method is not None or choices.quantization is not None:
        raise SpecError(f"{model.path}: is quantized already and stays as it is; leave --method and --recipe out")
    return replace(choices, method="float32")


def _contents(
    model: ForeignModel,
    step: StepModel,
    windows: Windows | None,
    quantized: QuantizedNetwork | OnnxOnlyNetwork,
    data: CalibrationData,
) -> BundleContents:
    from edgeaudio_export.bundle_writer import BundleContents
    from edgeaudio_export.foreign.step_model import makes_probabilities
    from edgeaudio_models.corpora import BACKGROUND_LABELS

    field = _receptive_field(model, step)
    source = (
        {"levels_db": None, "seed": None} if data.streams or not data.at_levels else calibration_facts(model.features)
    )
    return BundleContents(
        name=model.name,
        task=model.task,
        labels=model.labels,
        background_labels=tuple(label for label in model.labels if label in BACKGROUND_LABELS),
        features=model.features,
        graph=quantized.graph,
        float_onnx=quantized.float_onnx,
        latency_frames=int(getattr(model.network, "latency_frames", 0)),
        receptive_field_frames=field,
        window_frames=(model.window_frames or field) if model.task == "keyword" else None,
        quantization=Quantization(
            backend=quantized.backend,
            method=quantized.recipe.method,
            calibration={**quantized.calibration.facts().to_dict(), **source},
            requantization=quantized.graph.requantization,
            recipe=recipe_facts(quantized),
        ),
        decoding=_decoding(model),
        provenance=_provenance(model, step, windows),
        windows=windows,
        whole=step.whole,
        output="probabilities" if makes_probabilities(step) else "logits",
        golden_samples=golden_samples(model.labels, model.features.sample_rate),
    )


def _receptive_field(model: ForeignModel, step: StepModel) -> int:
    if step.whole:
        return MAX_WINDOWED_SAMPLES // model.features.hop_length
    if not step.state_names:
        return step.step_frames
    from edgeaudio_export.foreign.receptive_field import receptive_field_frames

    return receptive_field_frames(step)


def _decoding(model: ForeignModel) -> dict[str, Any]:
    if model.task == "keyword":
        from edgeaudio_runtime.detector_config import DetectorConfig

        return DetectorConfig().to_dict()
    from edgeaudio_runtime.ctc_decoder import DecoderConfig

    if model.huggingface is not None:
        return DecoderConfig(byte_level=model.huggingface.byte_level).to_dict()
    return DecoderConfig(separator=" " if any(len(label) > 1 for label in model.labels[1:]) else "").to_dict()


def _provenance(model: ForeignModel, step: StepModel, windows: Windows | None) -> dict[str, Any]:
    digest = _digest(model.path)
    return {
        "architecture": _architecture(model),
        "parameters": _n_parameters(step.model.graph),
        "listens": how_it_listens(model, step, windows),
        "notes": list(notes_of(model)),
        "licence": model.licence or "unknown",
        **({} if digest is None else {"source_sha256": digest}),
        "edgeaudio": metadata.version("edgeaudio"),
    }


def _n_parameters(graph: GraphProto) -> int:
    """Values of the float constants of a graph, the bodies of its loops counted."""
    own = sum(int(np.prod(entry.dims)) for entry in graph.initializer if entry.data_type == _FLOAT)
    bodies = (entry.g for node in graph.node for entry in node.attribute if entry.name == "body")
    return own + sum(_n_parameters(body) for body in bodies)


_FLOAT = 1
"""``onnx.TensorProto.FLOAT``."""


def _architecture(model: ForeignModel) -> str:
    if model.huggingface is not None:
        return f"{model.huggingface.architecture} of {model.name}"
    if model.module is not None:
        return f"torch module {model.path.name}"
    return f"{'torch.export program' if model.path.suffix == '.pt2' else 'ONNX model'} {model.path.name}"


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, or of the weights and configuration of a directory in the order of their names."""
    inside = [file for file in path.glob("*.*") if file.suffix in (".safetensors", ".bin", ".json")]
    files = [path] if path.is_file() else sorted(inside)
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def probe_data(model: ForeignModel) -> CalibrationData:
    """What stands for recordings where a model is taken as it is: words, silence, and the loudest there can be; they
    say how far features and logits reach.
    """
    from edgeaudio.tflite_exporting import extremes

    golden = golden_samples(model.labels, model.features.sample_rate)
    return CalibrationData(clips=[golden, *extremes(model.features.sample_rate)], at_levels=False)


def read_front_end(text: str | Mapping[str, Any] | FeatureSpec) -> FeatureSpec:
    """A preset by its name, its original that looks at the whole recording by "windowed:" and the name, or a feature
    specification from a JSON file; one that is there already stays.

    Raises:
        SpecError: Neither, or a specification that needs the whole recording.
    """
    if not isinstance(text, str):
        return text if isinstance(text, FeatureSpec) else FeatureSpec.from_dict(text)
    if text in PRESETS:
        return preset(text)
    if text.startswith("windowed:"):
        return windowed_preset(text.removeprefix("windowed:"))
    path = Path(text)
    if not path.is_file():
        raise SpecError(f"front-end={text!r} must be a file of JSON, or one of {sorted(PRESETS)}")
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SpecError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: must hold an object with the fields of a feature specification")
    return FeatureSpec.from_dict(values)


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels of a text file, one a line in the order of the logits.

    Raises:
        SpecError: No label, or one twice.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: must be text in UTF-8, one label a line") from error
    return check_labels(str(path), [line.strip() for line in lines if line.strip()])


def check_labels(source: str, labels: Sequence[str]) -> tuple[str, ...]:
    """``labels`` of ``source``, if there is at least one and each stands there once; else raise SpecError."""
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if not labels or twice:
        raise SpecError(f"{source}: labels={twice or list(labels)} must be at least one, each once, one a line")
    return tuple(labels)


def read_calibration_features(path: Path, n_features: int) -> CalibrationData:
    """Features of a ``.npy`` file: float32 ``[clips, T, n_features]`` or one stream ``[T, n_features]``.

    Raises:
        SpecError: Not such a file.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise SpecError(f"{path}: not a .npy file of numbers; write it with numpy.save") from error
    if array.ndim not in (2, 3) or array.dtype != np.float32 or array.shape[-1] != n_features:
        raise SpecError(f"{path}: holds {array.dtype}{list(array.shape)}, must be float32 [clips, T, {n_features}]")
    return CalibrationData(streams=list(array if array.ndim == 3 else array[None]))


def load_calibration_clips(
    folder: Path, spec: FeatureSpec, n_clips: int | None, cache: Path | None, *, held_out: int = LADDER_CLIPS
) -> CalibrationData:
    """Recordings of any corpus the loaders know, drawn with a fixed seed: ``n_clips`` that calibrate and ``held_out``
    others; of a smaller corpus at most every second clip is held out.
    """
    from edgeaudio_models.corpora import load_waveforms, open_corpus
    from edgeaudio_models.recipe_data import CLIP_SECONDS

    clips = open_corpus(folder).clips
    wanted = min(len(clips), (n_clips or CALIBRATION_CLIPS) + held_out)
    chosen = [clips[i] for i in np.random.default_rng(CALIBRATION_SEED).permutation(len(clips))[:wanted]]
    rate = spec.sample_rate
    with progress_bar("loading clips") as progress:
        waveforms = load_waveforms(
            chosen, sample_rate=rate, n_samples=CLIP_SECONDS * rate, cache_folder=cache, progress=progress
        )
    calibrating = wanted - min(held_out, wanted // 2)
    return CalibrationData(clips=list(waveforms[:calibrating]), held_out=list(waveforms[calibrating:]))
