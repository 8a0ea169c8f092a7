"""A folder with a ``manifest.csv``: one row a clip, paths relative to the manifest."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from edgeaudio_models.corpora.clips import SPLITS, Clip, Corpus, Source, default_labels
from edgeaudio_models.errors import CorpusError

COLUMNS = ("path", "label", "word", "speaker", "split", "samples", "sample_rate", "source")
"""Known columns; ``path`` and ``label`` are required, others may be missing and further ones are ignored."""

KNOWN_SOURCES = {
    "speech_commands_v0.01": Source(
        name="Speech Commands v0.01", licence="CC BY 4.0", citation="Pete Warden, arXiv:1804.03209"
    ),
    "speech_commands_v0.02": Source(
        name="Speech Commands v0.02", licence="CC BY 4.0", citation="Pete Warden, arXiv:1804.03209"
    ),
    "speech_commands_test_set_v0.02": Source(
        name="Speech Commands v0.02 test set", licence="CC BY 4.0", citation="Pete Warden, arXiv:1804.03209"
    ),
    "free-spoken-digit-dataset": Source(
        name="Free Spoken Digit Dataset", licence="CC BY-SA 4.0", citation="Jakobovski/free-spoken-digit-dataset"
    ),
    "LibriSpeech train-clean-100": Source(
        name="LibriSpeech train-clean-100", licence="CC BY 4.0", citation="Panayotov et al., ICASSP 2015"
    ),
    "ESC-10": Source(
        name="ESC-10", licence="CC BY 3.0", citation="Piczak, ACM Multimedia 2015; CC0 or CC BY for each clip"
    ),
    "Picovoice/wake-word-benchmark": Source(
        name="Picovoice wake-word benchmark", licence="Apache-2.0", citation="Picovoice/wake-word-benchmark"
    ),
}
"""Terms of data sets that manifests name in their ``source`` column."""


def open_manifest(folder: Path) -> Corpus:
    """Read ``folder/manifest.csv``.

    Raises:
        CorpusError: No manifest, not CSV, a missing column, an unknown split, a rate that is no number, or a path that
            leaves the folder.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise CorpusError(f"{manifest}: no such file; a manifest has the columns {','.join(COLUMNS)}")
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _check_columns(manifest, reader.fieldnames or ())
            clips = tuple(_clip(folder, manifest, reader.line_num, row) for row in reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{manifest}: not a UTF-8 table with commas ({error}); write it again") from error
    names = sorted({clip.source for clip in clips})
    return Corpus(
        name=folder.name,
        root=folder,
        labels=default_labels([clip.label for clip in clips]),
        clips=clips,
        sources=tuple(KNOWN_SOURCES.get(name, Source(name=name or folder.name, licence="unstated")) for name in names),
    )


def _check_columns(manifest: Path, columns: object) -> None:
    present = list(columns) if isinstance(columns, (list, tuple)) else []
    missing = [name for name in ("path", "label") if name not in present]
    if missing:
        raise CorpusError(f"{manifest}: columns {missing} are missing; the first line must name {','.join(COLUMNS)}")


def _clip(folder: Path, manifest: Path, line: int, row: Mapping[str, str | None]) -> Clip:
    name, label, split = (row.get(column) or "" for column in ("path", "label", "split"))
    if not name or not label:
        raise CorpusError(f"{manifest}:{line}: path={name!r} and label={label!r} must not be empty")
    if split and split not in SPLITS:
        raise CorpusError(f"{manifest}:{line}: split={split!r} must be one of {list(SPLITS)}")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise CorpusError(f"{manifest}:{line}: path={name!r} must stay inside the folder of the manifest")
    return Clip(
        path=folder / path,
        label=label,
        word=row.get("word") or "",
        speaker=row.get("speaker") or "",
        split=split,
        source=row.get("source") or "",
        sample_rate=_rate(f"{manifest}:{line}", row.get("sample_rate") or ""),
    )


def _rate(where: str, text: str) -> int | None:
    if text and not text.isdecimal():
        raise CorpusError(f"{where}: sample_rate={text!r} must be a whole number of Hz, or empty")
    return int(text) if text else None
