"""Labelled clips for the task metric, from any corpus the loaders know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeaudio.parity.task import LabelledClips
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError


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
        raise ParityError(f"task={bundle.task!r} has no accuracy on labelled clips; run it without --data")
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
    if split is None and "test" in corpus.splits:
        split = "test"
    if split is not None:
        corpus = corpus.select(split)
    waveforms = load_waveforms(
        corpus, sample_rate=sample_rate, n_samples=n_samples, cache_folder=cache, progress=progress
    )
    named = tuple(clip.label for clip in corpus.clips)
    return LabelledClips(waveforms=waveforms, labels=named, speakers=corpus.speakers), split or "all"
