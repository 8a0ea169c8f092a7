"""Whisper: log-mel, encoder and a greedy loop over the decoder in one ONNX model, thirty seconds of samples in.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). The loop calls the decoder anew on
all tokens so far (no cache): simple, and for the tens of tokens of a sentence cheap beside the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import OPSET_INT16
from edgeaudio_export.foreign.reader import prepared
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.torch_program import onnx_of_program
from edgeaudio_export.foreign.transformers_loading import Parts, read_json
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_runtime.features import PcmSpec
from edgeaudio_runtime.quantization import QuantParams

BLANK = "<blank>"
MOST_TOKENS = 128
"""Tokens in a window; people say about eighty in thirty seconds."""
TOKEN_LOGIT = 8.0
"""Logit of the token that the loop chose; those of all others are 0."""
LOG_FLOOR, DYNAMIC_RANGE = 1e-10, 8.0
"""Of ``WhisperFeatureExtractor``: floor of the power under log10, and how far below the maximum a value may lie."""


@dataclass(frozen=True, kw_only=True)
class Whisper:
    """What a Whisper directory comes to."""

    spec: PcmSpec
    """Frames of one hop of the log-mel."""
    labels: tuple[str, ...]
    """The blank, then all tokens that are text, in the byte-level alphabet."""
    build: Callable[[], StepModel]
    """Trace and compose it."""
    notes: tuple[str, ...]
    """For the card."""


def read_whisper(parts: Parts, *, features: QuantParams) -> Whisper:
    """What a directory of ``WhisperForConditionalGeneration`` holds.

    Raises:
        ExportError: No vocabulary, or one that is not the network's.
    """
    extractor, config = parts.extractor, parts.config
    prompt, words = prompt_of(parts)
    n_tokens = min(MOST_TOKENS, config.max_target_positions - len(prompt))
    numbers, labels = _text_tokens(parts.folder, config.vocab_size)
    spec = PcmSpec(
        sample_rate=int(extractor.sampling_rate),
        win_length=int(extractor.hop_length),
        hop_length=int(extractor.hop_length),
    )
    loop = GreedyLoop(
        prompt=prompt, end=int(config.eos_token_id), n_tokens=n_tokens, label_of_token=numbers, n_labels=len(labels),
        suppressed=_suppressed(parts, "suppress_tokens"), suppressed_first=_suppressed(parts, "begin_suppress_tokens"),
    )  # fmt: skip
    seconds = extractor.n_samples / extractor.sampling_rate
    notes = (
        f"hears {seconds:g} s at a time, one window after another, filled up with silence at the end",
        f"prompt {words}, greedy decoding without a cache, at most {n_tokens} tokens in {seconds:g} s",
    )
    return Whisper(spec=spec, labels=labels, build=lambda: _step_model(parts, spec, loop, features), notes=notes)


@dataclass(frozen=True, kw_only=True)
class GreedyLoop:
    """How the decoder is asked."""

    prompt: tuple[int, ...]
    """Tokens it begins with."""
    end: int
    """Token that ends the text."""
    n_tokens: int
    """Most tokens that follow the prompt."""
    label_of_token: npt.NDArray[np.int64]
    """Label of each token, 0 (the blank) for those that are no text."""
    n_labels: int
    """Labels, the blank counted."""
    suppressed: tuple[int, ...]
    """Tokens that are never chosen."""
    suppressed_first: tuple[int, ...]
    """Tokens that are not chosen first."""


def prompt_of(parts: Parts) -> tuple[tuple[int, ...], str]:
    """Tokens in front of the text, and how they read: English, transcribed, no timestamps where there is a choice."""
    generation, start = parts.model.generation_config, int(parts.config.decoder_start_token_id)
    languages = getattr(generation, "lang_to_id", None) or {}
    tasks = getattr(generation, "task_to_id", None) or {}
    prompt, words = [start], ["start"]
    if "<|en|>" in languages:
        prompt.append(languages["<|en|>"])
        words.append("English")
    if "transcribe" in tasks:
        prompt.append(tasks["transcribe"])
        words.append("transcribe")
    plain = getattr(generation, "no_timestamps_token_id", None)
    if plain is not None:
        prompt.append(plain)
        words.append("no timestamps")
    return tuple(int(token) for token in prompt), f"'{', '.join(words)}'"


def _suppressed(parts: Parts, name: str) -> tuple[int, ...]:
    tokens = getattr(parts.model.generation_config, name, None) or ()
    return tuple(int(token) for token in tokens if 0 <= token < parts.config.vocab_size)


def _text_tokens(folder: Path, size: int) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Label of each token, and the labels; tokens beyond ``vocab.json`` and those like ``<|this|>`` are no text."""
    tokens = {number: token for token, number in read_json(folder / "vocab.json").items() if number < size}
    text = [n for n, token in sorted(tokens.items()) if token and not (token.startswith("<|") and token.endswith("|>"))]
    if not text:
        raise ExportError("vocab.json names none of the tokens of the network")
    numbers = np.zeros(size, np.int64)
    numbers[text] = np.arange(1, len(text) + 1)
    return numbers, (BLANK, *(tokens[number] for number in text))


class LogMel(nn.Module):
    """``WhisperFeatureExtractor`` on samples ``[1, n_samples]``: log-mel ``[1, n_mels, n_samples / hop]``.

    The DFT is a convolution, so that ONNX needs no complex numbers; its matrix is computed in float64.
    """

    dft: Tensor
    mel: Tensor

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        n_fft, self.hop_length = int(extractor.n_fft), int(extractor.hop_length)
        angles = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        basis = np.concatenate([np.cos(angles), np.sin(angles)]) * window
        self.n_fft = n_fft
        self.register_buffer("dft", torch.from_numpy(basis[:, None]).float(), persistent=False)
        filters = np.asarray(extractor.mel_filters, np.float32)
        self.register_buffer("mel", torch.from_numpy(filters.T[:, :, None].copy()), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """See the class."""
        edge = self.n_fft // 2
        padded = functional.pad(samples[:, None], (edge, edge), mode="reflect")
        # The extractor drops the last frame, which hangs over the end.
        real, imaginary = functional.conv1d(padded, self.dft, stride=self.hop_length)[:, :, :-1].chunk(2, dim=1)
        mel = functional.conv1d(real * real + imaginary * imaginary, self.mel)
        log = torch.clamp(mel, min=LOG_FLOOR).log10()
        return (torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE) + 4.0) / 4.0


class _Encoder(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.log_mel, self.encoder = LogMel(parts.extractor), parts.model.model.encoder

    def forward(self, features: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(self.log_mel(features.reshape(1, -1))).last_hidden_state
        return hidden


class _Decoder(nn.Module):
    """Scores of the token that follows ``tokens [1, n]``: ``[1, vocabulary]``."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.decoder, self.proj_out = parts.model.model.decoder, parts.model.proj_out

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        states = self.decoder(input_ids=tokens, encoder_hidden_states=hidden, use_cache=False).last_hidden_state
        scores: Tensor = self.proj_out(states[:, -1])
        return scores


def _step_model(parts: Parts, spec: PcmSpec, loop: GreedyLoop, features: QuantParams) -> StepModel:
    frames = int(parts.extractor.n_samples) // spec.hop_length
    encoder, decoder = _traced(parts, frames, spec.hop_length)
    return StepModel(
        model=compose(encoder, decoder, loop),
        step_frames=frames,
        n_features=spec.hop_length,
        outputs_per_step=2 * loop.n_tokens,
        n_labels=loop.n_labels,
        state_names=(),
        state_shapes=(),
        features=features,
        float_operations=("Conv",),
    )


def _traced(parts: Parts, frames: int, hop_length: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Encoder and decoder as ONNX: ``features -> hidden`` and ``(tokens, memory) -> scores``."""
    config = parts.config
    samples = torch.zeros(1, frames, hop_length)
    tokens = torch.ones(1, 5, dtype=torch.int64)
    hidden = torch.zeros(1, config.max_source_positions, config.d_model)
    length = torch.export.Dim("tokens", min=1, max=config.max_target_positions)
    try:
        with quiet_torch(), torch.no_grad():
            encoder = torch.export.export(_Encoder(parts).eval(), (samples,), strict=False)
            decoder = torch.export.export(
                _Decoder(parts).eval(), (tokens, hidden), dynamic_shapes=({1: length}, None), strict=False
            )
    except Exception as error:
        raise ExportError(f"torch.export cannot trace it: {str(error).splitlines()[0]}") from error
    return (
        prepared(onnx_of_program(encoder, ["features"], ["hidden"], opset=OPSET_INT16)),
        prepared(onnx_of_program(decoder, ["tokens", "memory"], ["scores"], opset=OPSET_INT16)),
    )


def compose(encoder: onnx.ModelProto, decoder: onnx.ModelProto, loop: GreedyLoop) -> onnx.ModelProto:
    """One model ``features -> logits [1, 2 * n_tokens, n_labels]``: a row for each token and a blank behind it.

    Rows behind the end of the text are blanks. So the greedy decoder of CTC reads what the loop chose, repeats too.
    """
    _prefix(encoder.graph, "encoder_", keep=("features", "hidden"))
    _prefix(decoder.graph, "decoder_", keep=("tokens", "memory", "scores"))
    graph = encoder.graph
    body = _body(decoder.graph, loop)
    nodes = [
        *graph.node,
        helper.make_node(
            "Loop", ["limit", "true", "prompt", "hidden"], ["said", "memory_last"], name="greedy", body=body
        ),
        *_rows(loop),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2 * loop.n_tokens, loop.n_labels))
    model = helper.make_model(
        helper.make_graph(nodes, "whisper", list(graph.input), [logits], [*graph.initializer, *_constants(loop)]),
        opset_imports=[helper.make_opsetid("", OPSET_INT16)], ir_version=encoder.ir_version,
    )  # fmt: skip
    onnx.checker.check_model(model)
    return model


def _body(decoder: onnx.GraphProto, loop: GreedyLoop) -> onnx.GraphProto:
    """One turn: ``(turn, go_on, tokens, memory) -> (go_on, tokens and the best next one, memory)``.

    The memory goes in and out, although it stays the same: quantizers sort nodes by what they see a node read.
    """
    node = helper.make_node
    nodes = [
        *decoder.node,
        node("Equal", ["turn", "zero"], ["is_first"]),
        node("Where", ["is_first", "penalty_first", "penalty"], ["penalty_now"]),
        node("Add", ["scores", "penalty_now"], ["allowed"]),
        node("ArgMax", ["allowed"], ["best"], axis=1, keepdims=1),
        node("Concat", ["tokens", "best"], ["tokens_after"], axis=1),
        node("Equal", ["best", "end"], ["is_end"]),
        node("Not", ["is_end"], ["goes_on"]),
        node("Reshape", ["goes_on", "scalar"], ["go_on_after"]),
        node("Identity", ["memory"], ["memory_after"]),
    ]
    for i, entry in enumerate(nodes):
        entry.name = entry.name or f"greedy_{i}"
    boolean, integer = TensorProto.BOOL, TensorProto.INT64
    memory = tuple(dimension.dim_value for dimension in decoder.input[1].type.tensor_type.shape.dim)
    carried = [("tokens", integer, (1, None)), ("memory", TensorProto.FLOAT, memory)]
    inputs = [("turn", integer, ()), ("go_on", boolean, ()), *carried]
    outputs = [("go_on_after", boolean, ()), *((f"{name}_after", *rest) for name, *rest in carried)]
    values = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    return helper.make_graph(nodes, "turn", *values, [*decoder.initializer, *_body_constants(loop)])


def _rows(loop: GreedyLoop) -> list[onnx.NodeProto]:
    """Tokens behind the prompt as rows of logits."""
    node = helper.make_node
    specs = [
        node("Concat", ["said", "filling"], ["filled"], axis=1),
        node("Slice", ["filled", "text_begin", "text_end", "time_axis"], ["text"]),
        node("Gather", ["label_of_token", "text"], ["labels"]),
        node("Mul", ["labels", "blank"], ["blanks"]),
        node("Unsqueeze", ["labels", "last_axis"], ["labels_column"]),
        node("Unsqueeze", ["blanks", "last_axis"], ["blanks_column"]),
        node("Concat", ["labels_column", "blanks_column"], ["pairs"], axis=2),
        node("Reshape", ["pairs", "rows_shape"], ["rows"]),
        node("OneHot", ["rows", "n_labels", "off_and_on"], ["logits"], axis=-1),
    ]
    for entry in specs:
        entry.name = f"rows_{entry.output[0]}"
    return specs


def _constants(loop: GreedyLoop) -> list[onnx.TensorProto]:
    """What the loop and the rows read."""
    n_prompt = len(loop.prompt)
    integers = {
        "limit": loop.n_tokens, "blank": 0, "prompt": [loop.prompt], "filling": np.full((1, loop.n_tokens), loop.end),
        "text_begin": [n_prompt], "text_end": [n_prompt + loop.n_tokens], "time_axis": [1], "last_axis": [2],
        "label_of_token": _without_end(loop), "rows_shape": [1, 2 * loop.n_tokens], "n_labels": loop.n_labels,
    }  # fmt: skip
    return [
        *(numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in integers.items()),
        numpy_helper.from_array(np.array([0, TOKEN_LOGIT], np.float32), "off_and_on"),
        numpy_helper.from_array(np.asarray(True), "true"),
    ]


def _body_constants(loop: GreedyLoop) -> list[onnx.TensorProto]:
    """What a turn reads; inside, since ONNX Runtime infers shapes there from constants that it finds there."""
    penalty = _penalty(len(loop.label_of_token), loop.suppressed)
    values: dict[str, npt.NDArray[Any]] = {
        "zero": np.asarray(0, np.int64), "end": np.asarray(loop.end, np.int64), "scalar": np.zeros(0, np.int64),
        "penalty": penalty, "penalty_first": penalty + _penalty(len(loop.label_of_token), loop.suppressed_first),
    }  # fmt: skip
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _without_end(loop: GreedyLoop) -> npt.NDArray[np.int64]:
    numbers = loop.label_of_token.copy()
    numbers[loop.end] = 0
    return numbers


def _penalty(size: int, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    penalty = np.zeros((1, size), np.float32)
    penalty[0, list(tokens)] = -1e9
    return penalty


def _prefix(graph: onnx.GraphProto, prefix: str, *, keep: Sequence[str]) -> None:
    """Names of their own for all edges and nodes of a graph but those of ``keep``."""

    def renamed(name: str) -> str:
        return name if not name or name in keep else prefix + name

    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for entry in (*graph.initializer, *graph.input, *graph.output):
        entry.name = renamed(entry.name)
    del graph.value_info[:]
