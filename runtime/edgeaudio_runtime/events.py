"""What a stream reports: keywords and transcripts, with their times in seconds of audio since the last reset."""

from __future__ import annotations

from typing import Any

from edgeaudio_runtime.record import Record

_TIME_DECIMALS = 4
"""JSON times are rounded to 0.1 ms, more than two samples at 16 kHz."""
_SCORE_DECIMALS = 6


class KeywordEvent(Record):
    """A keyword was detected."""

    label: str
    score: float
    """Smoothed probability when it reached the threshold, 0 to 1."""
    start_s: float
    """Where the word begins (an estimate, see ``KeywordDetector``)."""
    end_s: float
    """Where the word ends, or ``detected_s`` if it was still sounding then."""
    detected_s: float
    """End of the audio that was heard before the event was reported."""
    bundle: str | None = None
    """Which of several bundles heard it (see ``hub``); in the JSON line only where it is set."""

    @property
    def latency_s(self) -> float:
        """Seconds from the end of the word to the report."""
        return self.detected_s - self.end_s

    def to_dict(self) -> dict[str, Any]:
        """JSON form: one line of ``edgeaudio-run --json``."""
        line = {
            "event": "keyword",
            "label": self.label,
            "score": round(self.score, _SCORE_DECIMALS),
            "start_s": round(self.start_s, _TIME_DECIMALS),
            "end_s": round(self.end_s, _TIME_DECIMALS),
            "detected_s": round(self.detected_s, _TIME_DECIMALS),
        }
        return line if self.bundle is None else {**line, "bundle": self.bundle}


class Token(Record):
    """One label of a transcript, or one of its words."""

    label: str
    start_s: float
    end_s: float
    score: float | None = None
    """Largest probability of the label in the outputs that named it, 0 to 1; None in greedy decoding."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form of a word in a transcript's line."""
        score = None if self.score is None else round(self.score, _SCORE_DECIMALS)
        times = {"start_s": round(self.start_s, _TIME_DECIMALS), "end_s": round(self.end_s, _TIME_DECIMALS)}
        return {"label": self.label, **times, "score": score}


class TranscriptEvent(Record):
    """The transcript grew (``final`` false) or is complete (``final`` true)."""

    text: str
    final: bool
    start_s: float
    """Start of the first token."""
    end_s: float
    """End of the last token."""
    tokens: tuple[Token, ...]
    """The labels behind ``text``; not part of the JSON line."""
    detected_s: float
    """End of the audio that was heard before the event was reported; not part of the JSON line."""
    words: tuple[Token, ...] = ()
    """The words of ``text``; in the JSON line where they have scores (beam search)."""
    bundle: str | None = None
    """Which of several bundles heard it (see ``hub``); in the JSON line only where it is set."""

    @property
    def latency_s(self) -> float:
        """Seconds from the end of the last token to the report."""
        return self.detected_s - self.end_s

    def to_dict(self) -> dict[str, Any]:
        """JSON form: one line of ``edgeaudio-run --json``."""
        line: dict[str, Any] = {
            "event": "transcript",
            "text": self.text,
            "final": self.final,
            "start_s": round(self.start_s, _TIME_DECIMALS),
            "end_s": round(self.end_s, _TIME_DECIMALS),
        }
        words = [word.to_dict() for word in self.words if word.score is not None]
        line |= {"words": words} if words else {}
        return line if self.bundle is None else {**line, "bundle": self.bundle}


Event = KeywordEvent | TranscriptEvent
"""Anything a stream reports."""
