"""Greedy CTC decoding of a stream of logit codes: merge repeats, drop blanks, report as the text grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Token, TranscriptEvent
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.manifest import checked_fields

Codes = npt.NDArray[np.integer[Any]]

DECODER_SCHEMA_VERSION = 1
_BLANK = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """``decoder.json``: how labels become text and when a transcript is complete."""

    schema_version: int = DECODER_SCHEMA_VERSION
    separator: str = ""
    """Between two labels: "" where labels are characters, " " where they are words."""
    trailing_blank_s: float = 0.8
    """A transcript is final after this many seconds of blanks, 0.04 to 60."""
    byte_level: bool = False
    """Whether labels are spelt in the byte-level alphabet of GPT-2; the text is the UTF-8 they stand for."""

    def __post_init__(self) -> None:
        if not isinstance(self.separator, str):
            raise SpecError(f"separator={self.separator!r} must be a string")
        if type(self.byte_level) is not bool:
            raise SpecError(f"byte_level={self.byte_level!r} must be true or false")
        seconds = self.trailing_blank_s
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.04 <= seconds <= 60:
            raise SpecError(f"trailing_blank_s={seconds!r} must be a number from 0.04 to 60")
        if self.schema_version != DECODER_SCHEMA_VERSION:
            raise SpecError(
                f"decoder schema_version={self.schema_version!r} must be {DECODER_SCHEMA_VERSION}; "
                "for a newer one run: pip install --upgrade edgeaudio-runtime"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: object) -> DecoderConfig:
        """Inverse of :meth:`to_dict`; a missing field takes its default, an unknown one is refused by name."""
        every = frozenset(entry.name for entry in fields(cls))
        return cls(**checked_fields(cls, values, what="decoder", optional=every - {"schema_version"}))


def byte_level_text(text: str) -> str:
    """Text that the byte-level alphabet spells: printable Latin-1 stands for itself, the other bytes from U+0100 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    alphabet = {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return bytes(alphabet[letter] for letter in text if letter in alphabet).decode("utf-8", "replace")


class CtcDecoder:
    """Turn logit codes of successive network outputs into transcripts.

    The best label of each output is taken (ties go to the first label), repeats without a blank between them are one
    token, ``labels[0]`` is the blank. Every new token makes an event with ``final`` false and the text so far; after
    ``trailing_blank_s`` of blanks, or on :meth:`flush`, the text is reported with ``final`` true and begins anew.
    A token spans the outputs that named it; times are those of the audio they speak of, latency taken off.

    Memory is that of one transcript; cutting the same outputs into other calls changes nothing.
    """

    def __init__(
        self, config: DecoderConfig, *, labels: Sequence[str], clock: StreamClock, latency_frames: int = 0
    ) -> None:
        """Build a decoder for one stream.

        Args:
            config: Separator and end rule.
            labels: In the order of the logits; the first is the blank.
            clock: Frame grid and step of the network.
            latency_frames: Feature frames by which an output lags what it speaks of.
        """
        self._config, self._labels, self._clock = config, tuple(labels), clock
        self._latency_s = latency_frames * clock.hop_length / clock.sample_rate
        self._n_trailing = max(1, round(config.trailing_blank_s / clock.output_s))
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next output is output 0 of a new stream."""
        self._n_outputs = 0
        self._previous = _BLANK
        self._n_blank = 0
        self._tokens: list[Token] = []

    def process(self, codes: Codes) -> list[TranscriptEvent]:
        """Take the next outputs, ``[k, n_labels]``, and return what they add.

        Raises:
            SpecError: Another shape.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self._labels):
            raise SpecError(f"logit codes have shape {list(codes.shape)}, it must be [k, {len(self._labels)}]")
        events = []
        for best in codes.argmax(axis=1).tolist():
            event = self._blank() if best == _BLANK else self._label(best)
            if event is not None:
                events.append(event)
            self._previous = best
            self._n_outputs += 1
        return events

    def flush(self) -> list[TranscriptEvent]:
        """End the stream: the transcript under way, if any, as final."""
        event = self._final()
        return [] if event is None else [event]

    def _blank(self) -> TranscriptEvent | None:
        self._n_blank += 1
        return self._final() if self._n_blank == self._n_trailing else None

    def _label(self, best: int) -> TranscriptEvent | None:
        self._n_blank = 0
        start_s, end_s = self._span(self._n_outputs)
        if best == self._previous and self._tokens:
            self._tokens[-1] = Token(label=self._labels[best], start_s=self._tokens[-1].start_s, end_s=end_s)
            return None
        self._tokens.append(Token(label=self._labels[best], start_s=start_s, end_s=end_s))
        return self._event(final=False)

    def _final(self) -> TranscriptEvent | None:
        if not self._tokens:
            return None
        event = self._event(final=True)
        self._tokens = []
        return event

    def _event(self, *, final: bool) -> TranscriptEvent:
        tokens = tuple(self._tokens)
        return TranscriptEvent(
            text=self._text(tokens),
            final=final,
            start_s=tokens[0].start_s,
            end_s=tokens[-1].end_s,
            tokens=tokens,
            detected_s=self._clock.detected_s(self._n_outputs),
        )

    def _text(self, tokens: Sequence[Token]) -> str:
        text = self._config.separator.join(token.label for token in tokens)
        return byte_level_text(text) if self._config.byte_level else text

    def _span(self, output: int) -> tuple[float, float]:
        """The output's share of the newest frames' hops, latency taken off, not before the stream."""
        newest = self._clock.frame_end_s(self._clock.step_frames - 1) - self._latency_s
        end_s = newest + (output + 1 - self._clock.outputs_per_step) * self._clock.output_s
        return max(0.0, end_s - self._clock.output_s), max(0.0, end_s)
