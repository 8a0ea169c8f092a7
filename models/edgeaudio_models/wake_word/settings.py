"""How many clips of what a wake word is trained on: the ``[wake_word]`` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class WakeWordSettings:
    """What is synthesized, read and mined; both splits together where clips are counted."""

    phrase: str = ""
    """What to listen for; empty in the recipe that comes with the package."""
    clip_seconds: float = 0.0
    """Length of a training stream; 0 takes the longest spoken phrase and ``surroundings_seconds``."""
    surroundings_seconds: float = 1.0
    """Time beside the longest phrase in a stream."""
    positives: int = 2400
    """Times the phrase is said."""
    near_words: int = 240
    """Words or phrases nearest to the phrase."""
    near_clips: int = 2000
    """Times one of them is said."""
    partial_clips: int = 400
    """Times a part of the phrase is said."""
    other_clips: int = 2600
    """Strings of other words."""
    noise_clips: int = 240
    """Streams of generated noise."""
    speech: tuple[str, ...] = ("speech", "background/speech", "speech_commands")
    """Folders of speech without the phrase, below the background folder, as far as they are there."""
    mining_clips: int = 1200
    """Further strings of words of the stream that is searched for false accepts."""
    mined: int = 500
    """Most windows to take from that stream."""
    mining_epochs: int = 2
    """Passes of the second training, which hears them too."""
    variants: int = 4
    """Streams, rooms and noises that every clip is put into; microphones and masks are drawn at every step."""
    max_rate_change: float = 0.16
    """Every clip is played up to this share slower or faster, pitch and formants included: other vocal tracts."""

    def __post_init__(self) -> None:
        for name in ("positives", "near_clips", "other_clips", "mining_clips"):
            if getattr(self, name) < 8:
                raise SpecError(f"wake_word.{name}={getattr(self, name)} must be >= 8")
        for name in ("near_words", "partial_clips", "noise_clips", "mined", "mining_epochs"):
            if getattr(self, name) < 0:
                raise SpecError(f"wake_word.{name}={getattr(self, name)} must be >= 0")
        if self.variants < 1:
            raise SpecError(f"wake_word.variants={self.variants} must be >= 1")
        if not 0.0 <= self.max_rate_change < 0.5:
            raise SpecError(f"wake_word.max_rate_change={self.max_rate_change} must be in [0, 0.5)")
        if self.clip_seconds < 0 or self.surroundings_seconds < 0.4:
            values = f"clip_seconds={self.clip_seconds} and surroundings_seconds={self.surroundings_seconds}"
            raise SpecError(f"wake_word: {values} must be >= 0 and >= 0.4")
