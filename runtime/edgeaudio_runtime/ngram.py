"""A small n-gram language model with back-off: from an ARPA file, kept as JSON in ``decoder.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.record import Record

MOST_NGRAMS = 200_000
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_UNSEEN_LOG10 = -7.0
"""Of a word the model does not have, where it has no ``<unk>`` either."""

Ngrams = Mapping[tuple[str, ...], tuple[float, float]]


class NgramModel(Record):
    """Katz back-off over words, as in the ARPA format (Doug Paul's, SRILM ``ngram-format(5)``)."""

    ngrams: Ngrams
    """Words to log10 of the probability of the last after the others, and of the back-off weight."""

    def __post_init__(self) -> None:
        if not isinstance(self.ngrams, Mapping) or not 1 <= len(self.ngrams) <= MOST_NGRAMS:
            raise SpecError(f"ngrams must map from 1 to {MOST_NGRAMS} word sequences to two numbers; prune the model")
        for words, pair in self.ngrams.items():
            is_pair = isinstance(pair, tuple) and len(pair) == 2
            if not words or not is_pair or not all(type(x) in (int, float) and -1e4 < x < 1e4 for x in pair):
                raise SpecError(f"ngrams[{' '.join(words)!r}]={pair!r} must be two logarithms to base 10")

    @property
    def order(self) -> int:
        """Words in the longest n-gram."""
        return max(map(len, self.ngrams))

    def log10(self, context: tuple[str, ...], word: str) -> float:
        """log10 of the probability of ``word`` after ``context``, whose oldest words are left out as need be."""
        total = 0.0
        while True:
            found = self.ngrams.get((*context, word))
            if found is not None:
                return total + found[0]
            if not context:
                return total + self.ngrams.get((UNKNOWN,), (_UNSEEN_LOG10, 0.0))[0]
            total += self.ngrams.get(context, (0.0, 0.0))[1]
            context = context[1:]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: ``{"ngrams": {"one two": [log10 probability, log10 back-off]}}``."""
        return {"ngrams": {" ".join(words): list(pair) for words, pair in self.ngrams.items()}}

    @classmethod
    def from_dict(cls, values: object) -> NgramModel:
        """Inverse of :meth:`to_dict`.

        Raises:
            SpecError: Anything else.
        """
        if not isinstance(values, Mapping) or set(values) != {"ngrams"} or not isinstance(values["ngrams"], Mapping):
            raise SpecError('language_model must be {"ngrams": {...}}; NgramModel.from_arpa(text).to_dict() makes it')
        ngrams = values["ngrams"]
        pairs = {words: tuple(pair) if isinstance(pair, list) else pair for words, pair in ngrams.items()}
        return cls(ngrams={tuple(words.split()): pair for words, pair in pairs.items()})

    @classmethod
    def from_arpa(cls, text: str) -> NgramModel:
        """Read the text of an ARPA file.

        Raises:
            SpecError: A line that is none of the format, counts that differ from the header's, or no ``\\end\\``.
        """
        promised: dict[int, int] = {}
        ngrams: dict[tuple[str, ...], tuple[float, float]] = {}
        order, has_ended = 0, False
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if count := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line):
                promised[int(count[1])] = int(count[2])
            elif section := re.fullmatch(r"\\(\d+)-grams:", line):
                order = int(section[1])
            elif line == "\\end\\":
                has_ended = True
                break
            elif line and order:
                words, pair = _arpa_entry(line, order, number)
                ngrams[words] = pair
        found = {order: sum(len(words) == order for words in ngrams) for order in promised}
        if not has_ended or not promised or found != promised:
            raise SpecError(
                f"ARPA file has n-grams {found}, its header says {promised}, and \\end\\ must follow; get it whole"
            )
        return cls(ngrams=ngrams)


def _arpa_entry(line: str, order: int, number: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    parts = line.split()
    if len(parts) not in (order + 1, order + 2):
        raise SpecError(f"line {number} of the ARPA file, {line[:60]!r}, must be log10, {order} words and a back-off")
    try:
        return tuple(parts[1 : order + 1]), (float(parts[0]), float(parts[order + 1]) if parts[order + 1 :] else 0.0)
    except ValueError as error:
        raise SpecError(f"line {number} of the ARPA file, {line[:60]!r}: {error}") from error
