"""Several bundles on one microphone: those that hear the same features share one front end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import gcd, lcm
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.front_end import FrontEnd, Implementation
from edgeaudio_runtime.listener import Codes, Features, HearsEveryStep, Listener, open_listener
from edgeaudio_runtime.samples import Samples, checked_scale
from edgeaudio_runtime.speech_gate import SpeechGate
from edgeaudio_runtime.stream import AudioStream, Pipeline, open_pipeline
from edgeaudio_runtime.whole_recording import padded_frames

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle


class Hub:
    """Listen with several bundles at once: as one :class:`AudioStream`, and events say which bundle heard them.

    Bundles with one ``features_hash`` share the computation of features; each has its own network state and detector,
    and hears exactly what a stream of its own would. Events come in the order of ``detected_s``, then of the bundles.
    With a ``gate``, a bundle such as recipe ``vad`` makes, an event counts only where the gate heard speech in it (see
    :class:`~edgeaudio_runtime.speech_gate.SpeechGate`). The chunks' lengths change nothing; memory is constant.

        hub = Hub([open_bundle("wake"), open_bundle("commands")], gate=open_bundle("vad"))
        for event in hub.process(chunk):
            print(event.bundle, event.label)
    """

    def __init__(
        self,
        bundles: Iterable[Bundle] | Mapping[str, Bundle],
        *,
        engine: str = "auto",
        gate: Bundle | None = None,
        front_end: Implementation = "auto",
    ) -> None:
        """Open a stream for each bundle.

        Args:
            bundles: With the names that events shall carry, else they carry the bundles' own.
            engine: See :class:`~edgeaudio_runtime.stream.AudioStream`.
            gate: Keyword bundle whose keywords stand for speech.
            front_end: See :class:`~edgeaudio_runtime.stream.AudioStream`.

        Raises:
            SpecError: No bundle, a name twice, sample rates that differ, or a gate that is no streaming keyword bundle.
            EngineError: The engine is not installed.
        """
        named = list(bundles.items()) if isinstance(bundles, Mapping) else [(b.name, b) for b in bundles]
        self.sample_rate = _common_rate(named, gate)
        self.names = tuple(name for name, _ in named)
        self._gate = None if gate is None else SpeechGate(gate)
        voices = [_Voice(bundle, bundle.program(engine), open_listener(bundle), name) for name, bundle in named]
        if gate is not None and self._gate is not None:
            voices.append(_Voice(gate, gate.program(engine), _GateListener(self._gate), ""))
        self._parts = _parts(voices, front_end)

    def process(self, samples: Samples, *, sample_rate: int | None = None) -> list[Event]:
        """Take the next samples and return the events they complete; see ``AudioStream.process``."""
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise SpecError(f"sample_rate={sample_rate} must be {self.sample_rate}, the bundles'; resample first")
        if len(self._parts) > 1 or not isinstance(samples, np.ndarray):
            checked_scale(samples)  # before one has taken what another refuses
        # A second at a time, since the gate's memory is bounded.
        if len(samples) <= self.sample_rate:
            return self._hear(samples)
        starts = range(0, len(samples), self.sample_rate)
        return [event for i in starts for event in self._hear(samples[i : i + self.sample_rate])]

    def flush(self) -> list[Event]:
        """End the stream, return what was outstanding, and begin anew."""
        events = self._passed([event for part in self._parts for event in part.flush()])
        self.reset()
        return events

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0 of a new stream."""
        for part in self._parts:
            part.reset()
        if self._gate is not None:
            self._gate.reset()

    def _hear(self, samples: Samples) -> list[Event]:
        events: list[Event] = []
        for part in self._parts:
            events += part.process(samples)
        return self._passed(events) if events else events

    def _passed(self, events: list[Event]) -> list[Event]:
        gate = self._gate
        passed = [event for event in events if gate is None or gate.passes(event)]
        return sorted(passed, key=lambda event: (event.detected_s, self.names.index(event.bundle or "")))


class _Voice(NamedTuple):
    """What a bundle brings along."""

    bundle: Bundle
    program: Program
    listener: Listener
    name: str

    @property
    def shares(self) -> bool:
        """Whether its features can come from a front end of others."""
        return self.bundle.features.streamable and not self.program.signature.whole


class _GateListener(HearsEveryStep):
    """Lets a gate hear the logits of its network."""

    def __init__(self, gate: SpeechGate) -> None:
        self._gate = gate

    def hear(self, codes: Codes, features: Features) -> list[Event]:
        self._gate.hear(codes)
        return []

    def finish(self) -> list[Event]:
        return []

    def reset(self) -> None:
        """Nothing: after a flush the hub still asks the gate what was heard, and resets it then."""


class _Given:
    """Stands for the front end of a bundle: what it is given are features already."""

    def __init__(self, n_features: int) -> None:
        self._nothing = np.empty((0, n_features), dtype=np.float32)

    def process(self, samples: Samples) -> Features:
        return cast(Features, samples)

    def flush(self, multiple_of: int = 1) -> Features:
        return self._nothing

    def reset(self) -> None:
        """Nothing to forget."""


class _Member:
    """Network and listener of one bundle, fed with features in any number."""

    def __init__(self, voice: _Voice, front_end: Implementation) -> None:
        spec = voice.bundle.features
        self.step_frames, self.name = voice.program.signature.step_frames, voice.name
        self._pipeline = open_pipeline(spec, voice.program, voice.listener, front_end, _Given(spec.n_features))
        self.reset()

    def reset(self) -> None:
        self._pipeline.reset()
        self.n_frames = 0
        self._waiting: Features | None = None

    def hear(self, features: Features) -> list[Event]:
        self.n_frames += len(features)
        if self._waiting is not None:
            features, self._waiting = np.concatenate((self._waiting, features)), None
        n_over = len(features) % self.step_frames
        if n_over:
            features, self._waiting = features[:-n_over], features[-n_over:].copy()
        return _named(self._pipeline.process(features), self.name) if len(features) else []

    def finish(self, features: Features) -> list[Event]:
        events = [*self.hear(features), *_named(self._pipeline.flush(), self.name)]
        self.reset()
        return events


class _SharedFrontEnd:
    """One front end and the members that hear its features."""

    def __init__(self, voices: list[_Voice], front_end: Implementation) -> None:
        self._members = [_Member(voice, front_end) for voice in voices]
        self._spec = voices[0].bundle.features
        steps = [member.step_frames for member in self._members]
        self._all_steps = lcm(*steps)
        self._front_end = FrontEnd(self._spec, multiple_of=gcd(*steps), implementation=front_end)

    def process(self, samples: Samples) -> list[Event]:
        features = self._front_end.process(samples)
        if not len(features):
            return []
        events: list[Event] = []
        for member in self._members:
            events += member.hear(features)
        return events

    def flush(self) -> list[Event]:
        n_samples = self._front_end.n_samples
        features = self._front_end.flush(multiple_of=self._all_steps)
        events: list[Event] = []
        for member in self._members:
            # Another member's longer step makes the tail longer than this one's own.
            n_own = padded_frames(self._spec, n_samples, member.step_frames) - member.n_frames
            events += member.finish(features[:n_own])
        return events

    def reset(self) -> None:
        self._front_end.reset()
        for member in self._members:
            member.reset()


class _Alone:
    """A bundle whose features nobody shares: a stream of its own."""

    def __init__(self, voice: _Voice, front_end: Implementation) -> None:
        self._stream, self._name = AudioStream(voice.bundle, program=voice.program, front_end=front_end), voice.name
        self.reset = self._stream.reset

    def process(self, samples: Samples) -> list[Event]:
        return _named(self._stream.process(samples), self._name)

    def flush(self) -> list[Event]:
        return _named(self._stream.flush(), self._name)


def _named(events: list[Event], name: str) -> list[Event]:
    return [replace(event, bundle=name) for event in events] if events else events


def _parts(voices: list[_Voice], front_end: Implementation) -> list[Pipeline]:
    groups: dict[str, list[_Voice]] = {}
    for voice in voices:
        key = voice.bundle.manifest.features_hash if voice.shares else f"alone {id(voice)}"
        groups.setdefault(key, []).append(voice)
    parts: list[Pipeline] = []
    # Whole recordings first: they refuse a change of dtype, which the others would have taken by then.
    for group in sorted(groups.values(), key=lambda group: group[0].shares):
        alone = len(group) == 1 and not isinstance(group[0].listener, _GateListener)
        parts.append(_Alone(group[0], front_end) if alone else _SharedFrontEnd(group, front_end))
    return parts


def _common_rate(named: list[tuple[str, Bundle]], gate: Bundle | None) -> int:
    names = [name for name, _ in named]
    if not names:
        raise SpecError("bundles=[] must name at least one bundle")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"bundles have the names {twice} twice; pass a mapping with a name for each")
    opened = [*named, *([] if gate is None else [("the gate", gate)])]
    rates = {name: bundle.features.sample_rate for name, bundle in opened}
    if len(set(rates.values())) > 1:
        raise SpecError(f"sample rates {rates} must be one; open a hub for each rate and resample for it")
    return next(iter(rates.values()))
