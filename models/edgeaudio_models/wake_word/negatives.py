"""What is not the phrase: words that sound like it, parts of it, and other speech."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeaudio_models.synthesis.words import UNKNOWN_WORDS, unknown_words
from edgeaudio_models.wake_word.phonemes import Phonemes, Phonemizer, distance
from edgeaudio_models.wake_word.phrase import Phrase

LEAST_DISTANCE = 0.6
"""Nearer words are taken for the phrase itself in another accent or spelling."""
MOST_DISTANCE = 0.55
"""Farthest near word, as a share of the phonemes of the word it is compared with."""
LARGEST_PART = 0.75
"""A part of the phrase with a larger share of its phonemes is left out: a listener might accept it."""

COMMON_WORDS = (
    "the", "and", "that", "have", "for", "not", "with", "you", "this", "but", "his", "from", "they", "say", "her",
    "she", "will", "one", "all", "would", "there", "their", "what", "out", "about", "who", "get", "which", "when",
    "make", "can", "like", "time", "just", "him", "know", "take", "people", "into", "year", "your", "good", "some",
    "could", "them", "see", "other", "than", "then", "now", "look", "only", "come", "its", "over", "think", "also",
    "back", "after", "use", "two", "how", "our", "work", "first", "well", "way", "even", "new", "want", "because",
    "any", "these", "give", "day", "most", "play", "turn", "light", "door", "call", "open", "music", "stop", "tell",
    "ask", "man", "woman", "child", "world", "life", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "government", "number", "night", "point", "home", "water", "room", "mother", "area",
    "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue",
    "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end", "member",
    "law", "car", "city", "community", "name", "president", "team", "minute", "idea", "kid", "body", "information",
    "nothing", "ago", "lead", "social", "whether", "watch", "together", "follow", "parent", "face", "anything",
)  # fmt: skip
"""Frequent English words: most of what a microphone hears that is not the phrase."""


def is_phrase(text: str, phrase: Phrase, phonemizer: Phonemizer) -> bool:
    """Whether ``text`` sounds like the phrase itself, spelled or accented in another way; labels like ``_silence_`` do
    not."""
    if text.startswith("_") or not text:
        return False
    return distance(phrase.phonemes, phonemizer.phonemes(text), limit=LEAST_DISTANCE) < LEAST_DISTANCE


def near_texts(phrase: Phrase, phonemizer: Phonemizer, *, n_texts: int) -> tuple[str, ...]:
    """Texts nearest to the phrase by phonemes, the nearest first.

    For a phrase of one word these are words of the lexicon; in a phrase of several, each word in turn is exchanged for
    one that is near it.

    Args:
        phrase: The phrase.
        phonemizer: Source of words and pronunciations.
        n_texts: How many; there may be fewer.
    """
    words, found = phrase.words, []
    taken = {phrase.text, phrase.text.replace("'", "")}
    for place, word in enumerate(words):
        near = _near_words(phonemizer.phonemes(word), phonemizer.lexicon, -(-n_texts // len(words)))
        found += [(far, " ".join((*words[:place], other, *words[place + 1 :]))) for far, other in near]
    return tuple(text for _, text in sorted(found) if text not in taken)[:n_texts]


def _near_words(target: Phonemes, lexicon: Mapping[str, Phonemes], n_words: int) -> list[tuple[float, str]]:
    """The nearest words with their distances; the bound falls while better ones are found."""
    limit = max(1.0, MOST_DISTANCE * len(target))
    heap: list[tuple[float, str]] = []
    for word, phonemes in lexicon.items():
        if abs(len(phonemes) - len(target)) > limit or len(word) < 2:
            continue
        far = distance(target, phonemes, limit=limit)
        if not LEAST_DISTANCE <= far <= limit:
            continue
        heapq.heappush(heap, (-far, word))
        if len(heap) > n_words:
            heapq.heappop(heap)
            limit = -heap[0][0]
    return [(-far, word) for far, word in heap]


def partial_texts(phrase: Phrase, phonemizer: Phonemizer) -> tuple[str, ...]:
    """Parts of the phrase that a listener must not accept: beginnings and ends of a word, or some of the words."""
    words, letters = phrase.words, phrase.text
    if len(words) > 1:
        n_words = len(words)
        spans = [(i, j) for i in range(n_words) for j in range(i + 1, n_words + 1) if j - i < n_words]
        parts = [" ".join(words[i:j]) for i, j in spans] + [" ".join(reversed(words))]
    else:
        cuts = range(2, len(letters) - 1)
        parts = [letters[:cut] for cut in cuts] + [letters[cut:] for cut in cuts]
    return tuple(dict.fromkeys(part for part in parts if _is_part(part, phrase, phonemizer)))


def _is_part(part: str, phrase: Phrase, phonemizer: Phonemizer) -> bool:
    phonemes = phonemizer.phonemes(part)
    short = len(phonemes) <= LARGEST_PART * len(phrase.phonemes)
    vowels = any(letter in "aeiouy" for letter in part)
    return vowels and len(phonemes) > 1 and (short or len(phrase.words) > 1)


def other_texts(
    phrase: Phrase, phonemizer: Phonemizer, *, n_texts: int, generator: np.random.Generator
) -> tuple[str, ...]:
    """Strings of one to seven words drawn from frequent words and, three in ten, from the whole lexicon.

    No string holds a word of a one-word phrase or what sounds like it; the words of a longer phrase may occur apart.
    """
    barred = {phrase.text} if len(phrase.words) == 1 else set()
    common = unknown_words(sorted(barred), (*COMMON_WORDS, *UNKNOWN_WORDS))
    alike = {word for word in barred for word in _sounding_alike(word, phonemizer)}
    every = [word for word in phonemizer.lexicon if word not in barred | alike and len(word) > 2]
    texts = []
    for _ in range(n_texts):
        n_words = int(generator.integers(1, 8))
        rare = generator.random(n_words) < 0.3
        texts.append(" ".join(_pick(every if is_rare else common, generator) for is_rare in rare))
    return tuple(text for text in texts if phrase.text not in text)


def _sounding_alike(word: str, phonemizer: Phonemizer) -> Iterator[str]:
    target = phonemizer.phonemes(word)
    for other, phonemes in phonemizer.lexicon.items():
        near = len(phonemes) == len(target) and distance(target, phonemes, limit=LEAST_DISTANCE) < LEAST_DISTANCE
        if near:
            yield other


def _pick(words: Sequence[str], generator: np.random.Generator) -> str:
    return words[int(generator.integers(len(words)))]
