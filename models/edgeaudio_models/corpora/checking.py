"""Look for what makes a corpus misleading: leaks between splits, empty labels, files that do not decode."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgeaudio_models.audio_files import audio_info, read_float
from edgeaudio_models.corpora.clips import SILENCE, Clip, Corpus
from edgeaudio_models.corpora.folders import spoken_word_of
from edgeaudio_models.corpora.loading import Progress, rate_problem
from edgeaudio_models.errors import CorpusError
from edgeaudio_runtime.errors import AudioError

STRAY_SHARE = 0.001
"""Share of clips that may repeat another one wrongly and still be trained on: large corpora have some strays, a folder
that was copied under a second label is more."""
_NAMED = 3
"""How many offenders a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing, about a corpus."""

    severity: Literal["error", "warning"]
    """An error makes scores wrong or training impossible; a warning does not."""
    message: str
    """One line: what, the rule, the remedy."""


def check_corpus(
    corpus: Corpus, *, sample_rate: int | None = None, files: bool = False, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Check labels, splits and speakers; with ``files`` also that every file decodes and none stands in two splits.

    Args:
        corpus: What to check.
        sample_rate: Rate in Hz that files should have (checked with ``files``); None allows any.
        files: Whether to open every file.
        progress: Called after each file.

    Returns:
        Findings, errors first; empty if all is well.
    """
    findings = [*_empty_labels(corpus), *_partial_splits(corpus), *_speakers_in_two_splits(corpus), *_misfiled(corpus)]
    if files:
        findings += [*_files(corpus, sample_rate, progress), *_duplicates(corpus.clips)]
    return tuple(sorted(findings, key=lambda finding: finding.severity))


def require_sound(corpus: Corpus, *, sample_rate: int | None = None, files: bool = False) -> None:
    """Raise the first error that :func:`check_corpus` finds, or the first of identical recordings that contradict.

    Raises:
        CorpusError: Its message is the finding's.
    """
    errors = list(check_corpus(corpus, sample_rate=sample_rate, files=files))
    doubles = [] if files else list(_duplicates(corpus.clips))
    if sum(finding.severity == "error" for finding in doubles) > STRAY_SHARE * len(corpus):
        errors += doubles
    for finding in errors:
        if finding.severity == "error":
            raise CorpusError(finding.message)


def _empty_labels(corpus: Corpus) -> Iterator[Finding]:
    empty = [label for label, count in corpus.counts().items() if not count]
    if empty:
        yield Finding(severity="error", message=f"{corpus.root}: labels {empty} have no clips; add some or drop them")
    for split in corpus.splits:
        counts = corpus.select(split).counts()
        absent = [label for label, count in counts.items() if not count and label not in empty]
        if absent:
            message = f"{corpus.root}: labels {absent} have no clips in split={split!r}; it cannot score them"
            yield Finding(severity="warning", message=message)


def _partial_splits(corpus: Corpus) -> Iterator[Finding]:
    without = sum(not clip.split for clip in corpus.clips)
    if 0 < without < len(corpus):
        yield Finding(
            severity="error",
            message=f"{corpus.root}: {without} of {len(corpus)} clips have no split; give all of them one, or none",
        )


def _speakers_in_two_splits(corpus: Corpus) -> Iterator[Finding]:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for clip in corpus.clips:
        if clip.speaker and clip.split:
            splits[clip.speaker].add(clip.split)
    leaking = sorted(speaker for speaker, found in splits.items() if len(found) > 1)
    if leaking:
        first = leaking[0]
        yield Finding(
            severity="error",
            message=f"{corpus.root}: speakers in two splits={_some(leaking)}, a speaker belongs to one split; "
            f"{first!r} is in {sorted(splits[first])}",
        )


def _misfiled(corpus: Corpus) -> Iterator[Finding]:
    """Clips whose Speech Commands name begins with another of the labels."""
    labels = set(corpus.labels)
    for clip in corpus.clips:
        word = spoken_word_of(clip.path.name)
        if word in labels - {clip.label}:
            message = f"{clip.path}: label={clip.label!r}, its name says {word!r}; move or rename it"
            yield Finding(severity="error", message=message)
            return


def _files(corpus: Corpus, sample_rate: int | None, progress: Progress | None) -> Iterator[Finding]:
    clips = {clip.path: clip for clip in corpus.clips}
    others: Counter[int] = Counter()
    for i, path in enumerate(sorted(clips)):
        try:
            info = audio_info(path)
            read_float(path, channel=0)  # the header of a cut FLAC file is whole; only decoding tells
        except AudioError as error:
            yield Finding(severity="error", message=str(error))
        else:
            problem = rate_problem(clips[path], info.sample_rate, sample_rate or info.sample_rate)
            if problem:
                yield Finding(severity="error", message=problem)
            elif sample_rate not in (None, info.sample_rate):
                others[info.sample_rate] += 1
            if info.n_channels > 1:
                message = f"{path}: channels={info.n_channels} must be 1; keep one channel"
                yield Finding(severity="error", message=message)
        if progress is not None:
            progress(i + 1, len(clips))
    if others:
        rates = ", ".join(str(rate) for rate in sorted(others))
        message = (
            f"{corpus.root}: {others.total()} of {len(clips)} files are not at sample_rate={sample_rate} but {rates}"
        )
        yield Finding(severity="warning", message=f"{message}; they are resampled when loaded")


def _duplicates(clips: Iterable[Clip]) -> Iterator[Finding]:
    """Identical files; cuts share their file on purpose and are left out."""
    same: defaultdict[bytes, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.start is None and clip.stop is None and clip.path.is_file():
            same[hashlib.sha256(clip.path.read_bytes()).digest()].append(clip)
    harmless = []
    for group in (group for group in same.values() if len(group) > 1):
        names = _some([str(clip.path) for clip in group])
        if len({clip.label for clip in group}) > 1:
            yield Finding(severity="error", message=f"{names} are one recording with different labels; keep one")
        elif len({clip.split for clip in group}) > 1 and group[0].label != SILENCE:
            yield Finding(severity="error", message=f"{names} are one recording in different splits; keep one")
        else:
            harmless += [str(clip.path) for clip in group[1:]]
    if harmless:
        message = f"{len(harmless)} clips repeat another under a second name={_some(harmless)}; scores count them twice"
        yield Finding(severity="warning", message=message)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{names[:_NAMED]}{more}"
