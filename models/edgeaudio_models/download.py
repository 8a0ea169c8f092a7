"""Fetch archives over HTTP: resumed, retried, verified by SHA-256, and unpacked without leaving the folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO

from edgeaudio_models.errors import DownloadError
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

CHUNK_BYTES = 1 << 20

MAX_UNPACKED_BYTES = 16 << 30
"""More than this in an archive is a mistake or a bomb; Speech Commands unpacks to 3.3 GB."""

Progress = Callable[[int, int | None], None]
"""Called with (bytes there, bytes in all or None where the server does not say)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A published file: where it is and how to know it."""

    url: str
    """Where to fetch it."""
    sha256: str
    """SHA-256 of the whole file, lower-case hex."""
    size: int | None = None
    """Bytes; None if unpublished."""

    @property
    def file_name(self) -> str:
        """Last part of the URL."""
        return self.url.rpartition("/")[2]


SPEECH_COMMANDS_V2 = Archive(
    url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    size=2_428_923_189,
)
"""Speech Commands v0.02, CC BY 4.0; the checksum that torchaudio and TensorFlow Datasets publish for this file."""


def fetch(
    archive: Archive,
    target: Path,
    *,
    retries: int = 5,
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Download to ``target``; a file that is already there and right is kept.

    What has arrived lies in ``<target>.part`` and survives a kill; the next call asks for the rest (HTTP Range) and
    starts over where the server cannot do that. The file appears under its name only when its checksum is right.

    Args:
        archive: What to fetch.
        target: File to write.
        retries: How often to go on after a failed or cut connection that brought nothing new.
        timeout_s: Longest silence of the server in seconds.
        pause_s: Pause before the first retry in seconds, doubled with each.
        progress: Called after each chunk.

    Returns:
        ``target``.

    Raises:
        DownloadError: The server refuses, the retries are used up, the disk is full, or the checksum differs.
    """
    if target.is_file() and _sha256(target) == archive.sha256:
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_all(archive, part, retries=retries, timeout_s=timeout_s, pause_s=pause_s, progress=progress)
        _verify(archive, part)
        part.replace(target)
    except OSError as error:
        raise DownloadError(
            f"{target}: cannot be written ({error.strerror or error}); free the disk and call again"
        ) from error
    return target


def unpack(archive: Path, folder: Path, *, force: bool = False) -> Path:
    """Unpack a tar archive into ``folder``, whole or not at all; members that would leave it are refused.

    Raises:
        DownloadError: No tar archive, cut short, unsafe, or absurdly large.
        OutputError: The folder exists and ``force`` is false.
    """
    try:
        with tarfile.open(archive) as tar, staged_directory(folder, force=force) as staged:
            tar.extractall(staged, filter=_safe_filter(archive))
    except tarfile.FilterError as error:
        raise DownloadError(f"{archive}: unsafe archive ({error}); nothing was unpacked") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DownloadError(f"{archive}: cannot be unpacked ({reason}); fetch it again") from error
    return folder


def fetch_speech_commands(
    folder: Path, *, archive: Archive = SPEECH_COMMANDS_V2, keep_archive: bool = False, progress: Progress | None = None
) -> Path:
    """Download Speech Commands v0.02 and unpack it into ``folder``; returns ``folder``, which ``open_corpus`` opens.

    Args:
        folder: Where the words' folders shall lie; the archive is kept beside it while it is needed.
        archive: What to fetch; another mirror with the same file can be given.
        keep_archive: Whether the archive stays after unpacking.
        progress: Called after each chunk with the bytes there and in all.

    Raises:
        DownloadError: See :func:`fetch` and :func:`unpack`.
        OutputError: The folder exists.
    """
    refuse_overwrite(folder, force=False)
    packed = fetch(archive, folder.with_name(archive.file_name), progress=progress)
    unpack(packed, folder)
    if not keep_archive:
        packed.unlink()
    return folder


def _fetch_all(
    archive: Archive, part: Path, *, retries: int, timeout_s: float, pause_s: float, progress: Progress | None
) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch_rest(archive, part, timeout_s=timeout_s, progress=progress)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failures = 0 if _size(part) > before else failures + 1
            if _is_final(error) or failures > retries:
                raise DownloadError(
                    f"{archive.url}: {_reason(error)}; call again to go on from {_size(part)} bytes"
                ) from error
            time.sleep(pause_s * 2.0 ** max(0, failures - 1))
        else:
            return


def _fetch_rest(archive: Archive, part: Path, *, timeout_s: float, progress: Progress | None) -> None:
    """Bring ``part`` to its full length, from where it ends."""
    there = _size(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        return  # nothing is missing, or the part is no part of this file: the checksum tells
    with response:
        there = there if response.status == HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else there + int(length)
        with part.open("r+b" if there else "wb") as stream:
            stream.seek(there)
            _copy(response, stream, there, total, progress)


def _copy(source: IO[bytes], stream: IO[bytes], there: int, total: int | None, progress: Progress | None) -> None:
    while block := source.read(CHUNK_BYTES):
        stream.write(block)
        there += len(block)
        if progress is not None:
            progress(there, total)
    if total is not None and there < total:
        raise ConnectionError(f"the connection ended after {there} of {total} bytes")


def _verify(archive: Archive, part: Path) -> None:
    found = _sha256(part)
    if found != archive.sha256:
        size = _size(part)
        part.unlink()
        expected = "" if archive.size is None else f" of {archive.size}"
        raise DownloadError(
            f"{archive.url}: sha256={found} must be {archive.sha256} ({size}{expected} bytes came); "
            "it was removed, fetch it again or from another mirror"
        )


def _safe_filter(archive: Path) -> Callable[[tarfile.TarInfo, str], tarfile.TarInfo | None]:
    """The standard "data" filter, with a bound on what comes out in all."""
    total = 0

    def check(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        nonlocal total
        total += member.size
        if total > MAX_UNPACKED_BYTES:
            raise DownloadError(f"{archive}: unpacks to more than {MAX_UNPACKED_BYTES} bytes; is it the right file?")
        return tarfile.data_filter(member, folder)

    return check


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.exists() else 0


def _is_final(error: Exception) -> bool:
    """A client error (404, 403) stays one; too many requests and time-outs pass."""
    passing = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in passing


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
