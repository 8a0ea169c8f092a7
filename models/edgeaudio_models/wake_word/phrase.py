"""The phrase of a wake word: whether it can be one, and how it is pronounced."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from edgeaudio_models.wake_word.phonemes import Phonemes, Phonemizer
from edgeaudio_runtime.errors import SpecError

MIN_PHONEMES = 3
"""Fewer occur in running speech all the time, whatever is learnt."""
ADVISED_PHONEMES = 5
"""Fewer than this make a wake word that is often heard where nobody said it."""
MAX_WORDS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """What is to be heard."""

    text: str
    """Words in lower case, one space between them."""
    phonemes: Phonemes
    """Their phonemes without stress."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.text.split())

    @property
    def advice(self) -> str | None:
        """One line where the phrase is short, else None."""
        if len(self.phonemes) >= ADVISED_PHONEMES:
            return None
        sounds = " ".join(self.phonemes)
        return (
            f"phrase={self.text!r} has {len(self.phonemes)} phonemes ({sounds}); with fewer than {ADVISED_PHONEMES} "
            "expect false accepts, a longer phrase does better"
        )


def read_phrase(text: str, phonemizer: Phonemizer) -> Phrase:
    """Check a phrase.

    Raises:
        SpecError: Nothing to say, signs that no synthesizer can say, too many words, or fewer than
            ``MIN_PHONEMES`` phonemes.
    """
    words = unicodedata.normalize("NFC", text).lower().replace("-", " ").split()
    if not words:
        raise SpecError(f"phrase={text!r} must hold a word; give one, such as --phrase jarvis")
    strange = sorted({sign for word in words for sign in word if not _speakable(sign)})
    if strange:
        rule = "the synthesizers speak English and know Latin letters"
        raise SpecError(f"phrase={text!r} holds {strange}; {rule}, spell it with them")
    if len(words) > MAX_WORDS:
        raise SpecError(f"phrase={text!r} has {len(words)} words, it must have at most {MAX_WORDS}; shorten it")
    phonemes = phonemizer.phonemes(" ".join(words))
    if len(phonemes) < MIN_PHONEMES:
        rule = f"{len(phonemes)} phonemes, it must have >= {MIN_PHONEMES} to be told from other speech"
        raise SpecError(f"phrase={text!r} has {rule}; take a longer one")
    return Phrase(text=" ".join(words), phonemes=phonemes)


def _speakable(sign: str) -> bool:
    return sign == "'" or (sign.isalpha() and unicodedata.name(sign, "").startswith("LATIN"))
