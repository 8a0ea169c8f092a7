"""Audio data sets of the Hugging Face ``datasets`` library in streaming mode, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeaudio_models.errors import CorpusError
from edgeaudio_models.streams.clip_stream import ClipStream, EncodedClip

LABEL_COLUMNS = ("label", "labels", "keyword", "word", "text")
"""Columns taken for the label, the first that is there."""
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
"""Columns taken for the speaker."""


class HuggingFaceStream(ClipStream):
    """One split of a data set with an audio column; audio is decoded here, so torchcodec is not needed.

    Args:
        name: On the hub, or a folder with parquet files or label folders.
        split: "train", "validation", ...
        seed: Of the order of the files; within a file rows come as they lie.
    """

    def __init__(self, name: str, *, split: str = "train", seed: int = 0) -> None:
        from datasets import Audio, load_dataset

        self.identity = f"hf:{name}#{split}"
        try:
            rows = load_dataset(name, split=split, streaming=True)
        except (OSError, ValueError, ConnectionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(f"{self.identity}: no such data set or split ({reason})") from error
        features: Mapping[str, Any] = rows.features or {}
        self._audio = _column(self.identity, [n for n, kind in features.items() if isinstance(kind, Audio)], "audio")
        self._label = _column(self.identity, [n for n in LABEL_COLUMNS if n in features], f"label {LABEL_COLUMNS}")
        self._speaker = next((n for n in SPEAKER_COLUMNS if n in features), None)
        self._names: list[str] | None = getattr(features[self._label], "names", None)
        self._rows = _undecoded(rows, self._audio)
        self._seed = seed

    def clips(self, number: int) -> Iterator[EncodedClip]:
        """See :meth:`ClipStream.clips`."""
        # A buffer of one row shuffles the files only; mixing clips is the window's part.
        rows = self._rows.shuffle(seed=self._seed + number, buffer_size=1)
        for i, row in enumerate(rows):
            yield self._clip(f"{self.identity} row {i}", row)

    def _clip(self, where: str, row: Mapping[str, Any]) -> EncodedClip:
        audio, value = row[self._audio], row[self._label]
        if audio is None or value is None:
            raise CorpusError(f"{where}: audio or label is missing; leave such rows out of the data set")
        label = self._names[value] if self._names is not None else str(value)
        encoded = Path(audio) if isinstance(audio, str) else audio["bytes"] or Path(audio["path"])
        speaker = "" if self._speaker is None else str(row[self._speaker] or "")
        return EncodedClip(name=where, label=label, speaker=speaker, audio=encoded)


def _column(identity: str, found: list[str], what: str) -> str:
    if not found:
        raise CorpusError(f"{identity}: has no {what} column; rename one")
    return found[0]


def _undecoded(rows: Any, column: str) -> Any:
    """The rows with audio as bytes or paths, whichever they have."""
    from datasets import Audio, Value

    encoded = rows.cast_column(column, Audio(decode=False))
    try:
        next(iter(encoded), None)
    except ImportError:
        # Rows from label folders are bare paths, which an audio column takes only where torchcodec is installed.
        return rows.cast_column(column, Value("string"))
    return encoded
