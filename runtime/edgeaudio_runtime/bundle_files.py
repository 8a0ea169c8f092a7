"""The bytes of a bundle: a directory, or one ``.zip`` read without unpacking; nothing outside it is ever touched."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.manifest import check_path

MAX_FILE_BYTES = 256 * 1024 * 1024
"""No file of a bundle may be larger; a model for a device is a few MB."""
MAX_FILES = 1000
"""No bundle has more files in its zip."""


_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OverflowError)
"""All that zipfile was seen to raise on damaged archives."""


class BundleFiles(Protocol):
    """Read access to the files of a bundle by their relative paths."""

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of ``path``; raises BundleError if it is missing, larger than ``limit``, or leads out of the bundle."""
        ...

    def has(self, path: str) -> bool:
        """Whether ``path`` names a file of the bundle."""
        ...


def open_files(path: Path) -> BundleFiles:
    """Open a bundle directory or zip file for reading.

    Raises:
        BundleError: ``path`` does not exist, is neither, or is a zip file that no bundle writer made.
    """
    if path.is_dir():
        return DirectoryFiles(path)
    if not path.exists():
        raise BundleError(f"bundle {str(path)!r} does not exist; pass a bundle directory or its .zip")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise BundleError(f"{str(path)!r} is neither a directory nor a .zip file; pass a bundle")
    return ZipFiles(path)


class DirectoryFiles:
    """A bundle that lies in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def has(self, path: str) -> bool:
        """Whether ``path`` names a file of the bundle."""
        return self._resolve(path).is_file()

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of ``path``; see :class:`BundleFiles`."""
        target = self._resolve(path)
        try:
            # Opened without blocking, then judged: a FIFO in a bundle must not hang its reader.
            descriptor = os.open(target, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise BundleError(f"bundle lacks {path!r}; copy the whole bundle again") from error
        except OSError as error:
            raise BundleError(f"cannot read {path!r} of the bundle: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{path!r} of the bundle is no regular file; copy the whole bundle again")
            return _limited(file.read(limit + 1), path, limit)

    def _resolve(self, path: str) -> Path:
        target = (self._root / check_path(path)).resolve()
        if not target.is_relative_to(self._root):
            raise BundleError(f"{path!r} leads out of the bundle, to {str(target)!r}; a bundle holds its own files")
        return target


class ZipFiles:
    """A bundle packed into one zip file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as archive:
            entries = archive.infolist()
        if len(entries) > MAX_FILES:
            raise BundleError(f"zip has {len(entries)} entries, a bundle has at most {MAX_FILES}")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            self._add(entry)

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._path)
        except _DAMAGE as error:
            raise BundleError(f"cannot read {str(self._path)!r}: {error}; copy it again") from error

    def _add(self, entry: zipfile.ZipInfo) -> None:
        # orig_filename: ZipInfo turns a backslash or NUL in the name into something harmless-looking.
        name = check_path(entry.orig_filename.removesuffix("/"))
        if entry.is_dir():
            return
        if name in self._entries:
            raise BundleError(f"zip has {name!r} more than once; pack the bundle again")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"zip entry {name!r} is a symbolic link; a bundle holds its own files")
        if entry.flag_bits & 0x1:
            raise BundleError(f"zip entry {name!r} is encrypted; pack the bundle without a password")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"zip entry {name!r} is neither stored nor deflated; pack the bundle with plain zip")
        self._entries[name] = entry

    def has(self, path: str) -> bool:
        """Whether ``path`` names a file of the bundle."""
        return check_path(path) in self._entries

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of ``path``; see :class:`BundleFiles`."""
        entry = self._entries.get(check_path(path))
        if entry is None:
            raise BundleError(f"bundle lacks {path!r}; the zip must hold the files, not a folder around them")
        try:
            with self._open() as archive, archive.open(entry) as file:
                # The declared size is not trusted: reading stops at the limit.
                return _limited(file.read(limit + 1), path, limit)
        except _DAMAGE as error:
            raise BundleError(f"zip entry {path!r} is damaged: {error}; copy the bundle again") from error


def _limited(data: bytes, path: str, limit: int) -> bytes:
    if len(data) > limit:
        raise BundleError(f"{path!r} is larger than {limit} bytes, which no bundle needs here; is it one?")
    return data
