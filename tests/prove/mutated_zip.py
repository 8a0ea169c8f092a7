"""Mutated containers: zip files whose directory lies, and folders whose files are something else."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.prove.mutated_bundle import Files
from tests.prove.mutation import INTEGERS, mutate_bytes

NAMES = (
    "../escape", "../../escape", "/etc/passwd", "a/../../escape", "..\\escape", "C:\\escape", "C:escape", "model.bin/",
    "./model.json", "model.json", "MODEL.JSON", "golden", "golden/", "a//b", ".", "..", "", "nul\0byte", "\x1b[31mred",
    "x" * 70_000, "é", "．．/escape", "canary", "../canary", "golden/../../canary",
)  # fmt: skip
METHODS = (0, 0, 8, 8, 12, 14, 93, 1, 99)
BOMB_BYTES = 300 * 2**20


@dataclass(kw_only=True)
class Entry:
    """One file of an archive, with whatever its two headers claim."""

    name: bytes
    data: bytes
    """As it lies in the archive."""
    method: int
    size: int
    """What the headers say it unpacks to."""
    crc: int
    flags: int = 0
    attributes: int = 0o100644 << 16
    extra: bytes = b""
    offset_by: int = 0
    """Added to the offset that the directory gives."""
    stored_size: int | None = None
    """Compressed size claimed; None for the true one."""
    local_name: bytes | None = None
    """Name in the header before the data, where it is another."""


def entry_of(name: str, data: bytes, *, deflated: bool) -> Entry:
    """An honest entry."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush() if deflated else data
    return Entry(name=name.encode(), data=packed, method=8 * deflated, size=len(data), crc=zlib.crc32(data))


def archive(entries: list[Entry], *, comment: bytes = b"", claimed: int | None = None, shift: int = 0) -> bytes:
    """The bytes of a zip file; ``claimed`` is the number of entries it says it has, ``shift`` moves its directory."""
    body, directory = b"", b""
    for entry in entries:
        offset = len(body)
        local, central = _headers(entry, offset)
        body += local + entry.data
        directory += central
    count = len(entries) if claimed is None else claimed
    numbers = (0, 0, count % 65_536, count % 65_536, len(directory) % 2**32, (len(body) + shift) % 2**32, len(comment))
    return body + directory + struct.pack("<IHHHHIIH", 0x06054B50, *numbers) + comment


def _headers(entry: Entry, offset: int) -> tuple[bytes, bytes]:
    packed = len(entry.data) if entry.stored_size is None else entry.stored_size
    local_name = entry.name if entry.local_name is None else entry.local_name
    sizes = (entry.crc % 2**32, packed % 2**32, entry.size % 2**32)
    shared = (20, entry.flags, entry.method, 0, 33, *sizes)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, *shared, len(local_name) % 65_536, 0) + local_name
    ends = (len(entry.name) % 65_536, len(entry.extra), 0, 0, 0, entry.attributes, (offset + entry.offset_by) % 2**32)
    central = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 0x0314, *shared, *ends) + entry.name + entry.extra
    return local, central


def mutated_zip(files: Files, rng: random.Random) -> bytes:
    """A zip of ``files`` in which one to three things are not as they should be."""
    entries = [entry_of(name, data, deflated=rng.random() < 0.5) for name, data in files.items()]
    changes = rng.choice((1, 1, 2, 3))
    for _ in range(changes):
        rng.choice(_ENTRY_CHANGES)(entries, rng)
    kwargs = {}
    if rng.random() < 0.1:
        kwargs["claimed"] = rng.choice((0, 1, len(entries) + 1, 65_535))
    if rng.random() < 0.1:
        kwargs["shift"] = rng.choice((-1, 1, 64, 2**31, 2**32 - 1))
    data = archive(entries, comment=rng.choice((b"",) * 8 + (b"x" * 65_535, b"PK\5\6" * 9)), **kwargs)
    if rng.random() < 0.08:
        data = rng.choice((b"#!/bin/sh\n", rng.randbytes(100))) + data
    return mutate_bytes(data, rng) if rng.random() < 0.25 else data


def _renamed(entries: list[Entry], rng: random.Random) -> None:
    entry = rng.choice(entries)
    entry.name = rng.choice((*NAMES, entries[0].name.decode("utf-8", "replace"))).encode()[:65_535]


def _added(entries: list[Entry], rng: random.Random) -> None:
    entry = entry_of(rng.choice(NAMES)[:60_000], rng.randbytes(rng.randrange(50)), deflated=False)
    entries.insert(rng.randrange(len(entries) + 1), entry)


def _doubled(entries: list[Entry], rng: random.Random) -> None:
    entry = replace(rng.choice(entries))
    if rng.random() < 0.5:
        entry.data = mutate_bytes(entry.data, rng)
    entries.append(entry)


def _overlapping(entries: list[Entry], rng: random.Random) -> None:
    rng.choice(entries).offset_by = rng.choice((-1, 1, -30, -100, -1000, 1000, *INTEGERS))


def _other_number(entries: list[Entry], rng: random.Random) -> None:
    entry, name = rng.choice(entries), rng.choice(("size", "crc", "stored_size"))
    setattr(entry, name, rng.choice((*INTEGERS, entry.size + 1, entry.size - 1, len(entry.data) + 1)))


def _other_method(entries: list[Entry], rng: random.Random) -> None:
    rng.choice(entries).method = rng.choice(METHODS)


def _other_flags(entries: list[Entry], rng: random.Random) -> None:
    rng.choice(entries).flags = rng.choice((1, 8, 0x20, 0x40, 0x800, 0x2000, 0xFFFF))


def _linked(entries: list[Entry], rng: random.Random) -> None:
    kinds = (0o120777, 0o010644, 0o060644, 0o040755, 0o140777, 0o104755)
    entry = rng.choice(entries)
    entry.attributes = rng.choice(kinds) << 16
    if rng.random() < 0.5:
        target = b"../canary"
        entry.data, entry.method, entry.size, entry.crc = target, 0, len(target), zlib.crc32(target)


def _other_local_name(entries: list[Entry], rng: random.Random) -> None:
    rng.choice(entries).local_name = rng.choice(NAMES)[:60_000].encode()


def _with_extra(entries: list[Entry], rng: random.Random) -> None:
    zip64 = struct.pack("<HHQQQ", 1, 24, *(rng.choice(INTEGERS) % 2**64 for _ in range(3)))
    unicode_path = struct.pack("<HHBI", 0x7075, 5 + 9, 1, 0) + b"../canary"
    entry = rng.choice(entries)
    entry.extra = rng.choice((zip64, zip64[:13], unicode_path, rng.randbytes(rng.randrange(30))))
    if rng.random() < 0.5:
        entry.size = 0xFFFFFFFF


def _dropped(entries: list[Entry], rng: random.Random) -> None:
    if len(entries) > 1:
        entries.pop(rng.randrange(len(entries)))


def _crowded(entries: list[Entry], rng: random.Random) -> None:
    if rng.random() < 0.1:
        entries += [entry_of(f"golden/{i}", b"", deflated=False) for i in range(rng.choice((100, 999, 1200)))]


def _bomb(entries: list[Entry], rng: random.Random) -> None:
    """Zeros that unpack to far more than they take; seldom, since unpacking them costs a second."""
    if rng.random() < 0.02:
        entry, packed = rng.choice(entries), _packed_zeros()
        entry.data, entry.method, entry.size, entry.crc = packed, 8, rng.choice((entry.size, BOMB_BYTES)), entry.crc


_packed: list[bytes] = []


def _packed_zeros() -> bytes:
    if not _packed:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        _packed.append(b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush())
    return _packed[0]


_ENTRY_CHANGES: tuple[Callable[[list[Entry], random.Random], None], ...] = (
    _renamed, _renamed, _added, _added, _doubled, _overlapping, _other_number, _other_number, _other_method,
    _other_flags, _linked, _other_local_name, _with_extra, _dropped, _crowded, _bomb,
)  # fmt: skip


def write_mutated_folder(files: Files, place: Path, rng: random.Random) -> Path:
    """A bundle directory in which files are links, pipes, folders, or named by a manifest that leads out of it."""
    shutil.rmtree(place, ignore_errors=True)
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(_FOLDER_CHANGES)(place, rng)
    return place


def _some_file(place: Path, rng: random.Random) -> Path:
    """One of the bundle's own files; never what a link leads to, for it will be changed."""
    found = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=False) for name in names]
    return rng.choice(sorted(path for path in found if stat.S_ISREG(path.lstat().st_mode)))


def _link(place: Path, rng: random.Random) -> None:
    path = _some_file(place, rng)
    path.unlink()
    path.symlink_to(
        rng.choice(("../canary", "../../canary", "/etc/passwd", "/dev/zero", path.name, ".", "..", "nowhere"))
    )


def _linked_folder(place: Path, rng: random.Random) -> None:
    golden = place / "golden"
    if golden.is_dir() and not golden.is_symlink():
        shutil.rmtree(golden)
        golden.symlink_to(rng.choice(("..", "/", "golden", "../outside")))


def _pipe(place: Path, rng: random.Random) -> None:
    path = _some_file(place, rng)
    path.unlink()
    os.mkfifo(path)


def _folder(place: Path, rng: random.Random) -> None:
    path = _some_file(place, rng)
    path.unlink()
    path.mkdir()


def _sparse(place: Path, rng: random.Random) -> None:
    """A file of hundreds of megabytes that takes no room."""
    if rng.random() < 0.1:
        os.truncate(_some_file(place, rng), rng.choice((2**28, 2**28 + 1, 2**33)))


def _leading_out(place: Path, rng: random.Random) -> None:
    path = place / "manifest.json"
    if not path.is_symlink() and path.is_file() and path.stat().st_size < 2**20:
        manifest = json.loads(path.read_bytes())
        rng.choice(manifest["artifacts"])["path"] = rng.choice(NAMES)
        path.write_text(json.dumps(manifest))


def _unreadable(place: Path, rng: random.Random) -> None:
    _some_file(place, rng).unlink()


_FOLDER_CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    _link, _link, _linked_folder, _pipe, _folder, _sparse, _leading_out, _leading_out, _unreadable,
)  # fmt: skip
