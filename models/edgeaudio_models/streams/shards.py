"""WebDataset shards: tar files in which members of one key make a clip, ``a.flac`` with ``a.json`` or ``a.cls``."""

from __future__ import annotations

import contextlib
import json
import random
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edgeaudio_models.audio_files import SUFFIXES
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.streams.clip_stream import ClipStream, EncodedClip


class ShardStream(ClipStream):
    """Local tar files or, with the webdataset package, URLs and ``pipe:`` commands; each pass in another shard order.

    Args:
        shards: Paths or URLs.
        seed: Of the order of the shards; within a shard clips come as they lie.
        labels: What integers in ``.cls`` members stand for.
        labelled: Whether a clip without a label is refused; else its label is empty.
    """

    def __init__(
        self, shards: tuple[str, ...], *, seed: int, labels: tuple[str, ...] = (), labelled: bool = True
    ) -> None:
        if not shards:
            raise CorpusError("shards=[] must name at least one tar file")
        self.identity = f"shards {list(shards)}"
        self._shards = shards
        self._seed = seed
        self._labels = labels
        self._labelled = labelled

    def clips(self, number: int) -> Iterator[EncodedClip]:
        """See :meth:`ClipStream.clips`."""
        order = list(self._shards)
        random.Random(f"{self._seed} {number}").shuffle(order)
        for shard in order:
            try:
                yield from self._read(shard)
            except (OSError, tarfile.TarError) as error:
                raise CorpusError(f"{shard}: no readable tar file ({error}); write or fetch it again") from error

    def _read(self, shard: str) -> Iterator[EncodedClip]:
        # "r|*": forward only, so that a pipe will do and nothing is kept.
        with contextlib.closing(_opened(shard)) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            key, members = "", dict[str, bytes]()
            for entry in archive:
                name, _, suffix = entry.name.rpartition("/")[2].partition(".")
                if not entry.isfile() or not name:
                    continue
                found = f"{entry.name.rpartition('/')[0]}/{name}"
                if found != key and members:
                    yield self._clip(shard, key, members)
                    members = {}
                content = archive.extractfile(entry)
                key, members[suffix.lower()] = found, content.read() if content is not None else b""
            if members:
                yield self._clip(shard, key, members)

    def _clip(self, shard: str, key: str, members: Mapping[str, bytes]) -> EncodedClip:
        where = f"{shard}: {key.lstrip('/')}"
        audio = next((data for suffix, data in members.items() if f".{suffix}" in SUFFIXES), None)
        if audio is None:
            raise CorpusError(f"{where}: members {sorted(members)} hold no audio; add one of {list(SUFFIXES)}")
        label, speaker = self._label(where, members)
        return EncodedClip(name=where, label=label, speaker=speaker, audio=audio)

    def _label(self, where: str, members: Mapping[str, bytes]) -> tuple[str, str]:
        described = _described(where, members["json"]) if "json" in members else {}
        plain = (members.get(suffix, b"").decode("utf-8", errors="replace").strip() for suffix in ("cls", "txt"))
        label = next((text for text in (str(described.get("label", "")), *plain) if text), "")
        if label.isdigit() and "cls" in members and int(label) < len(self._labels):
            label = self._labels[int(label)]
        if not label and self._labelled:
            rule = 'add .cls or .txt with the label, or .json with {"label": ..., "speaker": ...}'
            raise CorpusError(f"{where}: members {sorted(members)} name no label; {rule}")
        return label, str(described.get("speaker", ""))


def _described(where: str, text: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"{where}: its .json is not JSON ({error}); write the shard again") from error
    return values if isinstance(values, dict) else {}


def _opened(shard: str) -> IO[bytes]:
    """The bytes of a shard; only URLs and pipes need the webdataset package."""
    if not re.match(r"[a-z0-9]+:", shard):
        return Path(shard).open("rb")
    from webdataset.gopen import gopen

    stream: IO[bytes] = gopen(shard)
    return stream


def expand_braces(pattern: str) -> tuple[str, ...]:
    """``train-{000..003}.tar`` as four names, ``{a,b}.tar`` as two; a pattern without braces is itself.

    Raises:
        CorpusError: A brace holds neither a range nor a list.
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return (pattern,)
    before, after = pattern[: found.start()], pattern[found.end() :]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span is None and "," not in found[1]:
        raise CorpusError(f"shards={pattern!r}: {found[0]} must be a range {{000..003}} or a list {{a,b}}")
    if span is None:
        choices = found[1].split(",")
    else:
        choices = [str(i).zfill(len(span[1])) for i in range(int(span[1]), int(span[2]) + 1)]
    return tuple(name for choice in choices for name in expand_braces(before + choice + after))
