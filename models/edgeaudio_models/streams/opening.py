"""Training data from a stream, by the names a user gives: tar shards, or a data set of the Hugging Face library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeaudio_models.corpora import SILENCE
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streams.clip_stream import ClipStream, EncodedClip
from edgeaudio_models.streams.hugging_face import HuggingFaceStream
from edgeaudio_models.streams.shards import ShardStream, expand_braces
from edgeaudio_models.streams.window import ClipWindow, wanted_label
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

HUGGING_FACE = "hf:"
MAX_VALIDATION_CLIPS = 50_000
"""Validation clips are held in memory: 1.6 GB at one second each."""
SILENT_SHARE = 0.1
"""Silent clips among those of validation, where the network has that label: as many as in Speech Commands."""


def is_stream(source: str) -> bool:
    """Whether a ``--data`` value names a stream: ``hf:...``, or something that ends in ``.tar``."""
    return source.startswith(HUGGING_FACE) or source.endswith(".tar")


def open_stream(source: str, *, split: str, seed: int, labels: tuple[str, ...]) -> ClipStream:
    """The stream that ``source`` names: ``hf:NAME_OR_FOLDER``, with ``#SPLIT`` for another split, or tar shards.

    Raises:
        CorpusError: There is no such data set, split or column, or the braces of a shard pattern are wrong.
    """
    if not source.startswith(HUGGING_FACE):
        return ShardStream(expand_braces(source), seed=seed, labels=labels)
    name, _, named_split = source.removeprefix(HUGGING_FACE).partition("#")
    return HuggingFaceStream(name, split=named_split or split, seed=seed)


def load_stream_data(recipe: Recipe, source: str, validation: str | None) -> TrainingData:
    """Training data whose clips come from a stream while the training goes on; validation is read whole.

    Args:
        recipe: What is wanted; ``training.steps_per_epoch`` must be set and ``training.shuffle_buffer`` hold a batch.
        source: As :func:`open_stream` takes it.
        validation: Another stream to choose by; None takes the split "validation" of a ``hf:`` source.

    Raises:
        SpecError: The recipe has no steps an epoch or too small a buffer, or tar shards come without validation.
        CorpusError: As the streams, or validation has a speaker of the training clips.
    """
    _check(recipe, source, validation)
    labels, seed = recipe.corpus.labels, recipe.training.seed
    chosen_by = validation or source
    heard = _everything(recipe, open_stream(chosen_by, split="validation", seed=seed, labels=labels))
    examples, speakers = _examples(recipe, heard)
    stream = open_stream(source, split="train", seed=seed, labels=labels)
    rate = preset(recipe.features.preset).sample_rate
    window = ClipWindow(
        stream,
        labels=labels,
        sample_rate=rate,
        n_samples=round(recipe.corpus.clip_seconds * rate),
        size=recipe.training.shuffle_buffer,
        held_out=speakers,
    )
    window.move_to(0)
    provenance = {"corpus": stream.identity, "sources": [{"name": source, "licence": "unstated", "citation": ""}]}
    return TrainingData(train=window.examples, validation=examples, provenance=provenance, window=window)


def _check(recipe: Recipe, source: str, validation: str | None) -> None:
    training = recipe.training
    if recipe.corpus.kind != "recordings":
        raise SpecError(f"corpus.kind={recipe.corpus.kind!r} must be 'recordings' to train on a stream")
    if not training.steps_per_epoch:
        raise SpecError(
            "training.steps_per_epoch=0 must be >= 1 for a stream, which has no length; set it in the recipe"
        )
    if training.shuffle_buffer < training.batch_size:
        rule = f"must be >= training.batch_size={training.batch_size}"
        raise SpecError(f"training.shuffle_buffer={training.shuffle_buffer} {rule} for a stream")
    if validation is None and not source.startswith(HUGGING_FACE):
        raise SpecError(f"data={source!r} has no validation split; name other shards with --validation")


def _everything(recipe: Recipe, stream: ClipStream) -> list[EncodedClip]:
    heard: list[EncodedClip] = []
    for clip in stream.clips(0):
        if wanted_label(clip.label, recipe.corpus.labels):
            heard.append(clip)
        if len(heard) > MAX_VALIDATION_CLIPS:
            rule = f"must be <= {MAX_VALIDATION_CLIPS}, they are held in memory"
            raise CorpusError(f"{stream.identity}: clips of validation {rule}; name fewer shards")
    if not heard:
        raise CorpusError(f"{stream.identity}: no clip has one of the labels {list(recipe.corpus.labels)}")
    return heard


def _examples(recipe: Recipe, heard: Sequence[EncodedClip]) -> tuple[Examples, frozenset[str]]:
    """Decoded clips with silent ones beside them, and who speaks."""
    labels, rate = recipe.corpus.labels, preset(recipe.features.preset).sample_rate
    n_samples = round(recipe.corpus.clip_seconds * rate)
    names = [wanted_label(clip.label, labels) for clip in heard]
    lacks_silence = SILENCE in labels and SILENCE not in names
    n_silent = max(1, round(SILENT_SHARE * len(heard))) if lacks_silence else 0
    waveforms = np.zeros((len(heard) + n_silent, n_samples), np.int16)
    for row, clip in zip(waveforms, heard, strict=False):
        row[:] = clip.decode(sample_rate=rate, n_samples=n_samples)
    index = np.array([labels.index(name) for name in [*names, *[SILENCE] * n_silent]], np.int64)
    return Examples(waveforms=waveforms, label_indices=index), frozenset(c.speaker for c in heard if c.speaker)
