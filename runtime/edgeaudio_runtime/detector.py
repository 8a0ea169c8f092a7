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
from edgeaudio_runtime.extent import StreamClock, active_region
from edgeaudio_runtime.manifest import checked_fields
from edgeaudio_runtime.quantization import QuantParams

Codes = npt.NDArray[np.integer[Any]]
Float64 = npt.NDArray[np.float64]
Activity = npt.NDArray[np.float32]

DETECTOR_SCHEMA_VERSION = 1


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
    """No label fires within this time after an event."""

    def __post_init__(self) -> None:
        _check_number("smoothing_s", self.smoothing_s, low=0.0, high=10.0)
        _check_number("refractory_s", self.refractory_s, low=0.0, high=60.0)
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


class KeywordDetector:
    """Turn logit codes of successive network outputs into keyword events.

    An output fires label k when (1) k is no background label, (2) its smoothed probability is the largest of all
    labels, ties going to the first, (3) it reaches the label's threshold, (4) it was below ``release`` since k last
    fired and (5) ``refractory_s`` have passed since the last event. The event leaves at once: ``score`` is the smoothed
    probability at the crossing, not the peak, and ``detected_s`` is the end of the last sample the output depends on. A
    label held back by (5) alone fires as soon as the time is over, if the rest still holds.

    Where the word lies is read from ``activity``, one loudness-like value a frame (see ``AudioStream``), kept for the
    network's averaging window and a margin: the heaviest stretch above a level between floor and peak, gaps of up
    to 0.1 s bridged, that ends at or before detection and was not part of an earlier event (``extent.active_region``).
    The word may still be sounding when it is detected; ``end_s`` is then the end of the last frame heard. Without
    contrast, or without activity, the word is put between the output at which the smoothed probability began to rise
    (after the last one below a tenth of the score) and the crossing, both moved back by half the smoothing.

    Memory is constant; cutting the same outputs into other calls changes nothing, bit for bit.
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
        if output_quant.axis is not None:
            raise SpecError(f"output_quant has axis={output_quant.axis}; logits must share one scale to be compared")
        self._config, self._labels, self._clock = config, tuple(labels), clock
        self._table = softmax_table(output_quant)
        self._reported = np.array([label not in background_labels for label in labels])
        self._thresholds = np.array([config.thresholds.get(label, config.threshold) for label in labels])
        self._n_smoothing = max(1, round(config.smoothing_s / clock.output_s))
        self._refractory = int(np.ceil(config.refractory_s / clock.output_s - 1e-9))
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next output is output 0 of a new stream."""
        n_labels, clock = len(self._labels), self._clock
        self._probs = np.zeros((self._n_smoothing - 1, n_labels))
        self._scores = np.zeros((clock.memory_outputs, n_labels))
        self._activity = np.full(clock.memory_frames, np.nan, dtype=np.float32)
        self._armed = np.ones(n_labels, dtype=bool)
        self._n_outputs = 0
        self._last_output = -self._refractory
        self._last_end_frame = -1

    def process(self, codes: Codes, activity: Activity | None = None) -> list[KeywordEvent]:
        """Take the next outputs and return the events they fire.

        Args:
            codes: Logit codes ``[k, n_labels]`` of whole steps, k >= 0.
            activity: One value for each feature frame of these steps; None if there is none.

        Raises:
            SpecError: Another shape.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self._labels):
            raise SpecError(f"logit codes have shape {list(codes.shape)}, it must be [k, {len(self._labels)}]")
        n = len(codes)
        if n == 0:
            return []
        scores = self._smooth(self._softmax(codes))
        history = np.concatenate((self._scores, scores))
        frames = self._extend_activity(activity, n)
        events = self._fire(scores, history, frames)
        self._scores, self._activity = history[n:], frames[len(frames) - self._clock.memory_frames :]
        self._n_outputs += n
        return events

    def _softmax(self, codes: Codes) -> Float64:
        wide = codes.astype(np.int32)
        powers = self._table[wide.max(axis=1, keepdims=True) - wide]
        probs: Float64 = powers / powers.sum(axis=1, keepdims=True)
        return probs

    def _smooth(self, probs: Float64) -> Float64:
        # Adding whole shifted blocks sums every output in one order, whatever the chunk; a running sum would drift.
        padded = np.concatenate((self._probs, probs))
        total = padded[: len(probs)].copy()
        for shift in range(1, self._n_smoothing):
            total += padded[shift : shift + len(probs)]
        self._probs = padded[len(probs) :]
        return total / self._n_smoothing

    def _extend_activity(self, activity: Activity | None, n_outputs: int) -> Activity:
        n_frames, partial = divmod(n_outputs, self._clock.outputs_per_step)
        n_frames *= self._clock.step_frames
        if partial:
            per_step = self._clock.outputs_per_step
            raise SpecError(f"{n_outputs} outputs are no whole number of steps; a step yields {per_step}")
        if activity is None:
            activity = np.full(n_frames, np.nan, dtype=np.float32)
        elif activity.shape != (n_frames,):
            raise SpecError(f"activity has shape {list(activity.shape)}, it must be [{n_frames}], one value a frame")
        return np.concatenate((self._activity, activity))

    def _fire(self, scores: Float64, history: Float64, frames: Activity) -> list[KeywordEvent]:
        above = (scores >= self._thresholds) & self._reported
        if self._armed.all() and not above.any():  # nearly every call of nearly every stream
            return []
        events = []
        for row, score in enumerate(scores):
            self._armed |= score < self._config.release
            best = int(score.argmax())
            output = self._n_outputs + row
            if above[row, best] and self._armed[best] and output - self._last_output >= self._refractory:
                self._armed[best], self._last_output = False, output
                n_seen = self._clock.n_frames_seen(row)  # calls hold whole steps, so rows count like outputs
                past = frames[n_seen : n_seen + self._clock.memory_frames]
                rise = history[row + 1 : row + 1 + self._clock.memory_outputs, best]
                events.append(self._event(best, float(score[best]), output, past, rise))
        return events

    def _event(self, best: int, score: float, output: int, past: Activity, rise: Float64) -> KeywordEvent:
        clock, seen = self._clock, self._clock.n_frames_seen(output)
        first = seen - len(past)  # absolute index of past[0]
        region = active_region(past, clock=clock, taken=self._last_end_frame - first)
        if region is not None:
            start_s, end_s = clock.frame_start_s(first + region[0]), clock.frame_end_s(first + region[1])
            self._last_end_frame = first + region[1]
        else:
            half_smoothing_s = (self._n_smoothing - 1) * clock.output_s / 2
            n_rising = _n_rising(rise, score)
            end_s = clock.detected_s(output) - half_smoothing_s
            start_s = end_s - n_rising * clock.output_s
            self._last_end_frame = seen - 1
        end_s = min(max(end_s, 0.0), clock.detected_s(output))
        return KeywordEvent(
            label=self._labels[best],
            score=score,
            start_s=min(max(start_s, 0.0), end_s),
            end_s=end_s,
            detected_s=clock.detected_s(output),
        )


def _n_rising(rise: Float64, score: float) -> int:
    # Outputs since the smoothed probability was last below a tenth of the score.
    low = np.flatnonzero(rise < 0.1 * score)
    return len(rise) - int(low[-1]) - 1 if len(low) else len(rise)
