"""Google Speech Commands in its original tree (Pete Warden, arXiv:1804.03209).

The tree is one folder per word, ``_background_noise_`` and, in the official archives, ``validation_list.txt`` and
``testing_list.txt``. Where a list is absent the split follows the published hash rule on the speaker.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import audio_info
from edgeaudio_models.corpora.clips import BACKGROUND_LABELS, SILENCE, SPLITS, UNKNOWN, Clip, Corpus, Source
from edgeaudio_models.corpora.folders import NOISE_FOLDER, audio_in, label_folders, speaker_of
from edgeaudio_models.errors import CorpusError

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""The ten words of the benchmark, in the order of the paper's code."""

LABELS_12 = (*BACKGROUND_LABELS, *KEYWORDS)
"""The benchmark's twelve labels."""

VALIDATION_LIST = "validation_list.txt"
TESTING_LIST = "testing_list.txt"

MAX_NUM_WAVS_PER_CLASS = 2**27 - 1
"""Constant of the official hash rule, about 134 million."""

VALIDATION_PERCENT = 10.0
TESTING_PERCENT = 10.0

NOISE_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Part of each noise file that cuts of a split come from, so that no split hears another's noise."""

SOURCE = Source(name="Speech Commands", licence="CC BY 4.0", citation="Pete Warden, arXiv:1804.03209")


def which_set(
    file_name: str, *, validation_percent: float = VALIDATION_PERCENT, testing_percent: float = TESTING_PERCENT
) -> str:
    """Split of a clip by the official rule: SHA-1 of the file name before ``_nohash_``, as a percentage.

    ``percent = (sha1 mod (M + 1)) * 100 / M`` with ``M = 2**27 - 1``; below ``validation_percent`` it is validation,
    below the sum of both it is test, else train. All clips of one speaker therefore share a split, in every version.
    """
    speaker = os.path.basename(file_name).partition("_nohash_")[0]
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    percent = (number % (MAX_NUM_WAVS_PER_CLASS + 1)) * (100.0 / MAX_NUM_WAVS_PER_CLASS)
    if percent < validation_percent:
        return "validation"
    return "test" if percent < validation_percent + testing_percent else "train"


def looks_like_speech_commands(folder: Path) -> bool:
    """Tell whether a folder is the original tree: it has a list, or the noise folder beside names with ``_nohash_``."""
    if (folder / TESTING_LIST).is_file() or (folder / VALIDATION_LIST).is_file():
        return True
    if not (folder / NOISE_FOLDER).is_dir():
        return False
    return any("_nohash_" in path.name for word in label_folders(folder)[:3] for path in audio_in(word)[:3])


def open_speech_commands(folder: Path, *, keywords: Sequence[str] = KEYWORDS, seed: int = 0) -> Corpus:
    """Read the original tree as the benchmark task: keywords, ``_unknown_`` for all other words, ``_silence_``.

    Args:
        folder: The unpacked archive.
        keywords: Words that are labels of their own.
        seed: Seed of the silence cuts.

    Returns:
        All clips with their splits; labels are ``_silence_``, ``_unknown_`` and the keywords. ``_silence_`` has as many
        one-second cuts of the noise files as a keyword has clips on average, in each split; without noise files none,
        and without other words no ``_unknown_``: such labels are left out.

    Raises:
        CorpusError: The folder is missing, there is no keyword, or one has no clips.
    """
    if not keywords:
        raise CorpusError(f"{folder}: keywords=[] must name at least one word; give the words to detect")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; fetch it with `edgeaudio data fetch speech-commands`")
    lists = _read_lists(folder)
    words = [clip for word in label_folders(folder) for clip in _word_clips(folder, word, tuple(keywords), lists)]
    missing = [word for word in keywords if not any(clip.label == word for clip in words)]
    if missing:
        raise CorpusError(f"{folder}: labels {missing} have no clips; add the folders or leave the words out")
    clips = (*words, *_silence(folder, words, n_keywords=len(keywords), seed=seed))
    present = {clip.label for clip in clips}
    labels = tuple(label for label in (*BACKGROUND_LABELS, *keywords) if label in present)
    return Corpus(name="Speech Commands", root=folder, labels=labels, clips=clips, sources=(SOURCE,))


def noise_files(folder: Path) -> list[Path]:
    """Recordings in ``folder/_background_noise_``, by name; empty if there are none."""
    noise = folder / NOISE_FOLDER
    return audio_in(noise) if noise.is_dir() else []


def silence_cuts(files: Sequence[Path], *, split: str, n_cuts: int, seed: int) -> tuple[Clip, ...]:
    """Draw one-second cuts labelled ``_silence_`` from the part of each noise file that belongs to ``split``.

    Files are used in turn, offsets are drawn anew for each cut and fall on samples. A file whose part is shorter than a
    second gives the part from its beginning.
    """
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    infos = [audio_info(path) for path in files]
    cuts = []
    for i in range(n_cuts if files else 0):
        info = infos[i % len(files)]
        low, high = (round(share * info.n_samples) for share in NOISE_SHARES[split])
        start = int(generator.integers(low, max(low, high - info.sample_rate) + 1))
        cuts.append(
            Clip(
                path=files[i % len(files)],
                label=SILENCE,
                split=split,
                start=start,
                stop=min(start + info.sample_rate, high),
                source=SOURCE.name,
            )
        )
    return tuple(cuts)


def _read_lists(folder: Path) -> dict[str, frozenset[str]]:
    lists = {}
    for split, name in (("validation", VALIDATION_LIST), ("test", TESTING_LIST)):
        if (folder / name).is_file():
            lists[split] = frozenset((folder / name).read_text(encoding="utf-8").split())
    return lists


def _word_clips(
    folder: Path, word: Path, keywords: tuple[str, ...], lists: dict[str, frozenset[str]]
) -> Iterator[Clip]:
    for path in audio_in(word):
        yield Clip(
            path=path,
            label=word.name if word.name in keywords else UNKNOWN,
            word=word.name,
            speaker=speaker_of(path.name),
            split=_split(path.relative_to(folder).as_posix(), lists),
            source=SOURCE.name,
        )


def _split(name: str, lists: dict[str, frozenset[str]]) -> str:
    """A list decides for its own split; the hash decides where that list is absent."""
    for split, names in lists.items():
        if name in names:
            return split
    by_hash = which_set(name)
    return "train" if by_hash in lists else by_hash


def _silence(folder: Path, words: Sequence[Clip], *, n_keywords: int, seed: int) -> Iterator[Clip]:
    files = noise_files(folder)
    for split in SPLITS:
        n_spoken = sum(clip.split == split and clip.label != UNKNOWN for clip in words)
        yield from silence_cuts(files, split=split, n_cuts=round(n_spoken / n_keywords), seed=seed)
