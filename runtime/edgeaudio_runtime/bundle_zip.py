"""A bundle packed into one ``.zip``, read without unpacking."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib

from edgeaudio_runtime.bundle_files import MAX_FILE_BYTES, limited
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.manifest import check_path

MAX_FILES = 1000
"""No bundle has more files in its zip."""

_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OverflowError)
"""All that zipfile was seen to raise on damaged archives."""


class ZipFiles:
    """A bundle packed into one zip file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.path.isfile(path) or not zipfile.is_zipfile(path):
            raise BundleError(f"{os.fspath(path)!r} is neither a directory nor a .zip file; pass a bundle")
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
                return limited(file.read(limit + 1), path, limit)
        except _DAMAGE as error:
            raise BundleError(f"zip entry {path!r} is damaged: {error}; copy the bundle again") from error
