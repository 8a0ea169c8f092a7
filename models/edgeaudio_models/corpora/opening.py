"""Recognise what kind of corpus a folder is, and open it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from edgeaudio_models.corpora.clips import BACKGROUND_LABELS, Corpus
from edgeaudio_models.corpora.folders import label_folders, open_folders
from edgeaudio_models.corpora.manifest import open_manifest
from edgeaudio_models.corpora.speech_commands import KEYWORDS, looks_like_speech_commands, open_speech_commands
from edgeaudio_models.errors import CorpusError


def open_corpus(
    path: str | os.PathLike[str], *, labels: Sequence[str] | None = None, split: str | None = None
) -> Corpus:
    """Open a folder with a manifest, the original Speech Commands tree, or a folder per label; in this order.

    Args:
        path: The folder, or its ``manifest.csv``.
        labels: Labels in the order of a model's outputs; other words become ``_unknown_`` (see ``Corpus.with_labels``).
            None keeps the corpus's own; for Speech Commands these are the benchmark's words that are there.
        split: Keep one split only.

    Raises:
        CorpusError: The folder is missing or empty, a wanted label has no clips, or there is no such split.
    """
    folder = Path(path)
    folder = folder.parent if folder.name == "manifest.csv" else folder
    whole = corpus = _open(folder, labels)
    if labels is not None:
        corpus = corpus.with_labels(labels)
    if split is not None:
        corpus = corpus.select(split)
    empty = [label for label, count in corpus.counts().items() if not count] if labels is not None else []
    if empty:
        where = f" of split={split!r}" if split else ""
        remedy = _similar(empty[0], whole) or "add recordings or leave the labels out"
        raise CorpusError(f"{folder}: labels {empty} have no clips{where}; {remedy}")
    return corpus


def _similar(label: str, corpus: Corpus) -> str:
    """Advice where a label of the corpus looks like a misspelling of a wanted one."""
    names = {name.strip().lower(): name for name in (*corpus.labels, *(clip.word for clip in corpus.clips))}
    close = get_close_matches(label.strip().lower(), names, n=1)
    return f"rename {names[close[0]]!r} if that is {label!r}" if close and names[close[0]] != label else ""


def _open(folder: Path, labels: Sequence[str] | None) -> Corpus:
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; give a folder of recordings")
    if (folder / "manifest.csv").is_file():
        return open_manifest(folder)
    if looks_like_speech_commands(folder):
        return open_speech_commands(folder, keywords=_keywords(folder, labels))
    return open_folders(folder)


def _keywords(folder: Path, labels: Sequence[str] | None) -> tuple[str, ...]:
    if labels is not None:
        return tuple(label for label in labels if label not in BACKGROUND_LABELS)
    words = [path.name for path in label_folders(folder)]
    return tuple(word for word in KEYWORDS if word in words) or tuple(words)
