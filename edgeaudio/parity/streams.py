"""The one place where networks run over recordings and events are counted, in records that merge exactly.

What a shard is, is the caller's choice: one stream from a reset to its end, of recordings one after the other
(:func:`count_stream`), or one recording of a keyword (:func:`hear_spoken`). A shard's record depends on its audio and
settings alone, so shards may be heard anywhere, in any order, and be merged in theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.float_reference import FloatSteps
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.noise_gate import decibels_per_unit
from edgeaudio_runtime.quantization import QuantParams, quantize
from edgeaudio_runtime.stream import LogitStream

FLOAT, INT8 = "float", "int8"
"""The sides: the float network and the bundle's engine."""
FLOAT_LOGITS = QuantParams(scale=(2.0**-9,), dtype="int16")
"""Codes in which the detector is given float logits: steps of 0.002 up to 64, finer than any threshold."""
PIECE_S = 10.0
"""Audio that is heard at a time: what lies between front end and detector stays within a few megabytes."""
TAIL_S = 0.5
"""Digital silence heard after a recording of a keyword: a device hears on where a recording is cut short."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
"""Of a DET curve, and those that a detector is tuned to."""

Codes = npt.NDArray[np.integer[Any]]
Activity = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What listens: a keyword bundle's engine and, on the same features, the float network it was made from."""

    bundle: Bundle
    """Its front end and detector are used for both."""
    program: Program
    """The bundle's, of any engine."""
    float_steps: FloatSteps | None = None
    """Begins a stream of the float network; None where there is none."""

    def __post_init__(self) -> None:
        if self.bundle.task != "keyword":
            raise ParityError(f"task={self.bundle.task!r} has no threshold; give a keyword bundle")

    @property
    def quants(self) -> dict[str, QuantParams]:
        """Quantization of each side's logit codes, float first."""
        in_int8 = {INT8: self.bundle.manifest.network.output_quant}
        return in_int8 if self.float_steps is None else {FLOAT: FLOAT_LOGITS, **in_int8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What was said of some audio of a stream."""

    codes: Mapping[str, Codes]
    """By side, logit codes ``[k, n_labels]``."""
    activity: Activity
    """One loudness-like value a feature frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamCounts:
    """Events in recordings without a keyword: every one is a false accept. Records of shards add up."""

    n_recordings: int
    """Recordings that were heard."""
    n_samples: int
    """Samples in them, at the bundle's rate."""
    events: Mapping[str, tuple[int, ...]]
    """By side, one count for each of the settings asked for."""

    def __add__(self, other: StreamCounts) -> StreamCounts:
        events = {
            side: tuple(a + b for a, b in zip(own, other.events[side], strict=True))
            for side, own in self.events.items()
        }
        return StreamCounts(
            n_recordings=self.n_recordings + other.n_recordings,
            n_samples=self.n_samples + other.n_samples,
            events=events,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, exact."""
        events = {side: list(counts) for side, counts in self.events.items()}
        return {"n_recordings": self.n_recordings, "n_samples": self.n_samples, "events": events}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamCounts:
        """Inverse of :meth:`to_dict`."""
        events = {side: tuple(counts) for side, counts in values["events"].items()}
        return cls(n_recordings=values["n_recordings"], n_samples=values["n_samples"], events=events)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """What became of one recording of a keyword."""

    heard: Mapping[str, tuple[bool, ...]]
    """By side, whether an event came, for each of the settings asked for."""
    detected_s: Mapping[str, float | None]
    """By side, when the first event came with the first of the settings, in seconds from the start; None if none."""
    sound_end_s: float
    """Where the sound ends, by energy (see :func:`sound_end_s`)."""
    is_labelled: bool
    """Whether only events of one label count, because the recording is known to say it."""

    def latency_s(self, side: str) -> float | None:
        """Seconds from the end of the sound to the first event; negative before it, None without an event."""
        at = self.detected_s[side]
        return None if at is None else at - self.sound_end_s


def count_stream(networks: Networks, audio: Iterable[Int16], settings: Sequence[DetectorConfig]) -> StreamCounts:
    """Count the events of one stream, recordings one after the other, from a reset to its end.

    Args:
        networks: What listens.
        audio: Recordings ``[n]`` without a keyword; they are read one at a time and not kept.
        settings: Of the detector; events are counted for each.
    """
    n_recordings, n_samples = 0, 0
    detectors = _detectors(networks, settings)
    counts = {side: [0] * len(settings) for side in detectors}

    def counted() -> Iterator[Int16]:
        nonlocal n_recordings, n_samples
        for samples in audio:
            n_recordings, n_samples = n_recordings + 1, n_samples + len(samples)
            yield samples

    for side, i, events in _events(detectors, hear(networks, counted())):
        counts[side][i] += len(events)
    return StreamCounts(
        n_recordings=n_recordings, n_samples=n_samples, events={side: tuple(row) for side, row in counts.items()}
    )


def hear_spoken(
    networks: Networks, samples: Int16, settings: Sequence[DetectorConfig], *, label: str | None = None
) -> Spoken:
    """Hear one recording of a keyword, and :data:`TAIL_S` of silence after it, from a reset to its end.

    Args:
        networks: What listens.
        samples: ``[n]``.
        settings: Of the detector; latency is told for the first.
        label: What is said in it, so that only its events count; None takes any event.
    """
    detectors = _detectors(networks, settings)
    heard = {side: [False] * len(settings) for side in detectors}
    first: dict[str, float | None] = dict.fromkeys(detectors)
    for side, i, events in _events(detectors, hear(networks, [samples, silent_tail(networks.bundle)])):
        for event in of_label(events, label):
            heard[side][i] = True
            if i == 0 and first[side] is None:
                first[side] = event.detected_s
    return Spoken(
        heard={side: tuple(row) for side, row in heard.items()},
        detected_s=first,
        sound_end_s=sound_end_s(samples, networks.bundle.features.sample_rate),
        is_labelled=label is not None,
    )


def hear(networks: Networks, audio: Iterable[Int16]) -> Iterator[Block]:
    """Run the networks over one stream, recordings one after the other, from a reset to its end, block by block."""
    spec = networks.bundle.features
    stream, n_piece = LogitStream(spec, networks.program), round(PIECE_S * spec.sample_rate)
    in_float = None if networks.float_steps is None else networks.float_steps()

    def block(codes: Codes, features: npt.NDArray[np.float32]) -> Block:
        sides = {INT8: codes}
        if in_float is not None:
            logits = in_float(features) if len(features) else np.empty(codes.shape, np.float32)
            sides[FLOAT] = quantize(logits, FLOAT_LOGITS)
        return Block(codes=sides, activity=activity(spec, features))

    for samples in audio:
        for start in range(0, len(samples), n_piece):
            yield block(*stream.process(samples[start : start + n_piece]))
    yield block(*stream.flush())


def silent_tail(bundle: Bundle) -> Int16:
    """What a recording of a keyword is followed by."""
    return np.zeros(round(TAIL_S * bundle.features.sample_rate), np.int16)


def detector(bundle: Bundle, config: DetectorConfig, quant: QuantParams | None = None) -> KeywordDetector:
    """The detector of a bundle with these settings, for codes quantized by ``quant`` if not by the bundle's."""
    network = bundle.manifest.network
    return KeywordDetector(
        config,
        labels=bundle.labels,
        background_labels=bundle.background_labels,
        output_quant=quant or network.output_quant,
        clock=bundle.clock,
        output=network.output,
        decibels_per_unit=decibels_per_unit(bundle.features),
    )


def of_label(events: Iterable[KeywordEvent], label: str | None) -> list[KeywordEvent]:
    """Those of the label, or all of them where it is None."""
    return [event for event in events if label is None or event.label == label]


def with_threshold(config: DetectorConfig, threshold: float) -> DetectorConfig:
    """The settings with this threshold for all labels, and a release that is not above it."""
    return replace(config, threshold=threshold, release=min(config.release, threshold), thresholds={}, releases={})


def sound_end_s(samples: Int16, sample_rate: int) -> float:
    """Where the sound of a recording ends, in seconds: its last 10 ms within 35 dB of the loudest 10 ms."""
    import torch

    from edgeaudio_models.waveform_batches import voiced_spans

    ((_, stop),) = voiced_spans(torch.from_numpy(samples[None].astype(np.float32))).tolist()
    return float(stop) / sample_rate


_Detectors = Mapping[str, Sequence[KeywordDetector]]


def _detectors(networks: Networks, settings: Sequence[DetectorConfig]) -> _Detectors:
    return {
        side: [detector(networks.bundle, config, quant) for config in settings]
        for side, quant in networks.quants.items()
    }


def _events(detectors: _Detectors, blocks: Iterable[Block]) -> Iterator[tuple[str, int, list[KeywordEvent]]]:
    """(side, index of the settings, events) in the order of the stream, the outstanding ones last."""
    for block in blocks:
        for side, row in detectors.items():
            for i, each in enumerate(row):
                yield side, i, each.process(block.codes[side], block.activity)
    for side, row in detectors.items():
        for i, each in enumerate(row):
            yield side, i, each.flush()
