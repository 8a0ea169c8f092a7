"""Pronunciations, how far words are apart, and what is said beside the phrase."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from edgeaudio_models.wake_word.negatives import near_texts, other_texts, partial_texts
from edgeaudio_models.wake_word.phonemes import Phonemes, Phonemizer, distance, exchange_cost
from edgeaudio_models.wake_word.phrase import Phrase, read_phrase
from edgeaudio_runtime.errors import SpecError


@pytest.fixture(scope="module")
def phonemizer() -> Phonemizer:
    return Phonemizer()


class FewWords(Phonemizer):
    """A lexicon of a dozen words, so that tests need not search a hundred thousand."""

    lexicon: ClassVar[dict[str, Phonemes]] = {  # type: ignore[assignment, misc]
        word: tuple(sounds.split())
        for word, sounds in {
            "jarvis": "d͡ʒ ɑ ɹ v ɪ s", "marvin": "m ɑ ɹ v ɪ n", "jervis": "d͡ʒ ɝ v ɪ s", "service": "s ɝ v ə s",
            "carvers": "k ɑ ɹ v ɚ z", "jarvus": "d͡ʒ ɑ ɹ v ə s", "table": "t eɪ b ə l", "hey": "h eɪ", "they": "ð eɪ",
            "watermelon": "w ɔ t ɚ m ɛ l ə n",
        }.items()
    }  # fmt: skip

    def phonemes(self, text: str) -> Phonemes:
        return tuple(sound for word in text.split() for sound in self.lexicon.get(word, ("ɑ",) * len(word)))


JARVIS = Phrase(text="jarvis", phonemes=FewWords.lexicon["jarvis"])


def test_a_lexicon_word_has_the_phonemes_of_the_lexicon_without_stress(phonemizer: Phonemizer) -> None:
    assert phonemizer.phonemes("Jarvis") == ("d͡ʒ", "ɑ", "ɹ", "v", "ɪ", "s")
    assert phonemizer.phonemes("hey marvin") == ("h", "eɪ", "m", "ɑ", "ɹ", "v", "ɪ", "n")


def test_a_name_that_no_dictionary_has_is_read_letter_by_letter(phonemizer: Phonemizer) -> None:
    assert "zorblax" not in phonemizer.lexicon
    assert phonemizer.phonemes("zorblax") == ("z", "ɔ", "ɹ", "b", "l", "æ", "k", "s")


def test_sounds_cost_what_they_differ_in() -> None:
    assert exchange_cost("s", "s") == 0.0
    assert exchange_cost("s", "z") == pytest.approx(1 / 3)  # voicing alone
    assert exchange_cost("p", "z") == 1.0  # manner, place and voicing
    assert exchange_cost("s", "ɑ") == 1.0
    assert exchange_cost("ɪ", "i") == pytest.approx(0.25)  # 0.15 in openness, 0.2 in backness


def test_the_distance_is_that_of_the_cheapest_way() -> None:
    jarvis, marvin = FewWords.lexicon["jarvis"], FewWords.lexicon["marvin"]
    # d͡ʒ to m: manner and place; s to n: manner and voicing
    assert distance(jarvis, marvin) == pytest.approx(2 / 3 + 2 / 3)
    assert distance(jarvis, jarvis[:-1]) == 1.0
    assert distance(jarvis, ()) == 6.0
    assert distance(jarvis, marvin, limit=0.5) == float("inf")


def test_near_words_are_near_but_not_the_phrase_itself() -> None:
    near = near_texts(JARVIS, FewWords(), n_texts=10)
    assert near[:3] == ("marvin", "jervis", "carvers")  # 1.33, 0.63 + 1, 1 + 0.46 + 0.33
    assert not {"jarvis", "jarvus", "watermelon", "hey"} & set(near)  # the second is the phrase in another accent
    assert near_texts(JARVIS, FewWords(), n_texts=1) == ("marvin",)


def test_in_a_phrase_of_several_words_each_word_in_turn_is_exchanged() -> None:
    phrase = Phrase(text="hey jarvis", phonemes=("h", "eɪ", *JARVIS.phonemes))
    assert {"they jarvis", "hey marvin"} <= set(near_texts(phrase, FewWords(), n_texts=10))


def test_parts_of_a_phrase_are_shorter_than_it(phonemizer: Phonemizer) -> None:
    parts = partial_texts(read_phrase("jarvis", phonemizer), phonemizer)
    assert {"jar", "vis"} <= set(parts)
    assert not {"arvis", "jarvi", "jarvis"} & set(parts)
    two = partial_texts(read_phrase("hey jarvis", phonemizer), phonemizer)
    assert set(two) == {"hey", "jarvis", "jarvis hey"}


def test_other_texts_hold_neither_the_phrase_nor_what_sounds_like_it() -> None:
    texts = other_texts(JARVIS, FewWords(), n_texts=300, generator=np.random.default_rng(0))
    said = {word for text in texts for word in text.split()}
    assert not {"jarvis", "jarvus"} & said
    assert {"watermelon", "table", "people"} <= said
    assert {len(text.split()) for text in texts} == {1, 2, 3, 4, 5, 6, 7}


def test_a_phrase_is_brought_to_lower_case_words(phonemizer: Phonemizer) -> None:
    assert read_phrase("  Hey  JARVIS ", phonemizer).words == ("hey", "jarvis")
    assert read_phrase("jarvis", phonemizer).advice is None
    assert "has 4 phonemes (h æ p i)" in str(read_phrase("happy", phonemizer).advice)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" ", "must hold a word"),
        ("a", "1 phonemes, it must have >= 3"),
        ("привет", "know Latin letters"),
        ("room 7", r"holds \['7'\]"),
        ("one two three four five six seven", "has 7 words, it must have at most 6"),
    ],
)
def test_what_cannot_be_a_phrase_is_refused(text: str, words: str, phonemizer: Phonemizer) -> None:
    with pytest.raises(SpecError, match=words):
        read_phrase(text, phonemizer)
