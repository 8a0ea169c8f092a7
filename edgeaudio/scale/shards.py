"""Shards: parts of a corpus that are heard by themselves, each one stream from a reset to its end.

Where a corpus is cut depends on its files alone, so one process and many count the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.recordings import QUIET_FOLDERS, negative_files, read_recording
from edgeaudio_runtime.bundle import Bundle

SHARD_BYTES = 64 << 20
"""Size of the files from which a shard of a folder is full: half an hour of 16-bit audio, an hour of FLAC at 16 kHz."""
ARCHIVE = ".tar"

Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Recordings that are heard as one stream."""

    name: str
    """For messages: the tar file, or the first recording and how many follow it."""
    sources: tuple[str, ...]
    """Paths of the recordings in their order; of a tar shard its path or URL alone."""
    is_archive: bool = False
    """Whether it is a WebDataset tar file."""
    skipped: frozenset[str] = frozenset()
    """Labels whose clips in a tar file are passed over."""
    n_bytes: int = 0
    """Size of its files; 0 where it is unknown."""

    @property
    def digest(self) -> str:
        """SHA-256 over what it is made of: a file is the same where path, size and time of change are."""
        files = [[source, *_stamp(source)] for source in self.sources]
        return hashlib.sha256(json.dumps([files, sorted(self.skipped)]).encode()).hexdigest()

    def audio(self, sample_rate: int) -> Iterator[Int16]:
        """Samples ``[n]`` of each recording at ``sample_rate`` Hz, one in memory at a time.

        Raises:
            AudioError: A recording cannot be decoded.
            CorpusError: A tar file is missing or damaged.
        """
        if not self.is_archive:
            for source in self.sources:
                yield read_recording(Path(source), sample_rate)
            return
        from edgeaudio_models.streams import ShardStream

        for clip in ShardStream(self.sources, seed=0, labelled=False).clips(0):
            if clip.label not in self.skipped:
                yield clip.decode_whole(sample_rate=sample_rate)


def is_archive(source: Path | str) -> bool:
    """Whether a source names tar shards, by its end; all else is a folder."""
    return str(source).endswith(ARCHIVE)


def negative_shards(
    bundle: Bundle, source: Path | str, skipped: Sequence[str] = QUIET_FOLDERS, *, shard_bytes: int | None = None
) -> list[Shard]:
    """The shards of a corpus without the bundle's keywords: those of its folders are passed over, and ``skipped`` ones.

    Args:
        bundle: Whose keywords.
        source: A folder, or tar files as ``edgeaudio train --data`` takes them: ``talk-{000..031}.tar``, a URL.
        skipped: Names of further folders, or labels in tar files, that are passed over.
        shard_bytes: Size from which a shard of a folder is full; None is :data:`SHARD_BYTES`.

    Raises:
        ParityError: The folder holds no recording.
        CorpusError: The braces of a pattern are wrong.
    """
    if is_archive(source):
        from edgeaudio_models.streams import expand_braces

        labels = frozenset(skipped).union(set(bundle.labels) - set(bundle.background_labels))
        # A Path folds the two slashes of a URL into one.
        pattern = re.sub(r"^([a-z0-9]+):/(?=[^/])", r"\1://", str(source)) if isinstance(source, Path) else source
        return [_archive(name, labels) for name in expand_braces(pattern)]
    return cut(negative_files(bundle, Path(source), skipped), shard_bytes)


def cut(files: Sequence[Path], shard_bytes: int | None = None) -> list[Shard]:
    """Files in their order as shards, each with as many as it takes to reach ``shard_bytes``, 64 MB if not given."""
    shards, held, size, full = [], list[Path](), 0, shard_bytes or SHARD_BYTES
    for path in files:
        held.append(path)
        size += path.stat().st_size
        if size >= full:
            shards.append(_recordings(held, size))
            held, size = [], 0
    return [*shards, _recordings(held, size)] if held else shards


def _recordings(files: Sequence[Path], n_bytes: int) -> Shard:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Shard(name=f"{files[0]}{more}", sources=tuple(str(path.resolve()) for path in files), n_bytes=n_bytes)


def _archive(name: str, skipped: frozenset[str]) -> Shard:
    path = Path(name)
    is_local = path.is_file()
    return Shard(
        name=name,
        sources=(str(path.resolve()) if is_local else name,),
        is_archive=True,
        skipped=skipped,
        n_bytes=path.stat().st_size if is_local else 0,
    )


def _stamp(source: str) -> tuple[int, ...]:
    path = Path(source)
    if not path.is_file():
        return ()
    found = path.stat()
    return found.st_size, found.st_mtime_ns
