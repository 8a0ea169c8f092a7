"""Labelled clips for the task metric, from any corpus the loaders know."""

from __future__ import annotations

from collections.abc import Callable
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
    from edgeaudio_models.corpora import load_waveforms, open_corpus

    if bundle.task != "keyword":
        raise ParityError(f"task={bundle.task!r} has no accuracy on labelled clips; run it without --data")
    corpus = open_corpus(folder)
    if not set(corpus.labels) & set(bundle.labels):
        have = f"{folder}: labels={list(corpus.labels)}"
        raise ParityError(f"{have} share none with the bundle's {list(bundle.labels)}; give recordings of its labels")
    corpus = corpus.with_labels(bundle.labels)
    if split is None and "test" in corpus.splits:
        split = "test"
    if split is not None:
        corpus = corpus.select(split)
    rate = bundle.features.sample_rate
    assert bundle.manifest.network.window_frames is not None
    n_samples = bundle.manifest.network.window_frames * bundle.features.hop_length
    waveforms = load_waveforms(corpus, sample_rate=rate, n_samples=n_samples, cache_folder=cache, progress=progress)
    labels = tuple(clip.label for clip in corpus.clips)
    return LabelledClips(waveforms=waveforms, labels=labels, speakers=corpus.speakers), split or "all"
