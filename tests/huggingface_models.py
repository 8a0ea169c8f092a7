"""Tiny Hugging Face directories with weights at random, as ``save_pretrained`` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
LETTERS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ETAON"]
"""The blank is not the first of them."""
KEYWORDS = ("yes", "no", "stop", "_unknown_")
WORDS = ["!", "Ġone", "Ġtwo", "Ġthree", "Ċ", "Ã©", "Ġfour"]
"""In the byte-level alphabet: a space is Ġ, and é is two bytes."""
WHISPER_SECONDS = 2


def _transformers() -> Any:
    import transformers

    transformers.logging.disable_progress_bar()
    return transformers


def _save(folder: Path, model: Any, extractor: Any, vocabulary: list[str] | None = None) -> Path:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger logits than the initializers': what is compared must be above the rounding of float32.
            if name.endswith(("lm_head.weight", "classifier.weight", "classifier.dense.weight")):
                parameter.normal_(std=1.0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    if vocabulary is not None:
        numbers = {token: number for number, token in enumerate(vocabulary)}
        (folder / "vocab.json").write_text(json.dumps(numbers), "utf-8")
    return folder


def write_ctc(folder: Path, kind: str = "Wav2Vec2") -> Path:
    """A ``Wav2Vec2ForCTC`` or ``HubertForCTC``."""
    hf = _transformers()
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(vocab_size=len(LETTERS), pad_token_id=1, **SIZES, **CONVOLUTIONS)
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True)
    return _save(folder, getattr(hf, f"{kind}ForCTC")(config), extractor, LETTERS)


def write_classifier(folder: Path, kind: str = "Wav2Vec2") -> Path:
    """A ``Wav2Vec2ForSequenceClassification`` or the same of HuBERT."""
    hf = _transformers()
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(
        id2label=dict(enumerate(KEYWORDS)), classifier_proj_size=16, **SIZES, **CONVOLUTIONS
    )
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True)
    return _save(folder, getattr(hf, f"{kind}ForSequenceClassification")(config), extractor)


def write_ast(folder: Path, frames: int = 64, n_mels: int = 32) -> Path:
    """An ``ASTForAudioClassification``."""
    hf = _transformers()
    torch.manual_seed(0)
    config = hf.ASTConfig(max_length=frames, num_mel_bins=n_mels, id2label=dict(enumerate(KEYWORDS)), **SIZES)
    return _save(
        folder, hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor(max_length=frames, num_mel_bins=n_mels)
    )


def write_whisper(folder: Path) -> Path:
    """A ``WhisperForConditionalGeneration`` that hears :data:`WHISPER_SECONDS` seconds."""
    hf = _transformers()
    torch.manual_seed(0)
    start, end = len(WORDS), len(WORDS) + 1
    config = hf.WhisperConfig(
        vocab_size=len(WORDS) + 2, num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=50 * WHISPER_SECONDS, max_target_positions=12, decoder_start_token_id=start,
        eos_token_id=end, pad_token_id=end, bos_token_id=end, init_std=0.3,
    )  # fmt: skip
    model = hf.WhisperForConditionalGeneration(config)
    model.generation_config = hf.GenerationConfig(decoder_start_token_id=start, eos_token_id=end, suppress_tokens=[4])
    extractor = hf.WhisperFeatureExtractor(feature_size=80, chunk_length=WHISPER_SECONDS)
    return _save(folder, model, extractor, [*WORDS, "<|startoftranscript|>", "<|endoftext|>"])
