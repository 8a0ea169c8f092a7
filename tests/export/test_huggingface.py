"""Hugging Face directories compute here what transformers computes, on its own features, and say what they hear."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign import transformers_loading
from edgeaudio_export.foreign.huggingface import ARCHITECTURES, ast_features, read_huggingface
from edgeaudio_export.foreign.onnx_only import quantize_onnx_only
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.whisper import LogMel
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_runtime.features import PcmSpec
from edgeaudio_runtime.front_end import compute_features
from tests.huggingface_models import (
    KEYWORDS,
    LETTERS,
    WHISPER_SECONDS,
    WORDS,
    write_ast,
    write_classifier,
    write_ctc,
    write_whisper,
)

transformers: Any = pytest.importorskip("transformers", reason="needs pip install 'edgeaudio[huggingface]'")

RATE = 16_000
AST_ATOL = 1e-5
"""Features of about 1, after an affine: both sides compute the FFT in float64 and round once."""
WHISPER_ATOL = 1e-3
"""Features of about 1: a DFT in float32 is off by 1e-7 of the largest amplitude, which the logarithm of what lies 80 dB
below it magnifies."""
LOGITS_ATOL = 1e-4
"""Logits of about 1: torch and ONNX Runtime sum in other orders, through two layers of attention."""
AGREEMENT = 0.95
"""Part of the decisions of random weights, whose two best labels are often close, that int8 weights must keep."""


def speechlike(n_samples: int, seed: int = 0) -> np.ndarray:
    """Noise in syllables, int16."""
    rng, time = np.random.default_rng(seed), np.arange(n_samples) / RATE
    voice = rng.standard_normal(n_samples) + 4 * np.sin(2 * np.pi * (120 + 40 * np.sin(3 * time)) * time)
    return np.rint(2500 * voice * np.clip(np.sin(2 * np.pi * 3 * time), 0.01, 1)).clip(-32768, 32767).astype(np.int16)


def real(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) / 32768


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A directory of each kind, written once."""
    root, writers = tmp_path_factory.mktemp("huggingface"), {
        "ctc": write_ctc, "classifier": lambda path: write_classifier(path, "Hubert"), "ast": write_ast,
        "whisper": write_whisper,
    }  # fmt: skip

    def made(kind: str) -> Path:
        path = root / kind
        return path if path.is_dir() else writers[kind](path)

    return made


def run_float(step: StepModel, samples: np.ndarray, spec: Any) -> np.ndarray:
    features = compute_features(spec, samples, multiple_of=step.step_frames)
    return OnnxRunner(step.model, step, whole=step.whole).run_stream(features)


def agreement(step: StepModel, samples: np.ndarray, spec: Any) -> float:
    """Part of the outputs whose best label int8 weights keep."""
    features = compute_features(spec, samples, multiple_of=step.step_frames)
    recipe = QuantizationRecipe(method="dynamic_w8")
    quantized = quantize_onnx_only(step, [features], recipe=recipe, name="net")
    graph = quantized.graph
    assert graph.signature.input_quant == (step.features or graph.signature.input_quant)
    reference = OnnxRunner(step.model, step, whole=step.whole).run_stream(features)
    return float((quantized.simulate(features).argmax(axis=1) == reference.argmax(axis=1)).mean())


def test_a_ctc_network_hears_whole_recordings_as_transformers_does(folder: Callable[[str], Path]) -> None:
    model = read_huggingface(folder("ctc"))
    assert (model.task, model.listens) == ("ctc", "whole")
    assert model.features == PcmSpec(sample_rate=RATE, win_length=320, hop_length=320)
    # The blank, second in the vocabulary, comes first; the word delimiter is a space.
    assert model.labels == ("<pad>", "<s>", "</s>", "<unk>", " ", *"ETAON")
    samples = speechlike(320 * 5 * 11)
    step = model.build()
    found = run_float(step, samples, model.features)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder("ctc"))
    network = transformers.Wav2Vec2ForCTC.from_pretrained(folder("ctc")).eval()
    values = extractor(real(samples), sampling_rate=RATE, return_tensors="pt")["input_values"]
    with torch.no_grad():
        wanted = network(values).logits[0].numpy()
    # One output less than frames: the convolutions reach 80 samples beyond the last frame.
    assert len(found) == len(wanted) + 1
    order = [1, 0, *range(2, len(LETTERS))]
    np.testing.assert_allclose(found[:-1], wanted[:, order], atol=LOGITS_ATOL)
    np.testing.assert_array_equal(found[-1], found[-2])
    assert agreement(step, samples, model.features) >= AGREEMENT


def test_a_classifier_of_samples_hears_windows_as_transformers_does(folder: Callable[[str], Path]) -> None:
    model = read_huggingface(folder("classifier"), seconds=0.5)
    assert (model.task, model.listens, model.labels) == ("keyword", "windows", KEYWORDS)
    assert model.features == PcmSpec(sample_rate=RATE, win_length=160, hop_length=160)
    samples = speechlike(4 * RATE // 2)
    step = model.build()
    assert step.step_frames == 50
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder("classifier"))
    network = transformers.HubertForSequenceClassification.from_pretrained(folder("classifier")).eval()
    windows = real(samples).reshape(4, -1)
    values = extractor(list(windows), sampling_rate=RATE, return_tensors="pt")["input_values"]
    with torch.no_grad():
        wanted = torch.cat([network(value[None]).logits for value in values]).numpy()
    np.testing.assert_allclose(run_float(step, samples, model.features), wanted, atol=LOGITS_ATOL)
    assert agreement(step, samples, model.features) >= AGREEMENT


@pytest.mark.exact_int8
def test_a_spectrogram_transformer_hears_kaldi_features_as_transformers_does(folder: Callable[[str], Path]) -> None:
    model = read_huggingface(folder("ast"))
    assert (model.task, model.listens, model.labels) == ("keyword", "windows", KEYWORDS)
    assert model.notes == (
        "a recording shorter than 64 frames is heard between silence, where transformers puts zeros behind it",
    )
    step = model.build()
    samples = speechlike(400 + 63 * 160)
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder("ast"))
    network = transformers.ASTForAudioClassification.from_pretrained(folder("ast")).eval()
    values = extractor(real(samples), sampling_rate=RATE, return_tensors="pt")["input_values"]
    features = compute_features(model.features, samples)[:64]
    np.testing.assert_allclose(features, values[0].numpy(), atol=AST_ATOL)
    with torch.no_grad():
        wanted = network(values).logits.numpy()
    found = OnnxRunner(step.model, step).run_stream(features)
    np.testing.assert_allclose(found, wanted, atol=LOGITS_ATOL)
    assert agreement(step, speechlike(20 * RATE), model.features) >= AGREEMENT


# 128 filters over 257 bins leave some without a bin, in the published models too.
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning")
@pytest.mark.parametrize("changes", [{}, {"do_normalize": False}, {"num_mel_bins": 128, "mean": -3.0, "std": 2.0}])
def test_features_of_a_spectrogram_transformer_are_those_of_its_extractor(changes: dict[str, Any]) -> None:
    extractor = transformers.ASTFeatureExtractor(**{"max_length": 98, **changes})
    samples = speechlike(RATE)
    wanted = extractor(real(samples), sampling_rate=RATE, return_tensors="np")["input_values"][0]
    found = compute_features(ast_features(extractor), samples)[:98]
    np.testing.assert_allclose(found, wanted, atol=AST_ATOL * (1 if changes.get("do_normalize", True) else 10))


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_log_mel_inside_the_whisper_network_is_that_of_its_extractor(n_mels: int) -> None:
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels, chunk_length=3)
    samples = real(speechlike(2 * RATE))
    wanted = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"]
    padded = torch.from_numpy(np.pad(samples, (0, RATE)))[None]
    np.testing.assert_allclose(LogMel(extractor)(padded).numpy(), wanted, atol=WHISPER_ATOL)


def greedy(folder: Path, samples: np.ndarray, n_tokens: int) -> list[int]:
    """What transformers says token by token, by hand: the best one that is not suppressed, until the end."""
    network = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    values = extractor(real(samples), sampling_rate=RATE, return_tensors="pt")["input_features"]
    tokens = [len(WORDS)]
    for _ in range(n_tokens):
        with torch.no_grad():
            scores = network(values, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        scores[4] = -torch.inf
        tokens.append(int(scores.argmax()))
        if tokens[-1] == len(WORDS) + 1:
            break
    return tokens[1:]


@pytest.mark.exact_int8
def test_whisper_says_what_transformers_says_by_hand(folder: Callable[[str], Path]) -> None:
    model = read_huggingface(folder("whisper"))
    assert (model.task, model.listens, model.byte_level) == ("ctc", "steps", True)
    assert model.labels == ("<blank>", *WORDS)
    assert model.notes[0] == "hears 2 s at a time, one window after another, filled up with silence at the end"
    assert "prompt 'start', greedy decoding without a cache, at most 11 tokens in 2 s" in model.notes[1]
    step = model.build()
    assert (step.step_frames, step.outputs_per_step) == (WHISPER_SECONDS * 100, 22)
    for seed in range(3):
        samples = speechlike(WHISPER_SECONDS * RATE, seed)
        rows = run_float(step, samples, model.features).argmax(axis=1)
        wanted = [token for token in greedy(folder("whisper"), samples, 11) if token < len(WORDS)]
        assert wanted
        # A row for each token, label k + 1 for token k, and a blank behind it.
        assert rows[1::2].max() == 0
        assert [int(row) - 1 for row in rows[::2] if row] == wanted
    assert agreement(step, speechlike(3 * WHISPER_SECONDS * RATE), model.features) >= AGREEMENT


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def pretrained_body(path: Path) -> None:
    write_ctc(path)
    body = transformers.Wav2Vec2ForCTC.from_pretrained(path).wav2vec2
    body.save_pretrained(path)
    change(path / "config.json", architectures=["Wav2Vec2ForCTC"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: change(p / "config.json", architectures=["BertModel"]), "architecture 'BertModel' is none that is "),
        (lambda p: (p / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json; copy all files"),
        (lambda p: (p / "vocab.json").unlink(), "lacks vocab.json; copy all files of the model"),
        (lambda p: (p / "vocab.json").write_text("{"), "vocab.json is not JSON: "),
        (lambda p: (p / "vocab.json").write_text("[]"), "vocab.json must hold a JSON object"),
        (
            lambda p: (p / "vocab.json").write_text('{"eng": {"a": 0}}'),
            "vocab.json must map tokens to numbers",
        ),
        (
            lambda p: (p / "vocab.json").write_text('{"a": 0}'),
            r"vocab.json has no tokens for 9 of 10 outputs",
        ),
        (lambda p: (p / "model.safetensors").unlink(), "transformers cannot load it: "),
        (pretrained_body, r"its weights lack \['lm_head.bias', 'lm_head.weight'\]; Wav2Vec2ForCTC needs a model that"),
    ],
)
def test_a_directory_that_is_none_of_these_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    write_ctc(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ExportError, match=words) as caught:
        read_huggingface(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


def test_the_refusal_names_every_architecture_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ExportError, match=f"architecture 'bert' is none that is read; these are: {', '.join(ARCHITECTURES)}"
    ):
        read_huggingface(tmp_path)


def test_a_spectrogram_transformer_with_the_extractor_of_another_is_refused(tmp_path: Path) -> None:
    write_ast(tmp_path)
    change(tmp_path / "preprocessor_config.json", max_length=1024)
    with pytest.raises(ExportError, match="yields 1024 frames of 32, its network takes 64 of 32; take the two files"):
        read_huggingface(tmp_path)


def test_a_window_that_is_shorter_than_the_convolutions_is_refused(folder: Callable[[str], Path]) -> None:
    with pytest.raises(ExportError, match=r"seconds=0\.02 is too short a window for its convolutions"):
        read_huggingface(folder("classifier"), seconds=0.02)


def test_without_transformers_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["HubertForCTC"]}')

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(transformers_loading.importlib, "import_module", missing)
    with pytest.raises(ExportError, match=r"is not installed; run: pip install 'edgeaudio\[huggingface\]'"):
        read_huggingface(tmp_path)
