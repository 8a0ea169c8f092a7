"""Words that are no keyword: what ``_unknown_`` is synthesized from."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN_WORDS = (
    # near the ten Speech Commands keywords, so that the net must hear more than a vowel
    "yet", "yard", "chess", "gnome", "not", "nor", "note", "cup", "uncle", "apple", "town", "brown", "dawn",
    "lift", "laugh", "leaf", "light", "ride", "riot", "awning", "own", "onion", "often", "of", "awful",
    "top", "stock", "step", "stay", "goat", "ghost", "code", "low",
    # ordinary words, varied in sound and length
    "bed", "bird", "cat", "dog", "eight", "five", "four", "happy", "house", "nine", "one", "seven", "six", "three",
    "tree", "two", "zero", "water", "table", "music", "morning", "window", "people", "hello", "kitchen", "orange",
    "seventeen", "because", "remember", "butterfly", "yellow", "question", "paper", "shoulder", "never", "please",
)  # fmt: skip
"""Default texts for ``_unknown_``; a keyword among them is left out by :func:`unknown_words`."""


HOMOPHONES = (
    {"no", "know"}, {"right", "write", "rite"}, {"one", "won"}, {"two", "to", "too"}, {"four", "for", "fore"},
    {"eight", "ate"}, {"buy", "by", "bye"}, {"see", "sea"}, {"hear", "here"}, {"hi", "high"}, {"week", "weak"},
    {"red", "read"}, {"blue", "blew"}, {"our", "hour"}, {"wait", "weight"}, {"whoa", "woe"},
)  # fmt: skip
"""Words that sound alike: as ``_unknown_`` they would contradict the keyword."""


def unknown_words(keywords: Sequence[str], words: Sequence[str] = UNKNOWN_WORDS) -> tuple[str, ...]:
    """``words`` without those that hold a keyword, or what sounds like one, as a whole word; case does not matter."""
    taken = {keyword.lower() for keyword in keywords}
    taken |= {word for alike in HOMOPHONES if alike & taken for word in alike}
    return tuple(word for word in words if word.lower() not in taken and not taken & set(word.lower().split()))
