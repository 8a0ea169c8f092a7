"""What labels of a CTC network spell: where words begin, which labels make a word, and tries of such spellings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeaudio_runtime.errors import SpecError

MOST_SPELT = 100_000
"""Characters in all words, phrases and hotwords together; their trees then take 30 MB at most."""
_LONGEST_PIECE = 64
"""Longer labels are found in no word."""
_MARKS = (" ", "|", "\u2581")
"""Alone between words, or first in a label that begins one: characters, wav2vec 2.0, SentencePiece."""


def _byte_alphabet() -> dict[int, str]:
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTE_TO_LETTER = _byte_alphabet()
_LETTER_TO_BYTE = {letter: byte for byte, letter in _BYTE_TO_LETTER.items()}


def byte_level_text(text: str) -> str:
    """Text that the byte-level alphabet spells: printable Latin-1 stands for itself, the other bytes from U+0100 on."""
    return bytes(_LETTER_TO_BYTE[letter] for letter in text if letter in _LETTER_TO_BYTE).decode("utf-8", "replace")


class Spelling:
    """The labels of a network as parts of words; ``labels[0]`` is the blank and spells nothing."""

    def __init__(self, labels: Sequence[str], *, separator: str = "", byte_level: bool = False) -> None:
        """Look at the labels: whole words (``separator`` is not empty), or characters and pieces of words."""
        self.labels, self.is_word_level, self._byte_level = tuple(labels), bool(separator), byte_level
        shown = [byte_level_text(label) if byte_level else label for label in labels]
        marked = [bool(text) and text[0] in _MARKS for text in shown]
        self.divides = [mark and len(text) == 1 for mark, text in zip(marked, shown, strict=True)]
        """Whether a label stands alone between two words."""
        self.starts = [self.is_word_level or mark for mark in marked]
        """Whether a label ends the word before it."""
        self.has_boundaries = any(self.starts[1:])
        pieces = [text[0] for text, mark in zip(shown[1:], marked[1:], strict=True) if mark and len(text) > 1]
        dividers = [text for text, divides in zip(shown[1:], self.divides[1:], strict=True) if divides]
        self._mark, self._divider = (pieces[0] if pieces else ""), (dividers[0] if dividers and not pieces else "")
        self._ids = {label: number for number, label in reversed(list(enumerate(labels))) if number}

    def text(self, labels: Iterable[str]) -> str:
        """What labels without a boundary inside spell."""
        joined = "".join(labels)
        return (byte_level_text(joined) if self._byte_level else joined).lstrip("".join(_MARKS))

    def spell(self, phrase: str) -> tuple[int, ...]:
        """Labels of a phrase, the longest that fit first.

        Raises:
            SpecError: A word or letter that no label stands for.
        """
        words = phrase.split()
        if self.is_word_level:
            parts = words
        else:
            joined = self._divider.join(self._mark + word for word in words)
            parts = self._pieces(self._raw(joined))
        missing = [part for part in parts if part not in self._ids]
        if missing:
            raise SpecError(f"{phrase!r} cannot be spelt: no label is {missing[0]!r}; labels are {_few(self._ids)}")
        return tuple(self._ids[part] for part in parts)

    def _raw(self, text: str) -> str:
        return "".join(_BYTE_TO_LETTER[byte] for byte in text.encode()) if self._byte_level else text

    def _pieces(self, text: str) -> list[str]:
        longest = min(_LONGEST_PIECE, max(map(len, self._ids), default=1))
        pieces: list[str] = []
        position = 0
        while position < len(text):
            rest = text[position : position + longest]
            fitting = [rest[:n] for n in range(len(rest), 0, -1) if rest[:n] in self._ids]
            pieces.append(fitting[0] if fitting else rest[0])
            position += len(pieces[-1])
        return pieces


class Trie:
    """A node of a tree of spellings."""

    __slots__ = ("bonus", "children", "ends", "share")

    def __init__(self) -> None:
        self.children: dict[int, Trie] = {}
        self.ends = False
        """Whether a spelling ends here."""
        self.bonus = 0.0
        """Of the spelling that ends here."""
        self.share = 0.0
        """Of the largest bonus of a spelling that goes through here, in proportion to its length."""

    def add(self, spelling: Sequence[int], bonus: float = 0.0) -> None:
        """Add a spelling of at least one label."""
        node = self
        for depth, label in enumerate(spelling, start=1):
            node = node.children.setdefault(label, Trie())
            share = bonus * depth / len(spelling)
            node.share = share if node.share == 0.0 else max(node.share, share)
        node.ends, node.bonus = True, bonus


def check_total(texts: Iterable[str]) -> None:
    """Refuse lists that would fill a device's memory.

    Raises:
        SpecError: More than ``MOST_SPELT`` characters.
    """
    total = sum(map(len, texts))
    if total > MOST_SPELT:
        raise SpecError(f"words and hotwords have {total} characters, they must have <= {MOST_SPELT}; list fewer")


def _few(ids: dict[str, int]) -> list[str]:
    return list(ids)[-8:] if len(ids) > 8 else list(ids)
