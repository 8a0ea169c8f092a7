"""Mutators for bytes and for JSON documents: what chance does to a file, and what malice does to its meaning."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

INTEGERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 4096, 65_535, 2**16, 2**20, 2**26, 2**31 - 1, 2**31, 2**32, 2**63)
FLOATS = (0.0, -0.0, 1e-45, 1e-30, 0.5, 1.0, 1e6, 1e30, 1e308, 5e-324, float("inf"), float("nan"))
TEXTS = ("", "a", "../x", "/etc/passwd", "a\\b", "\0", "\x1b[31m", "line\nline", "\u202ex", "\ud800", "x" * 3000)
ODDITIES = (None, True, False, [], {}, [[]], [0], {"": 0}, [None], 10**400, -(10**25), "0", [[[[[[1]]]]]])

Path = tuple[str | int, ...]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: flipped bits, other bytes, cuts, doubled or foreign stretches."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if changed:
            rng.choice(_BYTE_CHANGES)(changed, rng)
    return bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_word(data: bytearray, rng: random.Random) -> None:
    """An aligned little-endian number, since offsets, sizes and counts are such."""
    size = rng.choice((2, 4, 4, 8))
    at = rng.randrange(max(1, len(data) // size)) * size
    value = rng.choice((*INTEGERS, -2, -4, len(data), len(data) - at, rng.randrange(2**31)))
    data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")


def _add_to_word(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(max(1, len(data) // 4)) * 4
    value = int.from_bytes(data[at : at + 4], "little") + rng.choice((-8, -4, -1, 1, 4, 8, 64))
    data[at : at + 4] = (value % 2**32).to_bytes(4, "little")


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 4, 16))]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))


def _copy(data: bytearray, rng: random.Random) -> None:
    size, source, target = rng.randrange(1, 64), rng.randrange(len(data)), rng.randrange(len(data))
    data[target : target + size] = data[source : source + size]


_BYTE_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _set, _set, _set_word, _set_word, _set_word, _add_to_word, _cut, _remove, _insert, _copy,
)  # fmt: skip


def mutate_json(document: Any, rng: random.Random) -> Any:
    """A deep copy with one to three changes of its meaning."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.15:
            changed = replace_number(changed, *_number_and_other(changed, rng))
        else:
            _change_one(changed, rng)
    return changed


def json_bytes(document: Any, rng: random.Random) -> bytes:
    """Its text; one time in twenty a damaged one."""
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    return mutate_bytes(text, rng) if rng.random() < 0.05 else text


def replace_number(document: Any, number: int, other: int) -> Any:
    """Every ``number`` of the document made ``other``, so that sizes that belong together still do."""
    if isinstance(document, dict):
        return {name: replace_number(value, number, other) for name, value in document.items()}
    if isinstance(document, list):
        return [replace_number(value, number, other) for value in document]
    return other if type(document) is int and document == number else document


def _number_and_other(document: Any, rng: random.Random) -> tuple[int, int]:
    numbers = [at(document, path) for path in leaves(document)]
    number = rng.choice([value for value in numbers if type(value) is int] or [0])
    return number, _other_integer(number, rng)


def _other_integer(value: int, rng: random.Random) -> int:
    near = (value + 1, value - 1, value * 2, value // 2, -value, value * 1000)
    return rng.choice((*near, *near, *INTEGERS))


def leaves(document: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all values that are neither object nor list, in order."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, (dict, list)) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def at(document: Any, path: Path) -> Any:
    """The value at ``path``."""
    for key in path:
        document = document[key]
    return document


def _change_one(document: Any, rng: random.Random) -> None:
    paths = list(leaves(document))
    if not paths:
        return
    path = rng.choice(paths)
    if len(path) > 1 and rng.random() < 0.25:
        path = path[: rng.randrange(1, len(path))]
    parent, key = at(document, path[:-1]), path[-1]
    rng.choice(_JSON_CHANGES)(parent, key, rng)


def _other(parent: Any, key: Any, rng: random.Random) -> None:
    value = parent[key]
    if type(value) is int and rng.random() < 0.8:
        parent[key] = _other_integer(value, rng)
    elif isinstance(value, float) and rng.random() < 0.8:
        parent[key] = rng.choice((*FLOATS, value * 2, value / 2, -value, value + 1))
    elif isinstance(value, str) and rng.random() < 0.8:
        parent[key] = rng.choice((*TEXTS, value + "x", value[:-1], value.upper()))
    else:
        parent[key] = copy.deepcopy(rng.choice((*ODDITIES, *INTEGERS, *FLOATS, *TEXTS)))


def _delete(parent: Any, key: Any, rng: random.Random) -> None:
    del parent[key]


def _rename(parent: Any, key: Any, rng: random.Random) -> None:
    if isinstance(parent, dict):
        parent[rng.choice((*TEXTS, f"{key}_"))] = parent.pop(key)


def _repeat(parent: Any, key: Any, rng: random.Random) -> None:
    if isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 1, 2, 500)))]


def _swap(parent: Any, key: Any, rng: random.Random) -> None:
    other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]


def _nest(parent: Any, key: Any, rng: random.Random) -> None:
    parent[key] = rng.choice(([parent[key]], {"value": parent[key]}))


_JSON_CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    _other, _other, _other, _other, _other, _other, _delete, _rename, _repeat, _swap, _nest,
)  # fmt: skip
