"""What every synthesizer offers: voices, and speech for a text at a rate and a pitch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgeaudio_models.audio_files import Int16


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One thing to say, and how."""

    text: str
    """What to say; a word, or several."""
    voice: str
    """One of the synthesizer's voices."""
    rate: float = 1.0
    """Speaking rate relative to the voice's own, > 0."""
    pitch: float = 1.0
    """Pitch relative to the voice's own, > 0."""


class Synthesizer(Protocol):
    """A source of speech that never was recorded; several threads may ask at once."""

    @property
    def name(self) -> str:
        """Name for caches, cards and messages."""
        ...

    @property
    def voices(self) -> tuple[str, ...]:
        """Voices to choose from, in a stable order."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same utterance gives the same samples, always and everywhere."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the engine and its voices, for the provenance of what is trained on them."""
        ...

    @property
    def slow(self) -> bool:
        """Whether a second of speech costs about a second of a core; where that adds up, it is asked less often."""
        ...

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """Speak: int16 ``[n_samples]`` and their rate in Hz.

        Raises:
            SynthesisError: Not installed, unknown voice, nothing spoken, or the engine died.
        """
        ...
