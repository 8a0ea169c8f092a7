"""Hugging Face directories: networks of ``transformers`` with the front end and labels that their directories name.

Networks on raw samples hear the features "pcm", and what their feature extractors do to a whole recording (zero mean,
unit variance) or to thirty seconds (Whisper's log-mel) is a part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.transformers_loading import Parts, load_parts, read_json
from edgeaudio_export.foreign.whole_program import whole_step_model
from edgeaudio_runtime.features import FeatureSpec, MelSpec, PcmSpec
from edgeaudio_runtime.quantization import QuantParams

SAMPLES = QuantParams(scale=(2.0**-15,), zero_point=0, dtype="int16")
"""Codes of raw samples: the samples themselves."""
CTC_STEP_FRAMES = 5
"""A recording is filled up with silence to a multiple of this many frames, so that none is too short."""
CLASSIFIER_FRAMES_A_SECOND = 100
"""Frames of raw samples for classifiers: 10 ms."""
NORMALIZATION_EPSILON = 1e-7
"""Of ``Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm``."""

Listens = Literal["whole", "windows", "steps"]


@dataclass(frozen=True, kw_only=True)
class HuggingFaceModel:
    """A network and all that its directory says of it."""

    architecture: str
    """Class of transformers."""
    features: FeatureSpec
    """What it hears."""
    labels: tuple[str, ...]
    """In the order of its logits; for ctc the blank comes first."""
    task: str
    """"keyword" or "ctc"."""
    listens: Listens
    """How it is run: on whole recordings, on overlapping windows, or on windows that follow each other."""
    build: Callable[[], StepModel]
    """Trace it; takes seconds."""
    byte_level: bool = False
    """Whether labels are spelt in the byte-level alphabet of GPT-2."""
    notes: tuple[str, ...] = ()
    """What a user must know, one line each."""


def read_huggingface(folder: Path, *, seconds: float = 1.0) -> HuggingFaceModel:
    """Read a directory that ``save_pretrained`` wrote.

    Args:
        folder: With ``config.json``, weights, ``preprocessor_config.json``, and a vocabulary for CTC and Whisper.
        seconds: Window of a classifier of raw samples.

    Raises:
        ExportError: transformers is not installed, the architecture is none of :data:`ARCHITECTURES`, or a file is
            missing or broken; one line that begins with the folder.
    """
    try:
        config = read_json(folder / "config.json")
        names = config.get("architectures") or [config.get("model_type")]
        if names[0] not in ARCHITECTURES:
            raise ExportError(f"architecture {names[0]!r} is none that is read; these are: {', '.join(ARCHITECTURES)}")
        reader = ARCHITECTURES[names[0]]
        return reader(load_parts(folder, names[0]), seconds)
    except ExportError as error:
        raise ExportError(f"{folder}: {error}") from error


def _ctc(parts: Parts, seconds: float) -> HuggingFaceModel:
    config, rate = parts.config, int(parts.extractor.sampling_rate)
    hop = prod(config.conv_stride)
    blank = config.pad_token_id
    tokens = _tokens(parts.folder, config.vocab_size)
    order = [blank, *(i for i in range(len(tokens)) if i != blank)]
    delimiter = parts.tokenizer_facts().get("word_delimiter_token", "|")
    labels = tuple(" " if tokens[i] == delimiter else tokens[i] for i in order)
    features = PcmSpec(sample_rate=rate, win_length=hop, hop_length=hop)
    missing = CTC_STEP_FRAMES - _n_outputs(config, CTC_STEP_FRAMES * hop)
    if not 0 <= missing < CTC_STEP_FRAMES:
        raise ExportError(f"conv_kernel={list(config.conv_kernel)} reaches too far for its strides; no CTC net does")
    network = _Recordings(parts.model, order=order, n_missing=missing, normalize=bool(parts.extractor.do_normalize))

    def build() -> StepModel:
        return whole_step_model(
            network, n_features=hop, n_labels=len(labels), step_frames=CTC_STEP_FRAMES, features=SAMPLES
        )

    return HuggingFaceModel(
        architecture=parts.architecture, features=features, labels=labels, task="ctc", listens="whole", build=build
    )


def _pcm_classifier(parts: Parts, seconds: float) -> HuggingFaceModel:
    rate = int(parts.extractor.sampling_rate)
    hop = rate // CLASSIFIER_FRAMES_A_SECOND
    frames = round(seconds * CLASSIFIER_FRAMES_A_SECOND)
    if frames < 1 or _n_outputs(parts.config, frames * hop) < 1:
        raise ExportError(f"seconds={seconds:g} is too short a window for its convolutions; 1 is usual")
    network = _Recordings(parts.model, order=None, n_missing=0, normalize=bool(parts.extractor.do_normalize))
    features = PcmSpec(sample_rate=rate, win_length=hop, hop_length=hop)
    return _classifier(parts, network, features, frames, quant=SAMPLES)


def _ast(parts: Parts, seconds: float) -> HuggingFaceModel:
    extractor = parts.extractor
    frames, n_mels = int(extractor.max_length), int(extractor.num_mel_bins)
    if (frames, n_mels) != (parts.config.max_length, parts.config.num_mel_bins):
        raise ExportError(
            f"its feature extractor yields {frames} frames of {n_mels}, its network takes {parts.config.max_length} of "
            f"{parts.config.num_mel_bins}; take the two files of one model"
        )
    model = _classifier(parts, _Frames(parts.model), ast_features(extractor), frames, quant=None)
    note = f"a recording shorter than {frames} frames is heard between silence, where transformers puts zeros behind it"
    return _with_note(model, note)


def ast_features(extractor: Any) -> MelSpec:
    """What ``ASTFeatureExtractor`` computes: Kaldi's filterbank of samples in -1..1 under a Hann window."""
    mean, std = (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0.0, 1.0)
    rate = int(extractor.sampling_rate)
    win_length, hop_length = rate * 25 // 1000, rate // 100
    return MelSpec(
        sample_rate=rate, win_length=win_length, hop_length=hop_length, n_fft=1 << (win_length - 1).bit_length(),
        n_mels=int(extractor.num_mel_bins), f_min=20.0, f_max=rate / 2, dc_removal="frame", preemphasis=0.97,
        preemphasis_first="self", window="hann", window_symmetry="symmetric", triangle_domain="mel",
        bin_rule="no_nyquist", log_floor=2.0**-23, log_floor_mode="max", affine_offset=-mean, affine_scale=1 / std,
    )  # fmt: skip


def _whisper(parts: Parts, seconds: float) -> HuggingFaceModel:
    from edgeaudio_export.foreign.whisper import read_whisper

    found = read_whisper(parts, features=SAMPLES)
    return HuggingFaceModel(
        architecture=parts.architecture, features=found.spec, labels=found.labels, task="ctc", listens="steps",
        build=found.build, byte_level=True, notes=found.notes,
    )  # fmt: skip


def _classifier(
    parts: Parts, network: nn.Module, features: FeatureSpec, frames: int, *, quant: QuantParams | None
) -> HuggingFaceModel:
    names: Mapping[int, str] = parts.config.id2label
    labels = tuple(names[i] for i in range(len(names)))

    def build() -> StepModel:
        from edgeaudio_export.foreign.torch_program import step_of_program, trace_module

        program = trace_module(network, step_frames=frames, n_features=features.n_features)
        step = step_of_program(program, n_features=features.n_features, n_labels=len(labels))
        return replace(step, features=quant, float_operations=("Conv",))

    return HuggingFaceModel(
        architecture=parts.architecture, features=features, labels=labels, task="keyword", listens="windows",
        build=build,
    )  # fmt: skip


def _with_note(model: HuggingFaceModel, note: str) -> HuggingFaceModel:
    return replace(model, notes=(*model.notes, note))


class _Recordings(nn.Module):
    """A network of raw samples, with the normalization of its feature extractor."""

    order: Tensor | None

    def __init__(self, model: Any, *, order: list[int] | None, n_missing: int, normalize: bool) -> None:
        super().__init__()
        self.model, self.n_missing, self.normalize = model, n_missing, normalize
        self.register_buffer("order", None if order is None else torch.tensor(order), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Frames ``[1, T, hop]`` to logits ``[1, T, labels]``, or ``[1, labels]`` of a classifier.

        The convolutions yield less than one output a frame at the end; the last one stands for those that are missing.
        """
        samples = features.reshape(1, -1)
        if self.normalize:
            variance = samples.var(dim=1, correction=0, keepdim=True)
            samples = (samples - samples.mean(dim=1, keepdim=True)) / torch.sqrt(variance + NORMALIZATION_EPSILON)
        logits: Tensor = self.model(samples).logits
        if self.order is not None:
            logits = logits.index_select(2, self.order)
        return torch.cat([logits, *[logits[:, -1:]] * self.n_missing], dim=1) if self.n_missing else logits


class _Frames(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model(features).logits
        return logits


def _n_outputs(config: Any, n_samples: int) -> int:
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        n_samples = (n_samples - kernel) // stride + 1
    return int(n_samples)


def _tokens(folder: Path, size: int) -> list[str]:
    """Tokens of ``vocab.json`` in the order of their numbers, those of ``added_tokens.json`` with them."""
    path = folder / "vocab.json"
    vocabulary = read_json(path)
    added = folder / "added_tokens.json"
    if added.is_file():
        vocabulary = {**read_json(added), **vocabulary}
    if not all(type(number) is int for number in vocabulary.values()):
        raise ExportError(f"{path.name} must map tokens to numbers; one of several languages must be chosen first")
    tokens = {number: token for token, number in vocabulary.items()}
    missing = sorted(set(range(size)) - set(tokens))
    if missing:
        raise ExportError(f"{path.name} has no tokens for {len(missing)} of {size} outputs, {missing[:3]} first")
    return [tokens[number] for number in range(size)]


ARCHITECTURES: Mapping[str, Callable[[Parts, float], HuggingFaceModel]] = {
    "Wav2Vec2ForCTC": _ctc,
    "HubertForCTC": _ctc,
    "Wav2Vec2ForSequenceClassification": _pcm_classifier,
    "HubertForSequenceClassification": _pcm_classifier,
    "ASTForAudioClassification": _ast,
    "WhisperForConditionalGeneration": _whisper,
}
"""Classes of transformers that are read, and by what."""
