"""The bytes of a bundle, wherever it lies; nothing outside it is ever touched."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.manifest import check_path

MAX_FILE_BYTES = 256 * 1024 * 1024
"""No file of a bundle may be larger; a model for a device is a few MB."""


class BundleFiles(Protocol):
    """Read access to the files of a bundle by their relative paths."""

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of ``path``; raises BundleError if it is missing, larger than ``limit``, or leads out of the bundle."""
        ...

    def has(self, path: str) -> bool:
        """Whether ``path`` names a file of the bundle."""
        ...


def open_files(path: str | os.PathLike[str]) -> BundleFiles:
    """Open a bundle directory or zip file for reading.

    Raises:
        BundleError: ``path`` does not exist, is neither, or is a zip file that no bundle writer made.
    """
    if os.path.isdir(path):
        return DirectoryFiles(path)
    if not os.path.exists(path):
        raise BundleError(f"bundle {os.fspath(path)!r} does not exist; pass a bundle directory or its .zip")
    from edgeaudio_runtime.bundle_zip import ZipFiles  # zipfile takes longer to import than all the rest

    return ZipFiles(path)


class DirectoryFiles:
    """A bundle that lies in a directory."""

    # os.path instead of pathlib, whose import takes longer than that of this module and its next five.

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.realpath(root)

    def has(self, path: str) -> bool:
        """Whether ``path`` names a file of the bundle."""
        return os.path.isfile(self._resolve(path))

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
        try:
            # Judged before it becomes a file object, which a directory cannot.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"{path!r} of the bundle is no regular file; copy the whole bundle again")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return limited(file.read(limit + 1), path, limit)
        finally:
            os.close(descriptor)

    def _resolve(self, path: str) -> str:
        try:
            target = os.path.realpath(os.path.join(self._root, check_path(path)))
        except OSError as error:
            raise BundleError(f"cannot read {path!r} of the bundle: {error}; copy the whole bundle again") from error
        if not os.path.join(target, "").startswith(os.path.join(self._root, "")):
            raise BundleError(f"{path!r} leads out of the bundle, to {target!r}; a bundle holds its own files")
        return target


def limited(data: bytes, path: str, limit: int) -> bytes:
    """``data`` as it is; raises BundleError when more than ``limit`` bytes were there."""
    if len(data) > limit:
        raise BundleError(f"{path!r} is larger than {limit} bytes, which no bundle needs here; is it one?")
    return data
