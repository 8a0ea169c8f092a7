"""Labelled clips for the task metric, from any corpus the loaders know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.task import LabelledClips
from edgeaudio.parity.word_errors import SpokenWord
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError

if TYPE_CHECKING:
    from edgeaudio_models.corpora import Corpus


def load_labelled_clips(
    bundle: Bundle,
    folder: Path,
    *,
    split: str | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LabelledClips, str]:
    """Clips with labels of the bundle, and the split they are from.

    Args:
        bundle: Its labels and rate; other words become ``_unknown_`` where it has that label, else are left out.
        folder: The corpus.
        split: "train", "validation" or "test"; None is "test" where the corpus has one, else everything.
        cache: Where decoded clips are kept.
        progress: Called with (clips done, clips in all).

    Raises:
        CorpusError: No corpus or no such split.
        ParityError: The bundle's task has no clip metric, or no clip has a label of the bundle.
    """
    if bundle.task != "keyword":
        raise ParityError(
            f"task={bundle.task!r} is not judged by single clips but by load_spoken_words and score_strings"
        )
    window_frames = bundle.manifest.network.window_frames
    assert window_frames is not None
    return clips_of_labels(
        bundle.labels,
        folder,
        sample_rate=bundle.features.sample_rate,
        n_samples=window_frames * bundle.features.hop_length,
        split=split,
        cache=cache,
        progress=progress,
    )


def clips_of_labels(
    labels: Sequence[str],
    folder: Path,
    *,
    sample_rate: int,
    n_samples: int,
    split: str | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LabelledClips, str]:
    """The same for any set of labels: clips of ``n_samples`` at ``sample_rate`` (Hz)."""
    from edgeaudio_models.corpora import load_waveforms, open_corpus

    corpus = open_corpus(folder)
    if not set(corpus.labels) & set(labels):
        have = f"{folder}: labels={list(corpus.labels)}"
        raise ParityError(f"{have} share none with the bundle's {list(labels)}; give recordings of its labels")
    corpus = corpus.with_labels(labels)
    corpus, split = _judged(corpus, split)
    waveforms = load_waveforms(
        corpus, sample_rate=sample_rate, n_samples=n_samples, cache_folder=cache, progress=progress
    )
    named = tuple(clip.label for clip in corpus.clips)
    return LabelledClips(waveforms=waveforms, labels=named, speakers=corpus.speakers), split


def load_spoken_words(
    bundle: Bundle,
    folder: Path,
    *,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[SpokenWord], str]:
    """Recordings of single words that a CTC bundle can read, trimmed by energy as training does, and their split.

    Args:
        bundle: Its labels but the blank are the words; what else the corpus says is left out.
        folder: The corpus.
        split: As in :func:`load_labelled_clips`.
        progress: Called with (clips done, clips in all).

    Raises:
        CorpusError: No corpus, no such split, or none of the words.
        ParityError: The bundle does not read words.
    """
    from edgeaudio_models.corpora import label_by_word, load_clip, open_corpus

    if bundle.task != "ctc":
        raise ParityError(f"task={bundle.task!r} has no word error rate; it is judged by load_labelled_clips")
    corpus, split = _judged(label_by_word(open_corpus(folder), bundle.labels[1:]), split)
    words = []
    for done, clip in enumerate(corpus.clips):
        samples = _trimmed(load_clip(clip, sample_rate=bundle.features.sample_rate))
        words.append(SpokenWord(samples=samples, word=clip.label, speaker=clip.speaker))
        if progress is not None:
            progress(done + 1, len(corpus))
    return words, split


def _judged(corpus: Corpus, split: str | None) -> tuple[Corpus, str]:
    """The clips of the split, and its name: "test" where there is one and no other is asked for."""
    if split is None and "test" in corpus.splits:
        split = "test"
    return (corpus, "all") if split is None else (corpus.select(split), split)


def _trimmed(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    import torch

    from edgeaudio_models.waveform_batches import voiced_spans

    ((start, stop),) = voiced_spans(torch.from_numpy(samples[None].astype(np.float32))).tolist()
    return samples[start:stop]
