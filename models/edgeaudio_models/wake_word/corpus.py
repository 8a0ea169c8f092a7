"""The clips a wake word is trained on: the phrase, what is near it, other speech and noise, as rows of one length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio_models.audio_files import Int16, fit_length
from edgeaudio_models.corpora import Source
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.synthesis import Synthesizer
from edgeaudio_models.synthesis.corpus import MAX_LEVEL_DB, MIN_LEVEL_DB
from edgeaudio_models.synthesis.further import every_synthesizer
from edgeaudio_models.synthesis.noise import generate_silence
from edgeaudio_models.synthesis.planning import VALIDATION_SHARE
from edgeaudio_models.synthesis.speech import set_level
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_models.wake_word.background import (
    RecordedSpeech,
    background_folder,
    check_background,
    joined,
    read_speech,
)
from edgeaudio_models.wake_word.negatives import is_phrase, near_texts, other_texts, partial_texts
from edgeaudio_models.wake_word.phonemes import Phonemizer
from edgeaudio_models.wake_word.phrase import Phrase, read_phrase
from edgeaudio_models.wake_word.speaking import Progress, Said, Speakers, speakers
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

STEP_SECONDS = 0.04
"""Rows are whole steps of the networks."""
MAX_PHRASE_SECONDS = 2.5
"""A phrase that takes longer is no wake word."""
PROSODIES = ("{}", "{}.", "{}!", "{}?", "{},")
"""How the phrase is written: engines end statements, questions and calls in different melodies."""
GAP_SECONDS = (0.05, 1.2)
"""Shortest and longest pause between what is said without the phrase. As long as what stands before many phrases: else
a word after silence would be the phrase."""
ABUTTING = 0.4
"""Share of the recordings that the next one follows at once: the end of one word and the beginning of another are
speech that no list of words holds, in the voices of people."""
SLOW_ROUNDS: Mapping[str, int] = {"phrase": 1, "near": 4, "part": 4, "other": 10, "mining": 30}
"""In one round of so many the slow synthesizers take their turn: seldom enough with what is not the phrase for the
minutes that a wake word may take, often enough that a voice of theirs is no sign of the phrase."""
PHONEMES_A_ROUND = 8
"""A phrase of more phonemes takes longer to say and to learn, so the rounds are as many times as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Negatives:
    """Speech without the phrase, as streams, int16 ``[n]``."""

    train: Int16
    """To learn from."""
    validation: Int16
    """To choose by, in other voices."""
    ordinary: Int16
    """Of that, other speech alone: neither near words nor parts of the phrase, of which no hour is ever heard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WakeWordCorpus:
    """Everything that is said or was recorded for one phrase, before it is cut into rows."""

    phrase: Phrase
    """What to listen for."""
    positives: Said
    """The phrase."""
    negatives: Negatives
    """What is near it, and other speech."""
    speech: RecordedSpeech
    """Recorded speech without it."""
    noise: Int16 | None
    """Recorded noise; None leaves generated noise alone."""
    background: Path | None
    """Where the recordings lie."""
    speakers: Speakers
    """Who spoke, for more of it."""
    phonemizer: Phonemizer
    """Where pronunciations come from."""


def load_wake_word_data(
    recipe: Recipe, *, background: Path | None, cache_folder: Path | None, progress: Progress | None = None
) -> TrainingData:
    """Clips of a wake-word recipe; see :func:`gather` and :func:`rows_of`."""
    return rows_of(recipe, gather(recipe, background=background, cache_folder=cache_folder, progress=progress))


def gather(
    recipe: Recipe, *, background: Path | None, cache_folder: Path | None, progress: Progress | None = None
) -> WakeWordCorpus:
    """Say everything that the recipe asks for, and read the background.

    Args:
        recipe: Of kind "wake_word", with a phrase.
        background: Folder with ``wake_word.speech`` and ``corpus.noise`` below it; None takes the one that
            ``EDGEAUDIO_DATA`` names, and without it synthesized speech alone.
        cache_folder: Where spoken clips are kept.
        progress: Called with (clips done, clips in all), for each kind of clip anew.

    Raises:
        SpecError: The phrase cannot be one.
        SynthesisError: No synthesizer or grapheme-to-phoneme model is installed.
        CorpusError: The background folder holds no recordings.
    """
    from edgeaudio_models.recipe_data import recorded_noise

    settings, seed = recipe.wake_word, recipe.training.seed
    rate = preset(recipe.features.preset).sample_rate
    voices = speakers(_synthesizers(recipe), sample_rate=rate, cache_folder=cache_folder, seed=seed)
    phonemizer = Phonemizer()
    phrase = read_phrase(settings.phrase, phonemizer)
    speech, noise, background = RecordedSpeech(), None, background_folder(background)
    if background is not None:
        speech = read_speech(background, settings.speech, sample_rate=rate, is_phrase=_recognizer(phrase, phonemizer))
        present = [name for name in recipe.corpus.noise if (background / name).exists()]
        noise = recorded_noise(replace(recipe, corpus=replace(recipe.corpus, noise=tuple(present))), background, rate)
        check_background(background, speech, noise, [*settings.speech, *recipe.corpus.noise])
    texts = [form.format(phrase.text) for form in PROSODIES]
    return WakeWordCorpus(
        phrase=phrase,
        positives=voices.say("phrase", texts, settings.positives, progress, slow_rounds=slow_rounds("phrase", phrase)),
        negatives=_synthesized_negatives(recipe, phrase, phonemizer, voices, progress),
        speech=speech,
        noise=noise,
        background=background,
        speakers=voices,
        phonemizer=phonemizer,
    )


def slow_rounds(kind: str, phrase: Phrase) -> int:
    """In one round of how many the slow synthesizers say clips of a kind; see :data:`SLOW_ROUNDS`."""
    return SLOW_ROUNDS[kind] * math.ceil(len(phrase.phonemes) / PHONEMES_A_ROUND)


def _recognizer(phrase: Phrase, phonemizer: Phonemizer) -> Callable[[str], bool]:
    """Whether a text is the phrase; a corpus of words has few texts and many clips."""
    return lru_cache(maxsize=None)(lambda text: is_phrase(text, phrase, phonemizer))


def _synthesizers(recipe: Recipe) -> tuple[Synthesizer, ...]:
    """Those the recipe names, else all there are."""
    found = {each.name: each for each in every_synthesizer()}
    missing = sorted(set(recipe.corpus.synthesizers) - set(found))
    if missing:
        raise SynthesisError(f"synthesizers {missing} are not installed (there are {sorted(found)}); leave them out")
    return tuple(found[name] for name in recipe.corpus.synthesizers) or tuple(found.values())


def _synthesized_negatives(
    recipe: Recipe, phrase: Phrase, phonemizer: Phonemizer, voices: Speakers, progress: Progress | None
) -> Negatives:
    settings, seed = recipe.wake_word, recipe.training.seed
    generator = np.random.default_rng([seed, 5])
    kinds = {
        "near": (near_texts(phrase, phonemizer, n_texts=settings.near_words), settings.near_clips),
        "part": (partial_texts(phrase, phonemizer), settings.partial_clips),
        "other": (
            other_texts(phrase, phonemizer, n_texts=settings.other_clips, generator=generator),
            settings.other_clips,
        ),
    }
    spoken = {
        name: voices.say(name, texts, n, progress, slow_rounds=slow_rounds(name, phrase))
        for name, (texts, n) in kinds.items()
        if texts and n
    }
    said = spoken.values()
    return Negatives(
        train=_stream([clip for each in said for clip in each.train], voices.sample_rate, seed=seed),
        validation=_stream([clip for each in said for clip in each.validation], voices.sample_rate, seed=seed + 1),
        ordinary=_stream(spoken["other"].validation, voices.sample_rate, seed=seed + 2),
    )


def _stream(clips: Sequence[Int16], rate: int, *, seed: int, abutting: float = 0.0) -> Int16:
    """All clips one after the other in a drawn order, at drawn levels, with drawn gaps; see ``background.joined``."""
    generator = np.random.default_rng([seed, 6])
    order = generator.permutation(len(clips))
    levelled = [set_level(clips[i], generator.uniform(MIN_LEVEL_DB, MAX_LEVEL_DB)) for i in order]
    return joined(levelled, gap_seconds=GAP_SECONDS, sample_rate=rate, seed=seed, abutting=abutting)


def row_samples(recipe: Recipe, positives: Said) -> int:
    """Samples of a row: the recipe's, or what the longest phrase and its surroundings take, in whole steps.

    Raises:
        SpecError: The phrase takes longer than ``MAX_PHRASE_SECONDS``.
    """
    settings, rate = recipe.wake_word, preset(recipe.features.preset).sample_rate
    if settings.clip_seconds:
        return round(settings.clip_seconds * rate)
    longest = longest_seconds(positives, rate) * (1.0 + settings.max_rate_change)
    if longest > MAX_PHRASE_SECONDS * (1.0 + settings.max_rate_change):
        rule = f"takes {longest:.1f} s to say slowly, it must take at most {MAX_PHRASE_SECONDS:g} s"
        raise SpecError(f"phrase={settings.phrase!r} {rule}; take a shorter one")
    return round(math.ceil((longest + settings.surroundings_seconds) / STEP_SECONDS) * STEP_SECONDS * rate)


def longest_seconds(positives: Said, sample_rate: int) -> float:
    """Length of the longest spoken phrase."""
    return max(map(len, (*positives.train, *positives.validation))) / sample_rate


def rows_of(recipe: Recipe, corpus: WakeWordCorpus) -> TrainingData:
    """Cut what was gathered into rows ``[N, S]``: the phrase at the end of its row, everything else filling it."""
    rate, seed = corpus.speakers.sample_rate, recipe.training.seed
    n_samples = row_samples(recipe, corpus.positives)
    noise = generate_silence(
        recipe.wake_word.noise_clips, n_samples, generator=np.random.default_rng([seed, 7]), sample_rate=rate
    )
    n_kept = round(len(noise) * VALIDATION_SHARE)

    def examples(positives: Sequence[Int16], negatives: Int16, recorded: Sequence[Int16], silent: Int16) -> Examples:
        real = _stream(recorded, rate, seed=seed, abutting=ABUTTING)
        others = np.concatenate([cut_rows(negatives, n_samples), cut_rows(real, n_samples, hop=n_samples // 2), silent])
        phrases = np.stack([_right_aligned(clip, n_samples, i, seed) for i, clip in enumerate(positives)])
        labels = np.repeat([1, 0], [len(phrases), len(others)]).astype(np.int64)
        return Examples(waveforms=np.concatenate([phrases, others]), label_indices=labels)

    speech = corpus.speech
    return TrainingData(
        train=examples(corpus.positives.train, corpus.negatives.train, speech.train, noise[n_kept:]),
        validation=examples(
            corpus.positives.validation, corpus.negatives.validation, speech.validation, noise[:n_kept]
        ),
        noise=corpus.noise,
        provenance=_provenance(corpus),
    )


def cut_rows(stream: Int16, n_samples: int, *, hop: int | None = None) -> Int16:
    """Windows ``[n, n_samples]`` of a stream, every ``hop`` samples (None: end to end); the last one padded."""
    starts = range(0, max(1, len(stream) - n_samples // 2) if len(stream) else 0, hop or n_samples)
    rows = [fit_length(stream[start : start + n_samples], n_samples) for start in starts]
    return np.stack(rows) if rows else np.zeros((0, n_samples), np.int16)


def _right_aligned(clip: Int16, n_samples: int, index: int, seed: int) -> Int16:
    level_db = np.random.default_rng([seed, 8, index]).uniform(MIN_LEVEL_DB, MAX_LEVEL_DB)
    row = np.zeros(n_samples, np.int16)
    levelled = set_level(clip, level_db)[-n_samples:]
    row[n_samples - len(levelled) :] = levelled
    return row


def _provenance(corpus: WakeWordCorpus) -> dict[str, Any]:
    spoken = [Source(name=f"synthesized by {s.name}", licence=s.licence) for s in corpus.speakers.synthesizers]
    noise = (
        () if corpus.noise is None else (Source(name="recorded noise of the background folder", licence="unstated"),)
    )
    rate = corpus.speakers.sample_rate
    return {
        "corpus": "synthesized speech" + (" and recorded background" if corpus.speech.sources or noise else ""),
        "sources": [asdict(source) for source in (*spoken, *corpus.speech.sources, *noise)],
        "wake_word": {
            "phrase": corpus.phrase.text,
            "phonemes": list(corpus.phrase.phonemes),
            "phrases_spoken": len(corpus.positives.train),
            "synthesized_negative_hours": len(corpus.negatives.train) / rate / 3600,
            "recordings_of_the_phrase_left_out": corpus.speech.n_left_out,
            "recorded_speech_hours": sum(map(len, corpus.speech.train)) / rate / 3600,
            "recorded_noise_hours": 0.0 if corpus.noise is None else len(corpus.noise) / rate / 3600,
        },
    }
