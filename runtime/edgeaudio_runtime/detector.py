"""From logit codes to keyword events: softmax, smoothing, threshold, hysteresis, refractory time, extent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.extent import StreamClock, active_region, n_bridged
from edgeaudio_runtime.manifest import checked_fields
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.recent import RecentRows

Codes = npt.NDArray[np.integer[Any]]
Float64 = npt.NDArray[np.float64]
Activity = npt.NDArray[np.float32]

DETECTOR_SCHEMA_VERSION = 1

_BLOCK_STEPS = 64
"""Steps looked at together; a longer call is cut, so that memory stays what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """``detector.json``: when a keyword counts as heard. ``edgeaudio tune`` replaces it."""

    schema_version: int = DETECTOR_SCHEMA_VERSION
    smoothing_s: float = 0.2
    """Probabilities are averaged over this many seconds, at least one step; steps before the stream count as 0."""
    threshold: float = 0.6
    """A label fires when its smoothed probability is the largest of all and reaches this, 0 to 1."""
    thresholds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Thresholds of single labels, instead of ``threshold``."""
    release: float = 0.35
    """A label that has fired may fire again only after its smoothed probability fell below this (hysteresis)."""
    refractory_s: float = 0.5
    """No label fires within this time after the last one did."""
    settle_s: float = 0.3
    """An event waits at most this long for its word to end, so that ``end_s`` is true; 0 reports at once."""

    def __post_init__(self) -> None:
        _check_number("smoothing_s", self.smoothing_s, low=0.0, high=10.0)
        _check_number("refractory_s", self.refractory_s, low=0.0, high=60.0)
        _check_number("settle_s", self.settle_s, low=0.0, high=2.0)
        _check_number("threshold", self.threshold, low=0.0, high=1.0)
        _check_number("release", self.release, low=0.0, high=1.0)
        if not isinstance(self.thresholds, Mapping):
            raise SpecError(f"thresholds={self.thresholds!r} must map labels to numbers")
        for label, value in self.thresholds.items():
            _check_number(f"thresholds[{label!r}]", value, low=0.0, high=1.0)
        lowest = min([self.threshold, *self.thresholds.values()])
        if self.release > lowest:
            raise SpecError(f"release={self.release} must be <= the lowest threshold, {lowest}; lower it")
        if self.schema_version != DETECTOR_SCHEMA_VERSION:
            raise SpecError(
                f"detector schema_version={self.schema_version!r} must be {DETECTOR_SCHEMA_VERSION}; "
                "for a newer one run: pip install --upgrade edgeaudio-runtime"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**plain, "thresholds": dict(self.thresholds)}

    @classmethod
    def from_dict(cls, values: object) -> DetectorConfig:
        """Inverse of :meth:`to_dict`; a missing field takes its default, an unknown one is refused by name."""
        every = frozenset(entry.name for entry in fields(cls))
        return cls(**checked_fields(cls, values, what="detector", optional=every - {"schema_version"}))


def _check_number(name: str, value: object, *, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SpecError(f"{name}={value!r} must be a number from {low:g} to {high:g}")


def softmax_table(quant: QuantParams) -> Float64:
    """``exp(-scale * d)`` for the code differences ``d`` = 0 .. ``high - low``, float64.

    Logits of one scale need no other exponentials: ``softmax_i = table[max - code_i] / sum_j table[max - code_j]``.
    """
    return np.exp(-float(quant.scale[0]) * np.arange(quant.high - quant.low + 1, dtype=np.float64))


def quiet_lead(quant: QuantParams, threshold: float) -> int:
    """Codes by which the best background label must lead the best keyword so that none can reach ``threshold``.

    With keyword code k, background code b and scale s, the softmax of the keyword is at most
    ``exp(s k) / (exp(s k) + exp(s b)) = 1 / (1 + exp(s (b - k)))``. A mean over outputs that all have the lead
    ``ceil(log(1 / threshold - 1) / s)`` stays below the threshold; a margin covers the rounding of softmax and mean.
    """
    largest = quant.high - quant.low + 1  # more than any lead there can be
    odds = 1.0 / max(threshold * (1.0 - 1e-9), 1e-300) - 1.0
    return int(np.clip(np.ceil(np.log(odds) / float(quant.scale[0])), -largest, largest))


_MOST_WINDOW_FRAMES = 100_000
"""A quarter of an hour at 10 ms; a longer averaging window in a bundle is a mistake, and memory would follow it."""


class KeywordDetector:
    """Turn logit codes of successive network outputs into keyword events.

    An output fires label k when (1) k is no background label, (2) its smoothed probability is the largest of all
    labels, ties going to the first, (3) it reaches the label's threshold, (4) it was below ``release`` since k last
    fired and (5) ``refractory_s`` have passed since a label last fired. ``score`` is the smoothed probability at this
    crossing, not the peak. A label held back by (5) alone fires as soon as the time is over, if the rest still holds.

    Where the word lies is read from ``activity``, one loudness-like value a frame (see ``listener.activity``), kept for
    the network's averaging window and a margin: the heaviest stretch above a level between floor and peak, gaps of up
    to 0.1 s bridged, that is no part of an earlier event (``extent.active_region``). The event is reported as soon as
    this stretch has ended (0.1 s of quiet), another label fires, or ``settle_s`` are over since the crossing;
    ``detected_s`` is the end of the last sample heard by then. Without contrast, or without activity, it is reported at
    once and the word put between the output at which the smoothed probability began to rise (after the last one below a
    tenth of the score) and the crossing, both moved back by half the smoothing.

    Memory is constant; cutting the same outputs into other calls changes nothing, bit for bit.

    Most outputs of most streams cannot fire anything, and for these no probability is computed: see
    :func:`quiet_lead`. Their codes are kept, so whatever fires later sees the probabilities it would have seen.
    """

    def __init__(
        self,
        config: DetectorConfig,
        *,
        labels: Sequence[str],
        background_labels: Sequence[str] = (),
        output_quant: QuantParams,
        clock: StreamClock,
    ) -> None:
        """Build a detector for one stream.

        Args:
            config: Thresholds and times.
            labels: In the order of the logits.
            background_labels: Labels that are never reported.
            output_quant: Quantization of the logit codes, per tensor.
            clock: Frame grid, step and averaging window of the network.

        Raises:
            SpecError: A threshold names a label the network does not have, or ``output_quant`` is per channel.
        """
        strangers = sorted(set(config.thresholds) - set(labels))
        if strangers:
            raise SpecError(f"thresholds name labels {strangers}, which the network lacks; it has {list(labels)}")
        if clock.window_frames > _MOST_WINDOW_FRAMES:
            raise SpecError(
                f"window_frames={clock.window_frames} must be <= {_MOST_WINDOW_FRAMES}; export the bundle again"
            )
        if output_quant.axis is not None:
            raise SpecError(f"output_quant has axis={output_quant.axis}; logits must share one scale to be compared")
        self._config, self._labels, self._clock = config, tuple(labels), clock
        self._table = softmax_table(output_quant)
        thresholds = [config.thresholds.get(label, config.threshold) for label in labels]
        # No probability reaches infinity: a background label never fires.
        row = np.where([label in background_labels for label in labels], np.inf, thresholds)
        self._n_smoothing = max(1, round(config.smoothing_s / clock.output_s))
        self._divisor = np.asarray(self._n_smoothing, dtype=np.float64)  # an array is not converted on every call
        self._n_refractory = _outputs(config.refractory_s, clock)
        self._n_settle = _outputs(config.settle_s, clock)
        self._block = _BLOCK_STEPS * clock.outputs_per_step
        self._thresholds = np.tile(row, (self._block, 1))  # comparing like shapes takes half the time
        keywords = np.flatnonzero(np.isfinite(row))
        self._keywords = frozenset(keywords.tolist())
        # With this much added to the keywords, an output whose largest code is a background label's is quiet.
        self._handicap = np.zeros((self._block, len(labels)), dtype=np.intp)
        self._handicap[:, keywords] = quiet_lead(output_quant, min(row.min(), 1.0))
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next output is output 0 of a new stream."""
        n_labels, clock = len(self._labels), self._clock
        n_probs = clock.memory_outputs + self._n_smoothing - 1
        self._probs = RecentRows(
            n_probs, (n_labels,), fill=0.0, dtype=np.float64, block=self._block, window=self._n_smoothing
        )
        self._n_probs, self._n_behind = n_probs, 0  # outputs whose probabilities were not computed
        self._codes = RecentRows(n_probs, (n_labels,), fill=0, dtype=np.intp, block=self._block)
        self._n_quiet = n_probs  # outputs since the last one that was not quiet
        n_block_frames = _BLOCK_STEPS * clock.step_frames
        self._activity = RecentRows(clock.memory_frames, (), fill=np.nan, dtype=np.float32, block=n_block_frames)
        self._latched = np.zeros(n_labels, dtype=bool)
        self._n_outputs = 0
        self._last_output = -self._n_refractory
        self._last_end_frame = -1
        self._held: _Crossing | None = None
        self._is_idle = True  # nothing held or latched

    def process(self, codes: Codes, activity: Activity | None = None) -> list[KeywordEvent]:
        """Take the next outputs and return the events they complete.

        Args:
            codes: Logit codes ``[k, n_labels]`` of whole steps, k >= 0.
            activity: One value for each feature frame of these steps; None if there is none.

        Raises:
            SpecError: Another shape.
        """
        activity = self._checked(codes, activity)
        if len(codes) <= self._block:
            return self._hear(codes, activity)
        events: list[KeywordEvent] = []
        step = self._clock.step_frames * _BLOCK_STEPS
        for i, first in enumerate(range(0, len(codes), self._block)):
            events += self._hear(codes[first : first + self._block], activity[i * step : (i + 1) * step])
        return events

    def flush(self) -> list[KeywordEvent]:
        """End the stream: the event that still waited for its word to end, if any; then as after :meth:`reset`."""
        held, last = self._held, self._n_outputs - 1
        events = [] if held is None else [self._event(held, last, self._activity.last(self._clock.memory_frames))]
        self.reset()
        return events

    def _checked(self, codes: Codes, activity: Activity | None) -> Activity:
        if codes.ndim != 2 or codes.shape[1] != len(self._labels):
            raise SpecError(f"logit codes have shape {list(codes.shape)}, it must be [k, {len(self._labels)}]")
        n_steps, partial = divmod(len(codes), self._clock.outputs_per_step)
        if partial:
            per_step = self._clock.outputs_per_step
            raise SpecError(f"{len(codes)} outputs are no whole number of steps; a step yields {per_step}")
        n_frames = n_steps * self._clock.step_frames
        if activity is None:
            return np.full(n_frames, np.nan, dtype=np.float32)
        if activity.shape != (n_frames,):
            raise SpecError(f"activity has shape {list(activity.shape)}, it must be [{n_frames}], one value a frame")
        return activity

    def _hear(self, codes: Codes, activity: Activity) -> list[KeywordEvent]:
        n = len(codes)
        self._activity.extend(len(activity))[:] = activity
        leading = np.add(codes, self._handicap[:n], self._codes.extend(n)).argmax(1).tolist()
        if not self._keywords.isdisjoint(leading):
            self._n_quiet = -n
        elif self._is_idle and self._n_quiet >= self._n_smoothing - 1:
            # Nearly every call of nearly every stream ends here.
            self._n_behind += n
            self._n_quiet += n
            self._n_outputs += n
            return []
        events = self._listen(n)
        self._n_quiet += n
        self._n_outputs += n
        return events

    def _listen(self, n: int) -> list[KeywordEvent]:
        self._catch_up(n)
        scores = self._smoothed(n)
        above = scores >= self._thresholds[:n]
        events: list[KeywordEvent] = []
        if not self._is_idle or np.count_nonzero(above):
            for row in range(n):
                self._decide(row, n - 1 - row, scores[row], above[row], events)
            self._is_idle = self._held is None and not self._latched.any()
        return events

    def _catch_up(self, n: int) -> None:
        """Compute the probabilities of the newest ``n`` outputs, and of those before them that were left out."""
        n_older = min(self._n_behind, self._n_probs)
        codes = self._codes.last(n_older + n) - self._handicap[0]
        # The newest come in one piece: what can be looked back on begins with the newest extension.
        for first in range(0, n_older, self._block):
            block = codes[first : min(first + self._block, n_older)]
            self._softmax(block, out=self._probs.extend(len(block)))
        self._softmax(codes[n_older:], out=self._probs.extend(n))
        self._n_behind = 0

    def _softmax(self, codes: npt.NDArray[np.intp], *, out: Float64) -> None:
        powers = self._table[np.maximum.reduce(codes, axis=1, keepdims=True) - codes]
        np.divide(powers, np.add.reduce(powers, axis=1, keepdims=True), out=out)

    def _smoothed(self, n: int) -> Float64:
        # The labels lie along the fast axis, so numpy adds whole rows, every output in one order, whatever the chunk;
        # a running sum would drift.
        total: Float64 = np.add.reduce(self._probs.windows(n), axis=1)
        return np.divide(total, self._divisor, total)

    def _decide(
        self, row: int, n_later: int, score: Float64, above: npt.NDArray[np.bool_], events: list[KeywordEvent]
    ) -> None:
        """One output: let go, fire, report what waited long enough; ``n_later`` outputs follow in the buffers."""
        output = self._n_outputs + row
        self._latched &= score >= self._config.release
        best = int(score.argmax())
        fires = above[best] and not self._latched[best] and output - self._last_output >= self._n_refractory
        if self._held is None and not fires:
            return
        past = self._past_activity(n_later)
        if self._held is not None and (fires or self._is_over(self._held, output, past)):
            events.append(self._event(self._held, output, past))
            self._held = None
        if fires:
            self._latched[best], self._last_output = True, output
            n_rising = self._n_rising(best, n_later)
            crossing = _Crossing(best=best, score=float(score[best]), output=output, n_rising=n_rising)
            if self._is_over(crossing, output, past):
                events.append(self._event(crossing, output, past))
            else:
                self._held = crossing

    def _past_activity(self, n_later: int) -> Activity:
        clock = self._clock
        n_later_frames = n_later // clock.outputs_per_step * clock.step_frames
        return self._activity.last(clock.memory_frames + n_later_frames)[: clock.memory_frames]

    def _n_rising(self, best: int, n_later: int) -> int:
        """Outputs since the smoothed probability was last below a tenth of what it is now."""
        n = self._clock.memory_outputs
        rise = self._smoothed(n + n_later)[:n, best]
        low = np.flatnonzero(rise < 0.1 * rise[-1])
        return n - int(low[-1]) - 1 if len(low) else n

    def _is_over(self, crossing: _Crossing, output: int, past: Activity) -> bool:
        if output - crossing.output >= self._n_settle:
            return True
        region = self._region(output, past)
        return region is None or region[1] + n_bridged(self._clock) < self._clock.n_frames_seen(output) - 1

    def _region(self, output: int, past: Activity) -> tuple[int, int] | None:
        """First and last frame of the word, counted from the start of the stream."""
        first = self._clock.n_frames_seen(output) - len(past)
        region = active_region(past, clock=self._clock, taken=self._last_end_frame - first)
        return None if region is None else (first + region[0], first + region[1])

    def _event(self, crossing: _Crossing, output: int, past: Activity) -> KeywordEvent:
        clock, region = self._clock, self._region(output, past)
        if region is not None:
            start_s, end_s = clock.frame_start_s(region[0]), clock.frame_end_s(region[1])
            self._last_end_frame = region[1]
        else:
            end_s = clock.detected_s(crossing.output) - (self._n_smoothing - 1) * clock.output_s / 2
            start_s = end_s - crossing.n_rising * clock.output_s
            self._last_end_frame = clock.n_frames_seen(crossing.output) - 1
        end_s = min(max(end_s, 0.0), clock.detected_s(output))
        return KeywordEvent(
            label=self._labels[crossing.best],
            score=crossing.score,
            start_s=min(max(start_s, 0.0), end_s),
            end_s=end_s,
            detected_s=clock.detected_s(output),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Crossing:
    """A label that fired and whose word may not have ended."""

    best: int
    score: float
    output: int
    n_rising: int


def _outputs(seconds: float, clock: StreamClock) -> int:
    return int(np.ceil(seconds / clock.output_s - 1e-9))
