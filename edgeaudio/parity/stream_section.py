"""What a certificate says of streams: misses, false accepts, latency and the DET curve, float and int8 side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio.parity.recordings import QUIET_FOLDERS, positive_files, read_recording, said_in
from edgeaudio.parity.statistics import compare_decisions
from edgeaudio.parity.stream_statistics import Outcome, hours_needed, percentiles, rate_ratio_interval
from edgeaudio.parity.streams import (
    FLOAT,
    INT8,
    TAIL_S,
    THRESHOLDS,
    Int16,
    Networks,
    Spoken,
    StreamCounts,
    count_stream,
    hear_spoken,
    with_threshold,
)
from edgeaudio.parity.verdict import INFERIOR, NON_INFERIOR, NOT_ENOUGH_DATA, judge_change
from edgeaudio.scale.counting import merged
from edgeaudio.scale.shards import Shard, negative_shards
from edgeaudio_runtime.detector_config import DetectorConfig

MISS_BUDGET = 0.01
"""Recordings of a keyword, as a share, that int8 may miss beyond those that float misses."""
FALSE_ACCEPT_BUDGET = 0.25
"""Share by which int8 may falsely accept more often than float: counts in hours of speech resolve no less."""
CLAIMED_RATES = (10.0, 1.0, 0.5, 0.1)
"""Rates an hour for which the hours needed are told."""

Progress = Callable[[int, int], None]
Counter = Callable[[Networks, Mapping[Path, Sequence[Shard]], Sequence[DetectorConfig]], Mapping[Path, StreamCounts]]
"""Counts the events of the shards of each source, see :class:`edgeaudio.scale.counting.ShardCounter`."""


@dataclass(frozen=True, kw_only=True)
class StreamResults:
    """Records of everything that was heard."""

    settings: tuple[DetectorConfig, ...]
    """The bundle's own, then one for each of ``thresholds``."""
    thresholds: tuple[float, ...]
    """Of a DET curve."""
    positive_folders: tuple[Path, ...]
    """As they were given."""
    positives: tuple[Spoken, ...]
    """One record a recording."""
    negatives: Mapping[Path, StreamCounts]
    """One record a folder."""
    sample_rate: int
    """In Hz."""

    def hours(self, folder: Path) -> float:
        """Length of the stream of one folder."""
        return self.negatives[folder].n_samples / self.sample_rate / 3600

    def outcome(self, side: str, index: int) -> Outcome:
        """Of one side with one of the settings."""
        return Outcome(
            misses=sum(not one.heard[side][index] for one in self.positives),
            positives=len(self.positives),
            false_accepts=sum(counts.events[side][index] for counts in self.negatives.values()),
            hours=sum(map(self.hours, self.negatives)),
        )


def det_settings(own: DetectorConfig, thresholds: Sequence[float] = THRESHOLDS) -> tuple[DetectorConfig, ...]:
    """The settings as they are, then with each of the thresholds for all labels."""
    return (own, *(with_threshold(own, threshold) for threshold in thresholds))


def hear_folders(
    networks: Networks,
    positives: Sequence[Path],
    negatives: Sequence[Path],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    skipped: Sequence[str] = QUIET_FOLDERS,
    progress: Progress | None = None,
    count: Counter | None = None,
) -> StreamResults:
    """Hear each recording of a keyword by itself, and those without one shard by shard, each shard as one stream.

    Args:
        networks: What listens.
        positives: Folders of recordings with one keyword each.
        negatives: Folders of recordings without one, or tar shards (:func:`edgeaudio.scale.shards.negative_shards`).
        thresholds: Of the DET curve.
        skipped: Names of folders that are passed over.
        progress: Called with (recordings heard, recordings in all) of this process; tar files count as one.
        count: Who counts the shards, and tells how far it is; None is this process.

    Raises:
        ParityError: A folder holds no recording.
    """
    bundle, done = networks.bundle, 0
    rate, settings = bundle.features.sample_rate, det_settings(bundle.detector_config, thresholds)
    said = [path for folder in positives for path in positive_files(bundle, folder, skipped)]
    shards = {source: negative_shards(bundle, source, skipped) for source in negatives}
    here = shards if count is None else {}
    total = len(said) + sum(len(shard.sources) for own in here.values() for shard in own)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    def read(path: Path) -> Any:
        tick()
        return read_recording(path, rate)

    def count_here(shard: Shard) -> StreamCounts:
        return count_stream(networks, _ticking(shard.audio(rate), tick, shard.is_archive), settings)

    return StreamResults(
        settings=settings,
        thresholds=tuple(thresholds),
        positive_folders=tuple(positives),
        positives=tuple(hear_spoken(networks, read(path), settings, label=said_in(bundle, path)) for path in said),
        negatives={source: merged([count_here(shard) for shard in own]) for source, own in shards.items()}
        if count is None
        else count(networks, shards, settings),
        sample_rate=rate,
    )


def _ticking(audio: Iterator[Int16], tick: Callable[[], None], at_end: bool) -> Iterator[Int16]:
    for samples in audio:
        if not at_end:
            tick()
        yield samples
    if at_end:
        tick()


def streams_section(results: StreamResults) -> dict[str, Any]:
    """The JSON form, as ``certificate.schema.json`` has it under ``streams``."""
    sides = [FLOAT, INT8] if _has_float(results) else [INT8]
    outcomes = [{side: results.outcome(side, i) for side in sides} for i in range(len(results.settings))]
    rows = [{FLOAT: None, **{side: outcome.to_dict() for side, outcome in each.items()}} for each in outcomes]
    det = [{"threshold": threshold, **row} for threshold, row in zip(results.thresholds, rows[1:], strict=True)]
    return {
        "positives": _positives(results),
        "negatives": [_negatives(results, folder) for folder in results.negatives],
        "hours": outcomes[0][INT8].hours,
        "threshold": results.settings[0].threshold,
        **rows[0],
        "difference": _difference(results, outcomes[0]) if FLOAT in sides else None,
        "det": det,
        "latency_s": {FLOAT: None, **{side: _latency(results, side) for side in sides}},
        "hours_needed": {f"{rate:g}": hours_needed(rate) for rate in CLAIMED_RATES},
    }


def _has_float(results: StreamResults) -> bool:
    some = [one.heard for one in results.positives] + [counts.events for counts in results.negatives.values()]
    return FLOAT in some[0]


def _positives(results: StreamResults) -> dict[str, Any] | None:
    if not results.positives:
        return None
    n_labelled = sum(one.is_labelled for one in results.positives)
    names = [folder.resolve().name for folder in results.positive_folders]
    return {"data": names, "n": len(results.positives), "n_labelled": n_labelled, "tail_s": TAIL_S}


def _negatives(results: StreamResults, folder: Path) -> dict[str, Any]:
    counts = results.negatives[folder]
    events = {FLOAT: None, **{side: row[0] for side, row in counts.events.items()}}
    return {"data": folder.resolve().name, "n": counts.n_recordings, "hours": results.hours(folder), **events}


def _latency(results: StreamResults, side: str) -> dict[str, Any] | None:
    known = [latency for one in results.positives if (latency := one.latency_s(side)) is not None]
    found = percentiles(known)
    return None if found is None else {"n": len(known), **found}


def _difference(results: StreamResults, own: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        "misses": _more_misses(results.positives) if results.positives else None,
        "false_accepts": _more_accepts(own[FLOAT], own[INT8]) if results.negatives else None,
    }


def _more_misses(positives: Sequence[Spoken]) -> dict[str, Any]:
    """Paired, on the same recordings; speakers are not known, so each recording is drawn for itself."""
    heard = {side: np.array([one.heard[side][0] for one in positives], dtype=np.intp) for side in (FLOAT, INT8)}
    result = compare_decisions(np.ones(len(positives), np.intp), heard[FLOAT], heard[INT8], [""] * len(positives))
    low, high = result.ci95
    return {
        "delta": 0.0 - result.delta,
        "ci95": [0.0 - high, 0.0 - low],
        "only_float": result.only_reference,
        "only_int8": result.only_candidate,
        "mcnemar_p": result.mcnemar_p,
        "budget": MISS_BUDGET,
        "verdict": judge_change(result.ci95, MISS_BUDGET),
    }


def _more_accepts(reference: Outcome, candidate: Outcome) -> dict[str, Any]:
    ratio = rate_ratio_interval(
        reference.false_accepts, candidate.false_accepts, reference.hours, candidate.hours
    )  # fmt: skip
    ends = [end if math.isfinite(end) else None for end in ratio]
    return {"ratio_ci95": ends, "budget": FALSE_ACCEPT_BUDGET, "verdict": judge_ratio(ratio, FALSE_ACCEPT_BUDGET)}


def judge_ratio(interval: tuple[float, float], budget: float) -> str:
    """Verdict on a rate that is better when lower, by the interval of its ratio to the one it is held against."""
    low, high = interval
    if high <= 1.0 + budget:
        return NON_INFERIOR
    return INFERIOR if low > 1.0 + budget else NOT_ENOUGH_DATA


def worst_verdict(section: Mapping[str, Any] | None) -> str | None:
    """The worst of a section's verdicts; None where there is none."""
    parts = [part for part in ((section or {}).get("difference") or {}).values() if part is not None]
    found = {part["verdict"] for part in parts}
    return next((verdict for verdict in (INFERIOR, NOT_ENOUGH_DATA, NON_INFERIOR) if verdict in found), None)
