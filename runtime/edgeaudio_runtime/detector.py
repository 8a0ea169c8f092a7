"""From logit codes to keyword events: softmax, smoothing, threshold, hysteresis, refractory time, extent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.extent import StreamClock, active_region, n_bridged
from edgeaudio_runtime.noise_gate import NoiseGate
from edgeaudio_runtime.probabilities import SmoothedProbabilities, Watch
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.recent import RecentRows
from edgeaudio_runtime.record import Record

Codes = npt.NDArray[np.integer[Any]]
Float64 = npt.NDArray[np.float64]
Activity = npt.NDArray[np.float32]

_BLOCK_STEPS = 64
"""Steps looked at together; a longer call is cut, so that memory stays what it is."""


_MOST_WINDOW_FRAMES = 100_000
"""A quarter of an hour at 10 ms; a longer averaging window in a bundle is a mistake, and memory would follow it."""


class KeywordDetector:
    """Turn logit codes of successive network outputs into keyword events.

    An output fires label k when (1) k is no background label, (2) its smoothed probability is the largest of all
    labels, ties going to the first, (3) it reaches the label's threshold, (4) it was below ``release`` since k last
    fired, (5) ``refractory_s`` have passed since a label last fired, (6) so were 1 to 3 for the last ``patience``
    outputs and (7) the gate is open, if there is one. ``score`` is the smoothed probability at this crossing, not the
    peak. A label held back by (5) or (7) alone fires as soon as that is over, if the rest still holds.

    Where the word lies is read from ``activity``, one loudness-like value a frame (see ``listener.activity``), kept for
    the network's averaging window and a margin: the heaviest stretch above a level between floor and peak, gaps of up
    to 0.1 s bridged, that is no part of an earlier event (``extent.active_region``). The event is reported as soon as
    this stretch has ended (0.1 s of quiet), another label fires, or ``settle_s`` are over since the crossing;
    ``detected_s`` is the end of the last sample heard by then. Without contrast, or without activity, it is reported at
    once and the word put between the output at which the smoothed probability began to rise (after the last one below a
    tenth of the score) and the crossing, both moved back by half the smoothing.

    Memory is constant; cutting the same outputs into other calls changes nothing, bit for bit.

    Most outputs of most streams cannot fire anything, and for these no probability is computed: see
    :mod:`edgeaudio_runtime.probabilities`.
    """

    def __init__(
        self,
        config: DetectorConfig,
        *,
        labels: Sequence[str],
        background_labels: Sequence[str] = (),
        output_quant: QuantParams,
        clock: StreamClock,
        output: str = "logits",
        decibels_per_unit: float | None = None,
    ) -> None:
        """Build a detector for one stream.

        Args:
            config: Thresholds and times.
            labels: In the order of the logits.
            background_labels: Labels that are never reported.
            output_quant: Quantization of the logit codes, per tensor.
            clock: Frame grid, step and averaging window of the network.
            output: "logits", or "probabilities" where the codes stand for these already.
            decibels_per_unit: Of the activity, see ``noise_gate``; None where it has no such unit.

        Raises:
            SpecError: A threshold or release names a label the network does not have, ``output_quant`` is per channel,
                or ``gate_db`` is set and the activity has no unit.
        """
        for name in ("thresholds", "releases"):
            strangers = sorted(set(getattr(config, name)) - set(labels))
            if strangers:
                raise SpecError(f"{name} name labels {strangers}, which the network lacks; it has {list(labels)}")
        if config.gate_db is not None and decibels_per_unit is None:
            raise SpecError(f"gate_db={config.gate_db} needs log-mel features or PCM; gate with a vad bundle instead")
        if clock.window_frames > _MOST_WINDOW_FRAMES:
            raise SpecError(
                f"window_frames={clock.window_frames} must be <= {_MOST_WINDOW_FRAMES}; export the bundle again"
            )
        if output_quant.axis is not None:
            raise SpecError(f"output_quant has axis={output_quant.axis}; logits must share one scale to be compared")
        self._config, self._labels, self._clock, self._output = config, tuple(labels), clock, output
        self._decibels_per_unit = decibels_per_unit
        # No probability reaches infinity: a background label never fires.
        row = [
            np.inf if label in background_labels else config.thresholds.get(label, config.threshold) for label in labels
        ]
        self._output_quant, self._label_thresholds = output_quant, row
        self._releases = np.array([config.releases.get(label, config.release) for label in labels])
        self._n_smoothing = max(1, round(config.smoothing_s / clock.output_s))
        self._n_refractory = _outputs(config.refractory_s, clock)
        self._n_settle = _outputs(config.settle_s, clock)
        self._block = _BLOCK_STEPS * clock.outputs_per_step
        self._thresholds = np.tile(row, (self._block, 1))  # comparing like shapes takes half the time
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next output is output 0 of a new stream."""
        clock = self._clock
        self._probabilities = SmoothedProbabilities(
            output_quant=self._output_quant,
            thresholds=self._label_thresholds,
            n_smoothing=self._n_smoothing,
            n_memory=clock.memory_outputs,
            block=self._block,
            output=self._output,
        )
        n_block_frames = _BLOCK_STEPS * clock.step_frames
        self._activity = RecentRows(clock.memory_frames, (), fill=np.nan, dtype=np.float32, block=n_block_frames)
        self._latched = np.zeros(len(self._labels), dtype=bool)
        self._n_outputs = 0
        self._last_output = -self._n_refractory
        self._last_end_frame = -1
        self._held: _Crossing | None = None
        self._is_idle = True  # nothing held or latched
        self._leader, self._n_leading = -1, 0  # the label above its threshold, and for how many outputs in a row
        gate_db, unit = self._config.gate_db, self._decibels_per_unit
        self._gate = (
            None if gate_db is None or unit is None else NoiseGate(gate_db, clock=clock, decibels_per_unit=unit)
        )

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

    @property
    def is_idle(self) -> bool:
        """Whether no event can come before an output that :attr:`watch` describes; such outputs may be given later."""
        return self._held is None

    @property
    def latched(self) -> npt.NDArray[np.bool_]:
        """Labels that fired and were not below their ``release`` since, ``[n_labels]``; these cannot fire."""
        return self._latched

    @property
    def watch(self) -> Watch:
        """What ends idleness."""
        return Watch(
            thresholds=tuple(map(float, self._label_thresholds)),
            releases=tuple(map(float, self._releases)),
            n_smoothing=self._n_smoothing,
            is_probability=self._output == "probabilities",
            memory_steps=self._memory_steps(),
        )

    def _memory_steps(self) -> int | None:
        clock = self._clock
        if self._gate is not None:  # its noise floor is the least of all there was
            return None
        n_outputs = clock.memory_outputs + self._n_smoothing - 1
        return max(clock.memory_frames // clock.step_frames, -(-n_outputs // clock.outputs_per_step))

    def pass_over(self, codes: Codes, activity: Activity | None = None, *, n_before: int = 0) -> None:
        """Take outputs of which :attr:`watch` says that nothing can come; as :meth:`process`, in much less time.

        Args:
            codes: As there.
            activity: As there.
            n_before: Steps that went before, for which all of this holds too and nothing is given; if any did, these
                must be ``watch.memory_steps`` less one, or more.

        Raises:
            SpecError: Another shape.
        """
        activity = self._checked(codes, activity)
        if self._gate is not None or self._held is not None:
            self.process(codes, activity)
            return
        step = self._clock.step_frames * _BLOCK_STEPS
        for i, first in enumerate(range(0, len(codes), self._block)):
            heard = activity[i * step : (i + 1) * step]
            self._activity.extend(len(heard))[:] = heard
            self._probabilities.pass_over(codes[first : first + self._block])
        self._n_outputs += len(codes) + n_before * self._clock.outputs_per_step
        self._n_leading = 0

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
        may_fire = self._probabilities.push(codes)
        is_open = None if self._gate is None else self._gate.hear(activity)
        # Nearly every call of nearly every stream has nothing to do.
        if may_fire or not self._is_idle:
            events = self._listen(n, is_open)
        else:
            events, self._n_leading = [], 0
        self._n_outputs += n
        return events

    def _listen(self, n: int, is_open: npt.NDArray[np.bool_] | None) -> list[KeywordEvent]:
        scores = self._probabilities.scores(n)
        above = scores >= self._thresholds[:n]
        events: list[KeywordEvent] = []
        if not self._is_idle or np.count_nonzero(above):
            for row in range(n):
                may_fire = is_open is None or bool(is_open[row])
                self._decide(row, n - 1 - row, scores[row], above[row], may_fire, events)
            self._is_idle = self._held is None and not self._latched.any()
        elif n:
            self._n_leading = 0
        return events

    def _decide(
        self,
        row: int,
        n_later: int,
        score: Float64,
        above: npt.NDArray[np.bool_],
        may_fire: bool,
        events: list[KeywordEvent],
    ) -> None:
        """One output: let go, fire, report what waited long enough; ``n_later`` outputs follow in the buffers."""
        output = self._n_outputs + row
        self._latched &= score >= self._releases
        best = int(score.argmax())
        fires = self._is_patient(best, bool(above[best])) and may_fire and not self._latched[best]
        fires = fires and output - self._last_output >= self._n_refractory
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

    def _is_patient(self, best: int, is_above: bool) -> bool:
        self._n_leading = (self._n_leading + 1 if best == self._leader else 1) if is_above else 0
        self._leader = best
        return self._n_leading >= self._config.patience

    def _past_activity(self, n_later: int) -> Activity:
        clock = self._clock
        n_later_frames = n_later // clock.outputs_per_step * clock.step_frames
        return self._activity.last(clock.memory_frames + n_later_frames)[: clock.memory_frames]

    def _n_rising(self, best: int, n_later: int) -> int:
        """Outputs since the smoothed probability was last below a tenth of what it is now."""
        n = self._clock.memory_outputs
        rise = self._probabilities.scores(n + n_later)[:n, best]
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


class _Crossing(Record):
    """A label that fired and whose word may not have ended."""

    best: int
    score: float
    output: int
    n_rising: int


def _outputs(seconds: float, clock: StreamClock) -> int:
    return int(np.ceil(seconds / clock.output_s - 1e-9))
