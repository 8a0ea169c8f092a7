"""Train a wake word: once, then again with what the first network wrongly heard; then choose its threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16
from edgeaudio_models.checkpoint import Checkpoint, save_checkpoint
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training import CHECKPOINT_FOLDER, Progress, train
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_models.wake_word.background import joined
from edgeaudio_models.wake_word.corpus import (
    ABUTTING,
    GAP_SECONDS,
    WakeWordCorpus,
    longest_seconds,
    row_samples,
    rows_of,
    slow_rounds,
)
from edgeaudio_models.wake_word.mining import find_places, windows_at
from edgeaudio_models.wake_word.negatives import other_texts
from edgeaudio_models.wake_word.threshold import Threshold, choose_threshold
from edgeaudio_runtime.staging import refuse_overwrite

KERNEL_SECONDS = 1.0
"""Longest phrase that the kernels of the recipe are meant for; longer ones get longer kernels."""
REPLAYED = (1.0, 0.88, 1.14)
"""Rates at which the stream is searched: other voices in the same recordings."""

REPLAY_BLOCK = 1 << 20
"""Samples of the stream that are replayed at a time."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WakeWordRun:
    """What a training ends with."""

    checkpoint: Checkpoint
    """The network with its threshold, as written."""
    threshold: Threshold
    """How the threshold was chosen."""


def with_phrase(recipe: Recipe, phrase: str) -> Recipe:
    """The recipe for ``phrase``: named after it, with the phrase as its second label."""
    text = " ".join(phrase.lower().split())
    labels = (recipe.corpus.labels[0], text)
    weights = {label: factor for label, factor in recipe.training.label_weights.items() if label in labels}
    return replace(
        recipe,
        name=f"wake-word-{'-'.join(text.split())}",
        corpus=replace(recipe.corpus, labels=labels),
        training=replace(recipe.training, label_weights=weights),
        wake_word=replace(recipe.wake_word, phrase=text),
    )


def fitted_to(recipe: Recipe, corpus: WakeWordCorpus) -> Recipe:
    """The recipe with the length of its rows written down, and kernels long enough for the longest phrase.

    One that names the length was fitted before, or by hand, and stays as it is.
    """
    if recipe.wake_word.clip_seconds:
        return recipe
    rate = corpus.speakers.sample_rate
    longest = longest_seconds(corpus.positives, rate)
    parameters = dict(recipe.model.parameters)
    if "kernel_sizes" in parameters and longest > KERNEL_SECONDS:
        factor = longest / KERNEL_SECONDS
        parameters["kernel_sizes"] = [round(size * factor) for size in parameters["kernel_sizes"]]
    seconds = row_samples(recipe, corpus.positives) / rate
    return replace(
        recipe,
        model=replace(recipe.model, parameters=parameters),
        wake_word=replace(recipe.wake_word, clip_seconds=seconds),
    )


def train_wake_word(
    recipe: Recipe,
    corpus: WakeWordCorpus,
    output_dir: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> WakeWordRun:
    """Train, mine, train on, choose the threshold; leave ``output_dir/checkpoint``.

    Args:
        recipe: With its phrase, see :func:`with_phrase`.
        corpus: From ``corpus.gather`` of the same recipe.
        output_dir: Keeps the states of both trainings, ``first`` and ``second``: a killed run goes on.
        force: Replace an existing checkpoint.
        progress: See ``training.train``.
        say: Told in a line what begins.

    Raises:
        OutputError: ``output_dir`` holds a finished checkpoint and ``force`` is false.
    """
    refuse_overwrite(output_dir / CHECKPOINT_FOLDER, force=force)
    recipe = fitted_to(recipe, corpus)
    data = rows_of(recipe, corpus)
    _say_what(data, say)
    checkpoint = train(recipe, data, output_dir / "first", force=True, progress=progress)
    if recipe.wake_word.mined and recipe.wake_word.mining_epochs:
        checkpoint = _trained_on(checkpoint, recipe, corpus, data, output_dir / "second", progress, say)
    threshold = choose_threshold(checkpoint, data, corpus)
    say(threshold.summary())
    checkpoint = _with_threshold(checkpoint, recipe, threshold)
    save_checkpoint(checkpoint, output_dir / CHECKPOINT_FOLDER, force=force)
    return WakeWordRun(checkpoint=checkpoint, threshold=threshold)


def _trained_on(
    first: Checkpoint,
    recipe: Recipe,
    corpus: WakeWordCorpus,
    data: TrainingData,
    folder: Path,
    progress: Progress | None,
    say: Say,
) -> Checkpoint:
    """The network after a second, gentler training with what the first one wrongly heard; itself where that is
    nothing. Epochs are counted through both."""
    windows, hours = mine(first, mining_streams(recipe, corpus), n_windows=recipe.wake_word.mined)
    say(f"mined {len(windows)} windows out of {hours:.1f} hours without the phrase")
    mined = {"windows": len(windows), "hours_searched": hours}
    if not len(windows):
        return replace(first, provenance={**first.provenance, "mined": mined})
    epochs = recipe.wake_word.mining_epochs
    training = replace(
        recipe.training,
        epochs=epochs,
        averaged_epochs=min(epochs, recipe.training.averaged_epochs),
        learning_rate=recipe.training.learning_rate / 3.0,
        warmup=0.1,
    )
    settings = replace(recipe.wake_word, variants=max(1, recipe.wake_word.variants // 2))
    further = replace(recipe, training=training, wake_word=settings)
    more = with_windows(data, windows)
    second = train(further, more, folder, force=True, progress=progress, start=first.module)
    history = (*first.history, *(replace(row, epoch=row.epoch + len(first.history)) for row in second.history))
    chosen = {**second.metrics["validation"], "epoch": second.metrics["validation"]["epoch"] + len(first.history)}
    return replace(
        second,
        metrics={**second.metrics, "validation": chosen},
        provenance={**second.provenance, "mined": mined},
        history=history,
    )


def _say_what(data: TrainingData, say: Say) -> None:
    n_phrases = int(data.train.label_indices.sum())
    seconds = data.train.waveforms.shape[1] / 16_000
    say(f"{n_phrases} phrases and {len(data.train) - n_phrases} other streams of {seconds:.2f} s to learn from")


def mining_streams(recipe: Recipe, corpus: WakeWordCorpus) -> tuple[tuple[Int16, ...], ...]:
    """Long streams without the phrase, for each of ``REPLAYED``: words said anew, and the recorded speech and noise to
    learn from; the speech in another order each time, some of it without a pause between."""
    settings, voices = recipe.wake_word, corpus.speakers
    generator = np.random.default_rng([recipe.training.seed, 9])
    texts = other_texts(corpus.phrase, corpus.phonemizer, n_texts=settings.mining_clips, generator=generator)
    said = voices.say("mining", texts, settings.mining_clips, slow_rounds=slow_rounds("mining", corpus.phrase))
    pieces = [*said.train, *corpus.speech.train]
    rest = (corpus.negatives.train,) if corpus.noise is None else (corpus.negatives.train, corpus.noise)
    streams = []
    for turn in range(len(REPLAYED)):
        shuffled = [pieces[i] for i in generator.permutation(len(pieces))]
        spoken = joined(shuffled, gap_seconds=GAP_SECONDS, sample_rate=voices.sample_rate, seed=turn, abutting=ABUTTING)
        streams.append((spoken, *rest))
    return tuple(streams)


def mine(checkpoint: Checkpoint, streams: Sequence[Sequence[Int16]], *, n_windows: int) -> tuple[Int16, float]:
    """Windows with the highest scores over ``streams``, for each of ``REPLAYED`` some; and the hours searched."""
    module = checkpoint.module
    front_end = TorchFrontEnd(checkpoint.features, multiple_of=module.step_frames)
    rate = checkpoint.features.sample_rate
    n_samples = round(checkpoint.recipe.wake_word.clip_seconds * rate)
    found, searched = [], 0
    for stream in (_replayed(one, factor) for factor, each in zip(REPLAYED, streams, strict=True) for one in each):
        places = find_places(module, front_end, stream)[:n_windows]
        windows = windows_at(stream, places, n_samples=n_samples, sample_rate=rate)
        found += [(place.score, window) for place, window in zip(places, windows, strict=True)]
        searched += len(stream)
    found.sort(key=lambda each: -each[0])
    rows = [window for _, window in found[:n_windows]]
    return np.stack(rows) if rows else np.zeros((0, n_samples), np.int16), searched / rate / 3600


def _replayed(stream: Int16, factor: float) -> Int16:
    if factor == 1.0:
        return stream
    played = np.empty(round(len(stream) * factor), np.int16)
    for start in range(0, len(played), REPLAY_BLOCK):  # hours of double precision would be gigabytes
        places = np.arange(start, min(start + REPLAY_BLOCK, len(played))) / factor
        first = int(places[0])
        piece = stream[first : int(places[-1]) + 2]
        played[start : start + len(places)] = np.rint(np.interp(places, first + np.arange(len(piece)), piece))
    return played


def with_windows(data: TrainingData, windows: Int16) -> TrainingData:
    """The data with ``windows`` as further rows without the phrase."""
    train_part = Examples(
        waveforms=np.concatenate([data.train.waveforms, windows]),
        label_indices=np.concatenate([data.train.label_indices, np.zeros(len(windows), np.int64)]),
    )
    return replace(data, train=train_part)


def _with_threshold(checkpoint: Checkpoint, recipe: Recipe, threshold: Threshold) -> Checkpoint:
    detector = {**recipe.detector, "threshold": threshold.value}
    return replace(
        checkpoint,
        recipe=replace(recipe, detector=detector),
        metrics={**checkpoint.metrics, "threshold": threshold.to_dict()},
    )
