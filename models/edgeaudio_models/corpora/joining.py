"""Several corpora read as one: clips are labelled by the word that is said in them, whatever each corpus calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeaudio_models.corpora.clips import SILENCE, UNKNOWN, Clip, Corpus
from edgeaudio_models.errors import CorpusError

NUMERALS = {
    "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four",
    "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine",
}  # fmt: skip
"""How corpora of digits write words that models spell out."""


def join_corpora(parts: Sequence[Corpus]) -> Corpus:
    """One corpus of the clips of all ``parts``, in their order, with the labels of the first.

    Raises:
        CorpusError: No parts.
    """
    if not parts:
        raise CorpusError("corpora=[] must be at least one; name the folders of the recordings")
    return replace(
        parts[0],
        name=" + ".join(part.name for part in parts),
        clips=tuple(clip for part in parts for clip in part.clips),
        sources=tuple(dict.fromkeys(source for part in parts for source in part.sources)),
    )


def label_by_word(corpus: Corpus, labels: Sequence[str]) -> Corpus:
    """The corpus relabelled for a model: a clip belongs to the label that is its word.

    So it does where its corpus files it under ``_unknown_`` or as a numeral; other words become ``_unknown_`` where
    that is among ``labels``, else they are left out.

    Args:
        corpus: As :func:`edgeaudio_models.corpora.open_corpus` read it.
        labels: Labels in the order of a model's outputs, without the blank of CTC.

    Raises:
        CorpusError: None of the clips has one of the labels.
    """
    wanted = tuple(labels)
    named = replace(
        corpus,
        labels=tuple(dict.fromkeys((*corpus.labels, *wanted))),
        clips=tuple(_by_word(clip, wanted) for clip in corpus.clips),
    )
    if not {clip.label for clip in named.clips} & set(wanted) - {SILENCE, UNKNOWN}:
        have = f"{corpus.root}: labels={list(corpus.labels)}"
        raise CorpusError(f"{have} and words share none with {list(wanted)}; give recordings of those words")
    return named.with_labels(wanted)


def _by_word(clip: Clip, labels: tuple[str, ...]) -> Clip:
    said = clip.word or clip.label
    word = said if said in labels else NUMERALS.get(said, said)
    return replace(clip, label=word) if word in labels else clip
