"""A corpus of synthesized words with ``_unknown_`` and ``_silence_``, as arrays; needs no recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio_models.audio_files import Int16, fit_length, to_int16
from edgeaudio_models.corpora.clips import BACKGROUND_LABELS, SILENCE, UNKNOWN, Source
from edgeaudio_models.errors import CorpusError, SynthesisError
from edgeaudio_models.synthesis.base import Synthesizer, Utterance
from edgeaudio_models.synthesis.engines import installed_synthesizers
from edgeaudio_models.synthesis.noise import generate_noise, generate_silence
from edgeaudio_models.synthesis.planning import VALIDATION_SHARE, PlannedClip, cast_voices, plan_clips
from edgeaudio_models.synthesis.speech import set_level, speak
from edgeaudio_models.synthesis.words import UNKNOWN_WORDS, unknown_words

MIN_LEVEL_DB = -30.0
MAX_LEVEL_DB = -18.0
"""Range of the rms of a spoken word, in dB under full scale."""

MIN_ROOM_DB = -75.0
MAX_ROOM_DB = -45.0
"""Range of the rms of the pink noise every word stands in; a net that only knew digital silence would listen for it."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SynthesizedCorpus:
    """Waveforms with labels and splits, in a stable order."""

    labels: tuple[str, ...]
    """``_silence_``, ``_unknown_`` and the words, in the order of the model's outputs."""
    waveforms: Int16
    """int16 ``[n_clips, n_samples]``."""
    label_indices: npt.NDArray[np.int64]
    """int64 ``[n_clips]``, indices into ``labels``."""
    words: tuple[str, ...]
    """What is said in each clip; empty for ``_silence_``."""
    voices: tuple[str, ...]
    """``synthesizer:voice`` of each clip; empty for ``_silence_``."""
    splits: tuple[str, ...]
    """"train" or "validation" for each clip."""
    sample_rate: int
    """Hz."""
    voices_disjoint: bool
    """Whether the validation voices are never heard in training; not so with Pico alone, which has two voices."""
    sources: tuple[Source, ...]
    """The synthesizers and their licences."""

    def __len__(self) -> int:
        return len(self.waveforms)

    def select(self, split: str) -> SynthesizedCorpus:
        """Return the clips of one split.

        Raises:
            CorpusError: The corpus has no such split.
        """
        index = [i for i, name in enumerate(self.splits) if name == split]
        if not index:
            raise CorpusError(f"split={split!r} is not in the synthesized corpus; it has {sorted(set(self.splits))}")
        return SynthesizedCorpus(
            labels=self.labels,
            waveforms=self.waveforms[index],
            label_indices=self.label_indices[index],
            words=tuple(self.words[i] for i in index),
            voices=tuple(self.voices[i] for i in index),
            splits=tuple(self.splits[i] for i in index),
            sample_rate=self.sample_rate,
            voices_disjoint=self.voices_disjoint,
            sources=self.sources,
        )


def synthesize_corpus(
    words: Sequence[str],
    n_per_word: int,
    seed: int,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
    *,
    synthesizers: Sequence[Synthesizer] | None = None,
    unknown: Sequence[str] = UNKNOWN_WORDS,
    n_unknown: int | None = None,
    n_silence: int | None = None,
    sample_rate: int = 16_000,
    n_samples: int = 16_000,
    workers: int | None = None,
) -> SynthesizedCorpus:
    """Say each word ``n_per_word`` times in varied voices, rates and pitches; add other words and silence.

    Each word lies at a drawn place inside its clip, at a drawn level, in faint room noise. The same arguments give the
    same corpus where the synthesizers are deterministic or the cache holds what they said.

    Args:
        words: The keywords.
        n_per_word: Clips of each keyword, both splits together.
        seed: Seed of every choice.
        cache_folder: Where spoken clips are kept; None keeps nothing.
        progress: Called after each spoken clip.
        synthesizers: Who speaks, in turn; None takes all that are installed.
        unknown: What ``_unknown_`` says, in turn; texts that hold a keyword are left out.
        n_unknown: Clips of ``_unknown_``; None is four times ``n_per_word``.
        n_silence: Clips of ``_silence_``; None is ``n_per_word``.
        sample_rate: Hz.
        n_samples: Samples in a clip.
        workers: How many clips are spoken at once; None is the number of cores, the result is the same.

    Raises:
        SynthesisError: No synthesizer is installed, or one fails.
        CorpusError: No words, a word twice, ``n_per_word`` < 2, or no text for ``_unknown_``.
    """
    _check(words, n_per_word)
    speakers = tuple(installed_synthesizers() if synthesizers is None else synthesizers)
    if not speakers:
        raise SynthesisError("no synthesizer is installed; run: pip install 'edgeaudio[synthesis]'")
    cast = cast_voices(speakers, generator=np.random.default_rng([seed, 0]))
    plan = [clip for word in words for clip in plan_clips(word, [word], n_per_word, cast=cast, seed=seed)]
    n_others = 4 * n_per_word if n_unknown is None else n_unknown
    plan += plan_clips(UNKNOWN, unknown_words(words, unknown), n_others, cast=cast, seed=seed)
    spoken = np.zeros((len(plan), n_samples), np.int16)
    for i, word in enumerate(_speak_all(plan, speakers, sample_rate, cache_folder, workers)):
        spoken[i] = _place(word, n_samples, generator=np.random.default_rng([seed, 1, i]))
        if progress is not None:
            progress(i + 1, len(plan))
    silent = generate_silence(
        n_per_word if n_silence is None else n_silence,
        n_samples,
        generator=np.random.default_rng([seed, 2]),
        sample_rate=sample_rate,
    )
    labels = (*BACKGROUND_LABELS, *words)
    return SynthesizedCorpus(
        labels=labels,
        waveforms=np.concatenate([spoken, silent]),
        label_indices=np.array([labels.index(name) for name in _labels(plan, len(silent))], np.int64),
        words=(*(clip.utterance.text for clip in plan), *[""] * len(silent)),
        voices=(*(f"{speakers[c.synthesizer].name}:{c.utterance.voice}" for c in plan), *[""] * len(silent)),
        splits=(*(clip.split for clip in plan), *_silence_splits(len(silent))),
        sample_rate=sample_rate,
        voices_disjoint=cast.disjoint,
        sources=tuple(Source(name=f"synthesized by {each.name}", licence=each.licence) for each in speakers),
    )


def _speak_all(
    plan: Sequence[PlannedClip],
    speakers: Sequence[Synthesizer],
    sample_rate: int,
    cache_folder: Path | None,
    workers: int | None,
) -> Iterator[Int16]:
    """Words in the order of the plan, several spoken at once; what is planned twice is said once."""

    def say(synthesizer: int, utterance: Utterance) -> Int16:
        return speak(speakers[synthesizer], utterance, sample_rate=sample_rate, cache_folder=cache_folder)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        said = {told: pool.submit(say, *told) for told in dict.fromkeys((c.synthesizer, c.utterance) for c in plan)}
        try:
            for clip in plan:
                yield said[clip.synthesizer, clip.utterance].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody waits for the rest


def _check(words: Sequence[str], n_per_word: int) -> None:
    if not words:
        raise CorpusError("words=[] must name at least one keyword")
    twice = sorted({word for word in words if list(words).count(word) > 1} | set(words) & set(BACKGROUND_LABELS))
    if twice:
        raise CorpusError(f"words {twice} must be unlike each other and unlike {list(BACKGROUND_LABELS)}")
    if n_per_word < 2:
        raise CorpusError(f"n_per_word={n_per_word} must be >= 2; 100 and more train a usable net")


def _place(word: Int16, n_samples: int, *, generator: np.random.Generator) -> Int16:
    """Put a word somewhere inside a clip, cut at the end if it is longer, over faint room noise."""
    level_db, room_db = generator.uniform(MIN_LEVEL_DB, MAX_LEVEL_DB), generator.uniform(MIN_ROOM_DB, MAX_ROOM_DB)
    start = int(generator.integers(0, max(0, n_samples - len(word)) + 1))
    placed = np.concatenate([np.zeros(start, np.int16), set_level(word, level_db)])
    room = to_int16(generate_noise("pink", n_samples, rms_db=room_db, generator=generator))
    mixed = fit_length(placed, n_samples).astype(np.int32) + room
    return np.asarray(np.clip(mixed, -32768, 32767), np.int16)


def _labels(plan: Sequence[PlannedClip], n_silent: int) -> list[str]:
    return [clip.label for clip in plan] + [SILENCE] * n_silent


def _silence_splits(n_silent: int) -> list[str]:
    """Every so many-th clip is for validation, so both splits hear all kinds of noise."""
    every = round(1 / VALIDATION_SHARE)
    return ["validation" if i % every == every - 1 else "train" for i in range(n_silent)]
