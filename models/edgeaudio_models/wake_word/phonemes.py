"""English words as phonemes, and how far two words are apart.

Pronunciations come from the lexicon of ``gruut-lang-en`` (MIT; from the CMU Pronouncing Dictionary, BSD), words
that it lacks from the conditional random field that comes with it, read by python-crfsuite (MIT). Nothing is fetched.
"""

from __future__ import annotations

import base64
import importlib.util
import math
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from edgeaudio_models.errors import SynthesisError

Phonemes = tuple[str, ...]

_STRESS = str.maketrans("", "", "ˈˌ")
_CONTEXT_LETTERS = 3
_NOTHING = "_"

_CONSONANTS: Mapping[str, tuple[str, str, bool]] = {
    "p": ("stop", "lips", False), "b": ("stop", "lips", True), "t": ("stop", "ridge", False),
    "d": ("stop", "ridge", True), "k": ("stop", "back", False), "ɡ": ("stop", "back", True),
    "t͡ʃ": ("affricate", "palate", False), "d͡ʒ": ("affricate", "palate", True),
    "f": ("fricative", "lips", False), "v": ("fricative", "lips", True), "θ": ("fricative", "teeth", False),
    "ð": ("fricative", "teeth", True), "s": ("fricative", "ridge", False), "z": ("fricative", "ridge", True),
    "ʃ": ("fricative", "palate", False), "ʒ": ("fricative", "palate", True), "h": ("fricative", "back", False),
    "m": ("nasal", "lips", True), "n": ("nasal", "ridge", True), "ŋ": ("nasal", "back", True),
    "l": ("approximant", "ridge", True), "ɹ": ("approximant", "palate", True), "j": ("approximant", "palate", True),
    "w": ("approximant", "lips", True),
}  # fmt: skip
"""Manner, place and voicing of the consonants; every other symbol is a vowel."""

_VOWELS: Mapping[str, tuple[float, float]] = {
    "i": (0.0, 0.0), "ɪ": (0.15, 0.2), "eɪ": (0.35, 0.1), "ɛ": (0.5, 0.2), "æ": (0.8, 0.2), "ə": (0.5, 0.5),
    "ʌ": (0.65, 0.6), "ɚ": (0.5, 0.5), "ɝ": (0.45, 0.5), "ɑ": (1.0, 0.8), "ɔ": (0.7, 1.0), "oʊ": (0.45, 1.0),
    "ʊ": (0.2, 0.85), "u": (0.0, 1.0), "aɪ": (0.75, 0.4), "aʊ": (0.75, 0.7), "ɔɪ": (0.55, 0.7),
}  # fmt: skip
"""Openness and backness from 0 to 1; of a diphthong somewhere on its way."""


class Phonemizer:
    """The lexicon and the letters-to-sounds model behind it; opening it takes some milliseconds."""

    def __init__(self) -> None:
        """Raise SynthesisError where the ``wake-word`` extra is not installed."""
        for module in ("gruut_lang_en", "pycrfsuite"):
            if importlib.util.find_spec(module) is None:
                raise SynthesisError(f"{module} is not installed; run: pip install 'edgeaudio[wake-word]'")
        spec = importlib.util.find_spec("gruut_lang_en")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        self._folder = Path(spec.submodule_search_locations[0])

    @cached_property
    def lexicon(self) -> Mapping[str, Phonemes]:
        """Every word of letters alone and its first pronunciation, in the order of the alphabet."""
        rows = self._query("SELECT word, phonemes FROM word_phonemes WHERE pron_order = 0 ORDER BY word, id")
        return {word: _plain(text.split()) for word, text in reversed(rows) if word.isalpha() and word.islower()}

    def _query(self, text: str, *values: str) -> list[tuple[str, str]]:
        connection = sqlite3.connect(f"file:{self._folder / 'lexicon.db'}?mode=ro&immutable=1", uri=True)
        try:
            return connection.execute(text, values).fetchall()
        finally:
            connection.close()

    def phonemes(self, text: str) -> Phonemes:
        """Phonemes of the words of ``text`` without stress: a lexicon word by the lexicon, else guessed letter by
        letter."""
        return tuple(phoneme for word in text.lower().split() for phoneme in self._word(word))

    def _word(self, word: str) -> Phonemes:
        # One word is looked up without reading all of the lexicon.
        wanted = "SELECT word, phonemes FROM word_phonemes WHERE word = ? AND pron_order = 0 ORDER BY id LIMIT 1"
        found = self._query(wanted, word)
        return _plain(found[0][1].split() if found else self._guess(word))

    def _guess(self, word: str) -> list[str]:
        letters = unicodedata.normalize("NFC", word)
        coded = self._tagger.tag([_letter_features(letters, i) for i in range(len(letters))])
        return [sound for code in coded for sound in _decoded(code).split("|") if sound != _NOTHING]

    @cached_property
    def _tagger(self) -> Any:
        import pycrfsuite

        tagger = pycrfsuite.Tagger()
        tagger.open(str(self._folder / "g2p" / "model.crf"))
        return tagger


def distance(first: Sequence[str], second: Sequence[str], *, limit: float = float("inf")) -> float:
    """Least cost of turning one string of phonemes into the other: 1 an insertion or deletion, up to 1 an exchange.

    Args:
        first: Phonemes.
        second: Phonemes.
        limit: Stop as soon as the distance must exceed it; the result is then infinite.

    An exchange costs what :func:`exchange_cost` says, so a near vowel weighs less than another kind of sound.
    """
    row = [float(j) for j in range(len(second) + 1)]
    for i, sound in enumerate(first):
        above, row = row, [i + 1.0]
        for j, other in enumerate(second):
            row.append(min(above[j + 1] + 1.0, row[j] + 1.0, above[j] + exchange_cost(sound, other)))
        if min(row) > limit:
            return float("inf")
    return row[-1]


@cache
def exchange_cost(first: str, second: str) -> float:
    """0 for the same phoneme, 1 for a vowel against a consonant; between, a third for each of manner, place and
    voicing of consonants that differs, and for vowels their distance in openness and backness, at most 1."""
    if first == second:
        return 0.0
    if first in _CONSONANTS and second in _CONSONANTS:
        return sum(a != b for a, b in zip(_CONSONANTS[first], _CONSONANTS[second], strict=True)) / 3.0
    if first in _CONSONANTS or second in _CONSONANTS:
        return 1.0
    (open_a, back_a), (open_b, back_b) = _VOWELS.get(first, (0.5, 0.5)), _VOWELS.get(second, (0.5, 0.5))
    return min(1.0, max(0.1, math.hypot(open_a - open_b, back_a - back_b)))


def _plain(phonemes: Sequence[str]) -> Phonemes:
    return tuple(bare for phoneme in phonemes if (bare := phoneme.translate(_STRESS)))


def _letter_features(letters: str, i: int) -> dict[str, str | bool | float]:
    """A letter with its neighbours, as the model of gruut was trained on them."""
    features: dict[str, str | bool | float] = {"bias": 1.0, "grapheme": _coded(letters[i])}
    if i == 0:
        features["begin"] = True
    for j in range(1, _CONTEXT_LETTERS + 1):
        if i >= j:
            features[f"grapheme-{j}"] = _coded(letters[i - j])
        if i + j < len(letters):
            features[f"grapheme+{j}"] = _coded(letters[i + j])
    if i == len(letters) - 1:
        features["end"] = True
    return features


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _decoded(code: str) -> str:
    return base64.b64decode(code.encode("ascii")).decode()
