"""A second bundle as a gate: an event of another counts only where this one heard speech."""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.listener import Codes
from edgeaudio_runtime.probabilities import SmoothedProbabilities

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

GATE_MARGIN_S = 0.5
"""Speech up to this long before an event's start counts for it, since a start is an estimate."""
LOOK_BACK_S = 30.0
"""What lies longer before the report of an event than this is forgotten."""
MOST_AHEAD_S = 2.0
"""The gate may have heard this much more than the event's report; callers push shorter pieces."""

_BLOCK = 64


class SpeechGate:
    """Remembers when a bundle (recipe ``vad``) heard speech, and lets events pass that overlap it.

    Speech is heard at an output when the smoothed probabilities of all its keywords together reach the threshold of its
    ``detector.json``. An event passes if that was so at an output between ``GATE_MARGIN_S`` before its start and its
    report. Memory is constant.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Make a gate of ``bundle``.

        Raises:
            SpecError: It is no keyword bundle, or needs whole recordings, or has no keyword.
        """
        manifest = bundle.manifest
        if bundle.task != "keyword" or manifest.mode == "whole" or not bundle.features.streamable:
            raise SpecError(f"gate={bundle.name!r} must be a streaming keyword bundle; train one with recipe vad")
        self._columns = [i for i, label in enumerate(bundle.labels) if label not in bundle.background_labels]
        if not self._columns:
            raise SpecError(f"gate={bundle.name!r} has background labels alone; one must stand for speech")
        self._clock, config = bundle.clock, bundle.detector_config
        self._threshold = config.threshold
        self._n_smoothing = max(1, round(config.smoothing_s / self._clock.output_s))
        self._n_labels, self._network = len(bundle.labels), manifest.network
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._probabilities = SmoothedProbabilities(
            output_quant=self._network.output_quant,
            thresholds=[0.0] * self._n_labels,
            n_smoothing=self._n_smoothing,
            n_memory=1,
            block=_BLOCK,
            output=self._network.output,
        )
        self._n_outputs = 0
        n_kept = ceil((LOOK_BACK_S + MOST_AHEAD_S) / self._clock.output_s)
        self._open_s: deque[float] = deque(maxlen=n_kept)

    def hear(self, codes: Codes) -> None:
        """Take the logit codes of whole steps."""
        for first in range(0, len(codes), _BLOCK):
            block = codes[first : first + _BLOCK]
            self._probabilities.push(block)
            scores = self._probabilities.scores(len(block))
            # Label after label, so that the sum does not depend on how many outputs stand beside it.
            speech = np.zeros(len(block))
            for column in self._columns:
                speech += scores[:, column]
            for row in np.flatnonzero(speech >= self._threshold):
                self._open_s.append(self._clock.detected_s(self._n_outputs + int(row)))
            self._n_outputs += len(block)

    def passes(self, event: Event) -> bool:
        """Whether speech was heard in the time of ``event``."""
        first = max(event.start_s - GATE_MARGIN_S, event.detected_s - LOOK_BACK_S)
        return any(first <= time <= event.detected_s for time in self._open_s)
