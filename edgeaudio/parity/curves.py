"""Scores over a clip, in float and in int8: what the detector sees of a few telling recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.streams import FLOAT, INT8, Block, Networks, detector, hear
from edgeaudio.parity.task import LabelledClips
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.probabilities import SmoothedProbabilities
from edgeaudio_runtime.quantization import QuantParams

LOOKED_AT = 120
"""Clips of keywords among which the telling ones are looked for, spread over all."""
TAIL_S = 0.5
"""Digital silence after each, so that a word at the end of its clip is heard out."""
MOST_LABELS = 3
"""Labels that are drawn: the one that was said, then those that score most."""
DIGITS = 3
"""Of scores and seconds; a pixel is worth no more."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One clip as both sides heard it."""

    index: int
    """Which clip."""
    label: str
    """What is said."""
    scores: Mapping[str, Scores]
    """By side, smoothed probabilities ``[outputs, n_labels]`` as the detector compares them with its threshold."""
    events: Mapping[str, Sequence[KeywordEvent]]
    """By side, what the detector reported with the bundle's own settings."""

    @property
    def said(self) -> dict[str, list[str]]:
        """By side, labels of the events."""
        return {side: [event.label for event in events] for side, events in self.events.items()}


def telling_curves(networks: Networks, clips: LabelledClips) -> list[dict[str, Any]]:
    """Curves of up to three clips: heard rightly, nearest to its threshold, and answered otherwise by int8, if any is.

    Args:
        networks: What listens.
        clips: Labelled; only those of keywords are looked at, the first :data:`LOOKED_AT` at even distances.

    Returns:
        JSON form, as ``certificate.schema.json`` has it; nothing where there is no clip of a keyword.
    """
    heard = [_hear(networks, clips, index) for index in _spread_keywords(networks, clips)]
    return [_curve(networks, why, each) for why, each in _chosen(networks, heard)]


def _spread_keywords(networks: Networks, clips: LabelledClips) -> list[int]:
    keywords = set(networks.bundle.labels) - set(networks.bundle.background_labels)
    found = [index for index, label in enumerate(clips.labels) if label in keywords]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(LOOKED_AT, len(found))).astype(int)]


def _hear(networks: Networks, clips: LabelledClips, index: int) -> Heard:
    tail = np.zeros(round(TAIL_S * networks.bundle.features.sample_rate), dtype=np.int16)
    blocks = [*hear(networks, [np.concatenate([clips.waveforms[index], tail])])]
    sides = networks.quants.items()
    return Heard(
        index=index,
        label=clips.labels[index],
        scores={side: _scores(networks, quant, [block.codes[side] for block in blocks]) for side, quant in sides},
        events={side: _events(networks, side, quant, blocks) for side, quant in sides},
    )


def _scores(networks: Networks, quant: QuantParams, codes: Sequence[npt.NDArray[Any]]) -> Scores:
    joined = np.concatenate(codes)
    config, bundle = networks.bundle.detector_config, networks.bundle
    smoothed = SmoothedProbabilities(
        output_quant=quant,
        thresholds=[1.0] * len(bundle.labels),
        n_smoothing=max(1, round(config.smoothing_s / bundle.clock.output_s)),
        n_memory=len(joined),
        block=len(joined),
        output=bundle.manifest.network.output,
    )
    smoothed.push(joined)
    return smoothed.scores(len(joined)).copy()


def _events(networks: Networks, side: str, quant: QuantParams, blocks: Sequence[Block]) -> list[KeywordEvent]:
    watch = detector(networks.bundle, networks.bundle.detector_config, quant)
    events = [event for block in blocks for event in watch.process(block.codes[side], block.activity)]
    return [*events, *watch.flush()]


def _chosen(networks: Networks, heard: Sequence[Heard]) -> Iterator[tuple[str, Heard]]:
    """No clip twice; what is rarest is looked for first, what is shown first is a clip that was heard rightly."""
    apart = next((each for each in heard if FLOAT in each.said and each.said[FLOAT] != each.said[INT8]), None)
    rest = [each for each in heard if each is not apart]
    right = [each for each in rest if all(said == [each.label] for said in each.said.values())]
    if right:
        yield "heard by both", right[0]
    others = [each for each in rest if not right or each is not right[0]]
    if others:
        yield "nearest to its threshold", min(others, key=lambda each: _distance(networks, each))
    if apart is not None:
        yield "answered otherwise by int8", apart


def _distance(networks: Networks, heard: Heard) -> float:
    column = networks.bundle.labels.index(heard.label)
    return abs(float(heard.scores[INT8][:, column].max()) - _threshold(networks, heard.label))


def _threshold(networks: Networks, label: str) -> float:
    config = networks.bundle.detector_config
    return config.thresholds.get(label, config.threshold)


def _curve(networks: Networks, why: str, heard: Heard) -> dict[str, Any]:
    labels = networks.bundle.labels
    peaks = np.max([scores.max(axis=0) for scores in heard.scores.values()], axis=0)
    order = [labels.index(heard.label), *np.argsort(-peaks, kind="stable").tolist()]
    drawn = list(dict.fromkeys(order))[:MOST_LABELS]
    clock = networks.bundle.clock
    return {
        "chosen": why,
        "label": heard.label,
        "clip": heard.index,
        "threshold": _threshold(networks, heard.label),
        "seconds": [round(clock.detected_s(i), DIGITS) for i in range(len(heard.scores[INT8]))],
        FLOAT: None if FLOAT not in heard.scores else _rows(heard.scores[FLOAT], labels, drawn),
        INT8: _rows(heard.scores[INT8], labels, drawn),
        "events": [
            {
                "side": side,
                "label": event.label,
                "score": round(event.score, DIGITS),
                "at_s": round(event.detected_s, 3),
            }
            for side, events in heard.events.items()
            for event in events
        ],
    }


def _rows(scores: Scores, labels: Sequence[str], drawn: Sequence[int]) -> dict[str, list[float]]:
    return {labels[i]: scores[:, i].round(DIGITS).tolist() for i in drawn}
