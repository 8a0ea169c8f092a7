"""The clips a recipe asks for, as arrays: recordings opened and decoded, or words synthesized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio_models.audio_files import Int16, read_audio
from edgeaudio_models.corpora import (
    BACKGROUND_LABELS,
    Clip,
    Corpus,
    Source,
    join_corpora,
    label_by_word,
    load_waveforms,
    open_corpus,
    require_sound,
)
from edgeaudio_models.errors import CorpusError, SynthesisError
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.synthesis import SynthesizedCorpus, Synthesizer, installed_synthesizers, synthesize_corpus
from edgeaudio_models.synthesis.further import every_synthesizer
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

VALIDATION_PERCENT = 10
"""Share of the speakers (or clips) set aside where a corpus has no splits of its own."""
CLIP_SECONDS = 1
"""Length of a clip where no recipe says otherwise: the averaging window of the keyword networks."""
_AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus")

BLANK_LABEL = "<blank>"
"""Name of the label of CTC that stands for no word."""

Progress = Callable[[int, int], None]


def load_training_data(
    recipe: Recipe, *, data_folder: Path | None, cache_folder: Path | None, progress: Progress | None = None
) -> TrainingData:
    """Training and validation clips of a recipe; the test split is not touched.

    Args:
        recipe: What is wanted.
        data_folder: The corpus of recordings; None for a recipe that synthesizes.
        cache_folder: Where decoded and synthesized clips are kept; None keeps nothing.
        progress: Called with (clips done, clips in all).

    Raises:
        SpecError: The recipe wants recordings and no folder is given.
        CorpusError: The corpus is empty, lacks a label or a split, or has a speaker in two splits.
        SynthesisError: No synthesizer is installed, or an unknown one is named.
    """
    if recipe.corpus.kind == "wake_word":
        from edgeaudio_models.wake_word.corpus import load_wake_word_data

        return load_wake_word_data(recipe, background=data_folder, cache_folder=cache_folder, progress=progress)
    if recipe.corpus.kind == "synthesis":
        return _synthesized(recipe, cache_folder, progress)
    if data_folder is None:
        raise SpecError(f"recipe {recipe.name!r} trains on recordings; give their folder with --data")
    recorded = _recorded(recipe, data_folder, cache_folder, progress)
    if recipe.corpus.kind == "recordings":
        return recorded
    return with_further_clips(recorded, _synthesized(recipe, cache_folder, progress))


def with_further_clips(data: TrainingData, more: TrainingData) -> TrainingData:
    """``data`` with all clips of ``more`` to learn from too, its validation clips included; chosen by as before."""
    parts = (data.train, more.train, more.validation)
    train = Examples(
        waveforms=np.concatenate([part.waveforms for part in parts]),
        label_indices=np.concatenate([part.label_indices for part in parts]),
        voices=tuple(voice for part in parts for voice in part.voices),
    )
    provenance = {
        "corpus": f"{data.provenance['corpus']} + {more.provenance['corpus']}",
        "sources": [*data.provenance["sources"], *more.provenance["sources"]],
    }
    return replace(data, train=train, provenance=provenance)


def chosen_synthesizers(names: Sequence[str]) -> tuple[Synthesizer, ...]:
    """The installed synthesizers of these names; all of them for an empty list.

    Raises:
        SynthesisError: One is unknown or not installed.
    """
    installed = {each.name: each for each in (every_synthesizer() if names else installed_synthesizers())}
    missing = sorted(set(names) - set(installed))
    if missing or not installed:
        raise SynthesisError(
            f"synthesizers {missing or 'of any kind'} are not installed (there are {sorted(installed)}); "
            "run: pip install 'edgeaudio[synthesis]', and install flite as a program if it is named"
        )
    return tuple(installed[name] for name in names) if names else tuple(installed.values())


def _recorded(recipe: Recipe, folder: Path, cache: Path | None, progress: Progress | None) -> TrainingData:
    parts = _open_parts(recipe, folder)
    corpus = join_corpora(parts)
    require_sound(corpus)
    rate, labels = preset(recipe.features.preset).sample_rate, recipe.corpus.labels
    n_samples = round(recipe.corpus.clip_seconds * rate)

    def examples(part: Corpus) -> Examples:
        waveforms = load_waveforms(part, sample_rate=rate, n_samples=n_samples, cache_folder=cache, progress=progress)
        index = np.array([labels.index(clip.label) for clip in part.clips], dtype=np.int64)
        words = tuple(clip.word or clip.label for clip in part.clips)
        voices = tuple(f"{part.name}:{clip.speaker}" for clip in part.clips)
        return Examples(waveforms=waveforms, label_indices=index, words=words, voices=voices)

    return TrainingData(
        train=examples(corpus.select("train")),
        validation=examples(parts[0].select("validation")),
        noise=recorded_noise(recipe, folder, rate),
        provenance=_provenance(corpus.name, corpus.sources),
    )


def _open_parts(recipe: Recipe, folder: Path) -> list[Corpus]:
    """The corpora of a recipe, each with splits: those it names below ``folder``, or ``folder`` itself."""
    labels = tuple(label for label in recipe.corpus.labels if label != BLANK_LABEL)
    if not recipe.corpus.folders and recipe.task == "keyword":
        return [with_splits(open_corpus(folder, labels=labels))]
    folders = [folder / name for name in recipe.corpus.folders or ("",)]
    return [with_splits(label_by_word(open_corpus(each), labels)) for each in folders]


def with_splits(corpus: Corpus) -> Corpus:
    """The corpus; where it has no splits, one part is set aside by a hash of the speaker (else of the file)."""
    if corpus.splits:
        return corpus
    return replace(corpus, clips=tuple(replace(clip, split=drawn_split(clip)) for clip in corpus.clips))


def drawn_split(clip: Clip) -> str:
    """ "train" or, for ``VALIDATION_PERCENT`` of the speakers (or files), "validation"; by a hash of the name."""
    key = clip.speaker or clip.path.name
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "validation" if percent < VALIDATION_PERCENT else "train"


def recorded_noise(recipe: Recipe, folder: Path, rate: int) -> Int16 | None:
    """All noise that training may hear, joined; None where there is none."""
    files = [file for name in recipe.corpus.noise for file in _audio_files(folder / name)]
    used = [file for file in files if not file.name.startswith(recipe.corpus.noise_held_out or ("\0",))]
    if not used:
        return None
    return np.concatenate([read_audio(file, sample_rate=rate)[0] for file in used])


def _audio_files(path: Path) -> list[Path]:
    if not path.exists():
        raise CorpusError(f"{path}: no such noise folder; put recordings there or leave corpus.noise out of the recipe")
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in found if file.suffix.lower() in _AUDIO_SUFFIXES]


def _synthesized(recipe: Recipe, cache: Path | None, progress: Progress | None) -> TrainingData:
    labels = recipe.corpus.labels
    words = recipe.corpus.words or tuple(label for label in labels if label not in (*BACKGROUND_LABELS, BLANK_LABEL))
    spoken_only = not set(BACKGROUND_LABELS) <= set(labels)
    corpus = synthesize_corpus(
        words,
        recipe.corpus.clips_per_word,
        recipe.training.seed,
        cache,
        progress,
        synthesizers=chosen_synthesizers(recipe.corpus.synthesizers),
        n_unknown=0 if spoken_only else None,
        n_silence=0 if spoken_only else None,
        sample_rate=preset(recipe.features.preset).sample_rate,
    )
    index = np.array([labels.index(name) if name in labels else -1 for name in corpus.labels], dtype=np.int64)

    def examples(split: str) -> Examples:
        part: SynthesizedCorpus = corpus.select(split)
        # The engine's variants speak all its accents with the same throat.
        voices = tuple(voice.partition("+")[2] or voice for voice in part.voices)
        return Examples(waveforms=part.waveforms, label_indices=index[part.label_indices], voices=voices)

    provenance = _provenance("synthesized speech", corpus.sources)
    return TrainingData(train=examples("train"), validation=examples("validation"), provenance=provenance)


def _provenance(name: str, sources: Sequence[Source]) -> dict[str, Any]:
    return {"corpus": name, "sources": [asdict(source) for source in sources]}
