"""CTC decoding of a stream of logit codes: greedy or by prefix beam search, reported as the text grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.ctc_beam import BLANK, BeamSearch, LogProbabilities, Span
from edgeaudio_runtime.ctc_bias import TextBias
from edgeaudio_runtime.decoder_config import DECODER_SCHEMA_VERSION, LONGEST_BEAM_S, DecoderConfig
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Token, TranscriptEvent
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.spelling import Spelling, byte_level_text

__all__ = ["DECODER_SCHEMA_VERSION", "CtcDecoder", "DecoderConfig", "byte_level_text"]

Codes = npt.NDArray[np.integer[Any]]


class CtcDecoder:
    """Turn logit codes of successive network outputs into transcripts.

    Greedy (``beam_width`` 1): the best label of each output is taken (ties go to the first label), repeats without a
    blank between them are one token, ``labels[0]`` is the blank. Else by prefix beam search, see ``ctc_beam``, with the
    words, hotwords and language model of the settings (``ctc_bias``). Whenever another text leads, an event with
    ``final`` false says so. After ``trailing_blank_s`` of blanks (outputs whose best label is the blank), if the text
    has ``min_words``, or ``max_utterance_s`` after its first token, or on :meth:`flush`, the text is reported with
    ``final`` true and begins anew. A token spans the outputs that named it, in a beam search by the best alignment;
    times are those of the audio they speak of, latency taken off.

    Memory is that of one transcript; cutting the same outputs into other calls changes nothing.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        labels: Sequence[str],
        clock: StreamClock,
        latency_frames: int = 0,
        output_quant: QuantParams | None = None,
        output: str = "logits",
    ) -> None:
        """Build a decoder for one stream.

        Args:
            config: Separator, end rules, and what the search knows of texts.
            labels: In the order of the logits; the first is the blank.
            clock: Frame grid and step of the network.
            latency_frames: Feature frames by which an output lags what it speaks of.
            output_quant: Quantization of the logit codes, per tensor; a beam search needs it.
            output: "logits", or "probabilities" where the codes stand for these already.

        Raises:
            SpecError: ``output_quant`` is missing or per channel, or a word that the labels cannot spell.
        """
        self._config, self._labels, self._clock = config, tuple(labels), clock
        self._latency_s = latency_frames * clock.hop_length / clock.sample_rate
        self._n_trailing = max(1, round(config.trailing_blank_s / clock.output_s))
        self._spelling = Spelling(labels, separator=config.separator, byte_level=config.byte_level)
        is_greedy, longest_s = config.beam_width == 1, config.max_utterance_s
        self._search = GreedySearch() if is_greedy else self._beam(output_quant, output)
        longest_s = longest_s if is_greedy or longest_s is not None else LONGEST_BEAM_S
        self._n_longest = None if longest_s is None else max(1, round(longest_s / clock.output_s))
        self.reset()

    def _beam(self, quant: QuantParams | None, output: str) -> Search:
        if quant is None or quant.axis is not None:
            axis = "missing" if quant is None else f"axis={quant.axis}"
            raise SpecError(f"output_quant ({axis}) must be per tensor for a beam search; set beam_width to 1")
        bias = TextBias(self._config, self._spelling)
        return BeamSearch(self._config.beam_width, LogProbabilities(quant, output), bias)

    def reset(self) -> None:
        """Forget everything; the next output is output 0 of a new stream."""
        self._n_outputs = 0
        self._n_blank = 0
        self._begin(0, sounding=BLANK)

    def process(self, codes: Codes) -> list[TranscriptEvent]:
        """Take the next outputs, ``[k, n_labels]``, and return what they add.

        Raises:
            SpecError: Another shape.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self._labels):
            raise SpecError(f"logit codes have shape {list(codes.shape)}, it must be [k, {len(self._labels)}]")
        events: list[TranscriptEvent] = []
        for row, best in enumerate(codes.argmax(axis=1).tolist()):
            if self._search.push(codes[row], best, self._n_outputs) or self._is_unsure:
                events += self._partial()
            self._n_blank = self._n_blank + 1 if best == BLANK else 0
            events += self._ended(best)
            self._n_outputs += 1
        return events

    def flush(self) -> list[TranscriptEvent]:
        """End the stream: the transcript under way, if any, as final."""
        self._n_outputs = max(0, self._n_outputs - 1)  # the newest output is where it is reported
        events = self._final(sounding=BLANK)
        self.reset()
        return events

    def _begin(self, output: int, *, sounding: int) -> None:
        self._search.restart(sounding)
        self._reported: tuple[int, ...] = ()
        self._is_unsure = False  # the text that leads may be reported when its tokens have sounded longer
        self._first_output = output

    def _partial(self) -> list[TranscriptEvent]:
        spans = self._search.leading()
        labels = tuple(span.label for span in spans)
        self._is_unsure = bool(labels) and not self._is_sure(spans)
        if not labels or labels == self._reported or self._is_unsure:
            return []
        self._reported = labels
        return [self._event(spans, final=False)]

    def _is_sure(self, spans: Sequence[Span]) -> bool:
        return all(span.score is None or span.score >= self._config.min_score for span in spans)

    def _ended(self, best: int) -> list[TranscriptEvent]:
        """The final event, if the transcript ends with this output."""
        if self._n_blank and self._n_blank % self._n_trailing == 0:
            spans = self._search.final()
            # Silence without a text also begins anew, so that nothing piles up in a night.
            if not spans or self._n_words(spans) >= self._config.min_words:
                return self._final(sounding=BLANK)
        n_heard = self._n_outputs - self._first_output + 1
        if self._n_longest is None or n_heard < self._n_longest:
            return []
        spans = self._search.leading()
        is_over = bool(spans) and self._n_outputs - spans[0].first + 1 >= self._n_longest
        return self._final(sounding=best) if is_over or n_heard >= 2 * self._n_longest else []

    def _final(self, *, sounding: int) -> list[TranscriptEvent]:
        spans = self._search.final()
        events = [self._event(spans, final=True)] if spans and self._is_sure(spans) else []
        self._begin(self._n_outputs + 1, sounding=sounding)
        return events

    def _event(self, spans: Sequence[Span], *, final: bool) -> TranscriptEvent:
        tokens = tuple(self._token(span) for span in spans)
        text = self._config.separator.join(token.label for token in tokens)
        return TranscriptEvent(
            text=byte_level_text(text) if self._config.byte_level else text,
            final=final,
            start_s=tokens[0].start_s,
            end_s=tokens[-1].end_s,
            tokens=tokens,
            detected_s=self._clock.detected_s(self._n_outputs),
            words=tuple(self._word(tokens[first:stop]) for first, stop in self._word_bounds(spans)),
        )

    def _token(self, span: Span) -> Token:
        start_s, end_s = self._span(span.first)[0], self._span(span.last)[1]
        return Token(label=self._labels[span.label], start_s=start_s, end_s=end_s, score=span.score)

    def _word(self, tokens: Sequence[Token]) -> Token:
        scores = [token.score for token in tokens if token.score is not None]
        return Token(
            label=self._spelling.text(token.label for token in tokens),
            start_s=tokens[0].start_s,
            end_s=tokens[-1].end_s,
            score=min(scores, default=None),
        )

    def _n_words(self, spans: Sequence[Span]) -> int:
        return len(self._word_bounds(spans))

    def _word_bounds(self, spans: Sequence[Span]) -> list[tuple[int, int]]:
        """First and one past the last token of each word; labels that only divide words belong to none."""
        bounds: list[tuple[int, int]] = []
        is_open = False
        for i, span in enumerate(spans):
            if self._spelling.divides[span.label]:
                is_open = False
            elif is_open and not self._spelling.starts[span.label]:
                bounds[-1] = (bounds[-1][0], i + 1)
            else:
                bounds.append((i, i + 1))
                is_open = True
        return bounds

    def _span(self, output: int) -> tuple[float, float]:
        """The output's share of the newest frames' hops, latency taken off, not before the stream."""
        newest = self._clock.frame_end_s(self._clock.step_frames - 1) - self._latency_s
        end_s = newest + (output + 1 - self._clock.outputs_per_step) * self._clock.output_s
        return max(0.0, end_s - self._clock.output_s), max(0.0, end_s)


class Search(Protocol):
    """Finds texts in the outputs of a stream."""

    def restart(self, sounding: int) -> None:
        """Begin a new text; ``sounding`` is the label of the output before, whose repetition is no new token."""
        ...

    def push(self, codes: Codes, best: int, output: int) -> bool:
        """Take the codes ``[n_labels]`` of an output and its best label; whether another text leads now."""
        ...

    def leading(self) -> tuple[Span, ...]:
        """The most probable text so far."""
        ...

    def final(self) -> tuple[Span, ...]:
        """The most probable text that may end here; empty if none may."""
        ...


class GreedySearch:
    """The best label of each output."""

    def __init__(self) -> None:
        self.restart(BLANK)

    def restart(self, sounding: int) -> None:
        """See :class:`Search`."""
        self._previous, self._spans = sounding, list[Span]()

    def push(self, codes: Codes, best: int, output: int) -> bool:
        """See :class:`Search`."""
        goes_on, self._previous = best == self._previous, best
        if best == BLANK:
            return False
        if goes_on and self._spans:
            self._spans[-1] = Span(best, self._spans[-1].first, output)
        elif not goes_on:
            self._spans.append(Span(best, output, output))
        return not goes_on

    def leading(self) -> tuple[Span, ...]:
        """See :class:`Search`."""
        return tuple(self._spans)

    final = leading
