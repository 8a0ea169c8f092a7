"""Folder per label: ``yes/*.wav``, or with splits above it: ``train/yes/*.wav``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeaudio_models.audio_files import is_audio
from edgeaudio_models.corpora.clips import Clip, Corpus, Source, default_labels
from edgeaudio_models.errors import CorpusError

NOISE_FOLDER = "_background_noise_"
"""Long noise recordings beside the labels; material for augmentation and silence, no label of its own."""

_SPLIT_FOLDERS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
                  "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip


def open_folders(folder: Path) -> Corpus:
    """Read a folder of label folders; where all subfolders are named for splits, one level deeper.

    The part of a file name before ``_nohash_`` is taken for the speaker, as in Speech Commands; other names have none.

    Raises:
        CorpusError: The folder is missing, holds no label folders, or a label has no audio files.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; give the folder that holds the label folders")
    clips = tuple(_all_clips(folder))
    return Corpus(
        name=folder.name,
        root=folder,
        labels=default_labels([clip.label for clip in clips]),
        clips=clips,
        sources=(Source(name=folder.name, licence="unstated"),),
    )


def label_folders(folder: Path) -> list[Path]:
    """Subfolders by name, hidden ones and the noise folder left out."""
    inside = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in inside if not path.name.startswith(".") and path.name != NOISE_FOLDER)


def audio_in(folder: Path) -> list[Path]:
    """Audio files directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_audio(path))


def speaker_of(file_name: str) -> str:
    """Take the speaker from a Speech Commands name: "0a7c2a8d" of ``0a7c2a8d_nohash_0.wav``.

    A word before it (``yes_0a7c2a8d_nohash_0.wav``) is stripped; names without ``_nohash_`` give the empty string.
    """
    before, mark, _ = file_name.partition("_nohash_")
    return before.rpartition("_")[2] if mark else ""


def spoken_word_of(file_name: str) -> str:
    """Take the word from a Speech Commands name that has one before the speaker, else the empty string."""
    before, mark, _ = file_name.partition("_nohash_")
    return before.rpartition("_")[0] if mark else ""


def _all_clips(folder: Path) -> Iterator[Clip]:
    subfolders = label_folders(folder)
    if subfolders and all(path.name.lower() in _SPLIT_FOLDERS for path in subfolders):
        for path in subfolders:
            yield from _clips(path, split=_SPLIT_FOLDERS[path.name.lower()])
    else:
        yield from _clips(folder, split="")


def _clips(folder: Path, *, split: str) -> Iterator[Clip]:
    for label in label_folders(folder):
        files = audio_in(label)
        if not files:
            raise CorpusError(f"{label}: label={label.name!r} has no audio files; add some or remove the folder")
        for path in files:
            yield Clip(path=path, label=label.name, word=label.name, speaker=speaker_of(path.name), split=split)
