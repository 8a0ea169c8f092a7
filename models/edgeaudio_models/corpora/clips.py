"""A corpus as a value: clips with labels, speakers and splits, and where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio_models.errors import CorpusError

SPLITS = ("train", "validation", "test")
"""Names of splits: to learn, to choose, to report once."""

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
BACKGROUND_LABELS = (SILENCE, UNKNOWN)
"""Labels that a detector never reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One labelled recording, or a cut of one."""

    path: Path
    """The audio file."""
    label: str
    """What a model should answer."""
    word: str = ""
    """What was said, where it differs from the label (``_unknown_`` clips); empty if nothing was or nobody knows."""
    speaker: str = ""
    """Who said it; empty if unknown."""
    split: str = ""
    """"train", "validation" or "test"; empty if the corpus has no splits."""
    start: int | None = None
    """First sample of the cut, at the file's own rate; None is the beginning."""
    stop: int | None = None
    """One past the last sample of the cut, at the file's own rate; None is the end."""
    source: str = ""
    """Name of the data set it came from; empty if unstated."""
    sample_rate: int | None = None
    """Rate of the file in Hz as the corpus states it; None if it does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where recordings come from and on what terms; goes into the provenance of every model trained on them."""

    name: str
    """Name of the data set."""
    licence: str
    """Licence as its publisher names it, or "unstated"."""
    citation: str = ""
    """Who made it and where it is published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Labelled clips in a stable order."""

    name: str
    """Name for cards and messages."""
    root: Path
    """Folder that holds the clips."""
    labels: tuple[str, ...]
    """Labels in the order of the model's outputs."""
    clips: tuple[Clip, ...]
    """The clips; every label is one of ``labels``."""
    sources: tuple[Source, ...] = ()
    """Where the clips come from and on what terms."""

    def __post_init__(self) -> None:
        if not self.clips:
            raise CorpusError(f"{self.root}: clips=0, a corpus needs audio files; see `edgeaudio data list`")
        unknown = sorted({clip.label for clip in self.clips} - set(self.labels))
        if unknown:
            raise CorpusError(f"{self.root}: labels {unknown} of clips must be among labels={list(self.labels)}")

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have clips, in the order train, validation, test."""
        present = {clip.split for clip in self.clips}
        return tuple(split for split in SPLITS if split in present)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker of each clip, empty where unknown, in the order of ``clips``."""
        return tuple(clip.speaker for clip in self.clips)

    def select(self, split: str) -> Corpus:
        """Return the clips of one split as a corpus with the same labels.

        Raises:
            CorpusError: The corpus has no such split.
        """
        chosen = tuple(clip for clip in self.clips if clip.split == split)
        if not chosen:
            have = f"it has {list(self.splits)}" if self.splits else "it has none; leave --split out"
            raise CorpusError(f"{self.root}: split={split!r} is not in the corpus; {have}")
        return replace(self, clips=chosen)

    def with_labels(self, labels: Sequence[str]) -> Corpus:
        """Return the corpus relabelled for a model: words that are not among ``labels`` become ``_unknown_``.

        Where ``labels`` has no ``_unknown_`` (or no ``_silence_``), those clips are left out.
        """
        wanted = tuple(labels)
        clips = tuple(clip for clip in (_relabel(clip, wanted) for clip in self.clips) if clip is not None)
        return replace(self, labels=wanted, clips=clips)

    def label_indices(self) -> npt.NDArray[np.int64]:
        """Index of each clip's label in ``labels``: int64 ``[n_clips]``."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[clip.label] for clip in self.clips], dtype=np.int64)

    def counts(self) -> dict[str, int]:
        """Number of clips of every label, 0 for a label without clips."""
        counted = Counter(clip.label for clip in self.clips)
        return {label: counted[label] for label in self.labels}


def _relabel(clip: Clip, labels: tuple[str, ...]) -> Clip | None:
    if clip.label in labels:
        return clip
    if clip.label == SILENCE or UNKNOWN not in labels:
        return None
    return replace(clip, label=UNKNOWN, word=clip.word or clip.label)


def default_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Order labels for a model: ``_silence_``, ``_unknown_`` where present, then the words by name."""
    present = set(labels)
    background = [label for label in BACKGROUND_LABELS if label in present]
    return (*background, *sorted(present - set(BACKGROUND_LABELS)))
