"""How labels become text and when a transcript is complete, as ``decoder.json`` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from types import MappingProxyType
from typing import Any

from edgeaudio_runtime.detector_config import check_number
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.manifest import checked_fields
from edgeaudio_runtime.ngram import NgramModel
from edgeaudio_runtime.record import Record

DECODER_SCHEMA_VERSION = 1
LONGEST_BEAM_S = 60.0
"""A beam search ends a transcript after this time where ``max_utterance_s`` sets none."""


class DecoderConfig(Record):
    """``decoder.json``: how labels become text and when a transcript is complete."""

    schema_version: int = DECODER_SCHEMA_VERSION
    separator: str = ""
    """Between two labels: "" where labels are characters, " " where they are words."""
    trailing_blank_s: float = 0.8
    """A transcript is final after this many seconds of blanks, 0.04 to 60."""
    byte_level: bool = False
    """Whether labels are spelt in the byte-level alphabet of GPT-2; the text is the UTF-8 they stand for."""
    max_utterance_s: float | None = None
    """A transcript is final this long after its first token, 0.5 to 600; None for no limit (beam search: 60)."""
    min_words: int = 0
    """Blanks end no transcript of fewer words, 0 to 100; it goes on until more come, its time is over, or a flush."""
    beam_width: int = 1
    """Prefixes kept, 1 to 256; 1 is greedy decoding, and what follows needs at least 2."""
    words: tuple[str, ...] = ()
    """The only words there are, in any order and number; none for no such bound."""
    phrases: tuple[str, ...] = ()
    """The only transcripts there are, words divided by spaces; instead of ``words``."""
    hotwords: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Words or phrases to what is added to the log probability of a text for each of them, -50 to 50."""
    language_model: NgramModel | None = None
    """Prefers likely sequences of words."""
    lm_weight: float = 0.5
    """Factor on the language model's log probability, 0 to 10."""
    insertion_bonus: float = 0.0
    """Added to the log probability of a text for each word, -20 to 20; balances a language model's taste for few."""
    min_score: float = 0.0
    """A transcript whose least certain token scores below this is not reported, 0 to 1."""

    def __post_init__(self) -> None:
        if not isinstance(self.separator, str):
            raise SpecError(f"separator={self.separator!r} must be a string")
        if type(self.byte_level) is not bool:
            raise SpecError(f"byte_level={self.byte_level!r} must be true or false")
        check_number("trailing_blank_s", self.trailing_blank_s, low=0.04, high=60)
        if self.max_utterance_s is not None:
            check_number("max_utterance_s", self.max_utterance_s, low=0.5, high=600)
        _check_count("min_words", self.min_words, low=0, high=100)
        _check_count("beam_width", self.beam_width, low=1, high=256)
        check_number("lm_weight", self.lm_weight, low=0, high=10)
        check_number("insertion_bonus", self.insertion_bonus, low=-20, high=20)
        check_number("min_score", self.min_score, low=0, high=1)
        self._check_texts()
        needing = [name for name in _OF_BEAM if getattr(self, name) != _default(name)]
        if needing and self.beam_width == 1:
            raise SpecError(f"beam_width=1 is greedy and knows no {', '.join(needing)}; set it to 8")
        if self.schema_version != DECODER_SCHEMA_VERSION:
            raise SpecError(
                f"decoder schema_version={self.schema_version!r} must be {DECODER_SCHEMA_VERSION}; "
                "for a newer one run: pip install --upgrade edgeaudio-runtime"
            )

    def _check_texts(self) -> None:
        for name in ("words", "phrases"):
            texts = getattr(self, name)
            is_list = isinstance(texts, (list, tuple))
            if not is_list or not all(isinstance(text, str) and text.strip() for text in texts):
                raise SpecError(f"{name}={texts!r} must be a list of strings that are not empty")
            object.__setattr__(self, name, tuple(texts))
        if self.words and self.phrases:
            raise SpecError("words and phrases exclude each other; leave one out")
        hotwords = self.hotwords
        if not isinstance(hotwords, Mapping) or not all(isinstance(text, str) and text.strip() for text in hotwords):
            raise SpecError(f"hotwords={hotwords!r} must map words to numbers")
        for text, bonus in hotwords.items():
            check_number(f"hotwords[{text!r}]", bonus, low=-50, high=50)

    @property
    def longest_s(self) -> float:
        """Most seconds from the first token of a transcript to its report, as far as there is a limit."""
        return (self.max_utterance_s or LONGEST_BEAM_S) + self.trailing_blank_s

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the fields that came later are left out at their default."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = {name: value for name, value in plain.items() if name in _FIRST or value != _default(name)}
        converted: dict[str, Callable[[Any], Any]] = {
            "words": list,
            "phrases": list,
            "hotwords": dict,
            "language_model": NgramModel.to_dict,
        }
        return {name: converted[name](value) if name in converted else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, values: object) -> DecoderConfig:
        """Inverse of :meth:`to_dict`; a missing field takes its default, an unknown one is refused by name."""
        every = frozenset(entry.name for entry in fields(cls))
        known = checked_fields(cls, values, what="decoder", optional=every - {"schema_version"})
        if known.get("language_model") is not None:
            known["language_model"] = NgramModel.from_dict(known["language_model"])
        return cls(**known)


_FIRST = ("schema_version", "separator", "trailing_blank_s", "byte_level")
_OF_BEAM = ("words", "phrases", "hotwords", "language_model", "insertion_bonus", "min_score")


def _default(name: str) -> Any:
    entry = next(entry for entry in fields(DecoderConfig) if entry.name == name)
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _check_count(name: str, value: object, *, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise SpecError(f"{name}={value!r} must be an integer from {low} to {high}")
