"""Misses and false accepts of a keyword bundle on recordings, at every threshold, with what they allow one to claim.

Run: ``python -m edgeaudio.bench.wake_word BUNDLE --positives DIR --negatives DIR [--negatives DIR ...]``. Every
recording with the phrase is heard from a reset to its end; it is missed where no event of the label comes. The
recordings of a folder without the phrase are heard one after the other as one stream; every event is a false accept.
Folders called ``_silence_`` or ``_background_noise_`` hold no speech and are passed over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.stream_statistics import claimable_rate, hours_needed, rate_interval, share_interval
from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.detector import KeywordDetector
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import EdgeAudioError, ParityError
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.stream import LogitStream

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
SKIPPED_FOLDERS = ("_silence_", "_background_noise_")
CLAIMED_RATES = (10.0, 1.0, 0.1)
"""Rates an hour for which the hours needed are told."""

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One threshold."""

    threshold: float
    """Smoothed probability from which the phrase counts as heard."""
    misses: int
    """Recordings of the phrase without an event."""
    positives: int
    """Recordings of the phrase."""
    miss_rate: float
    """Their share."""
    miss_interval: tuple[float, float]
    """95 % interval of the share (Clopper and Pearson)."""
    false_accepts: int
    """Events in the streams without the phrase."""
    false_accepts_by_folder: dict[str, int]
    """The same, folder by folder: what a model has learned from proves less than what it has not."""
    false_accepts_an_hour: float
    """Their rate."""
    false_accept_interval: tuple[float, float]
    """95 % interval of the rate (Poisson)."""
    claimable_rate: float
    """False accepts an hour that these hours allow one to claim to stay below, at 95 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recordings:
    """Logit codes of everything that was heard."""

    positives: tuple[Codes, ...]
    """One array ``[k, n_labels]`` a recording of the phrase."""
    negatives: dict[str, Codes]
    """One stream a folder."""
    hours: dict[str, float]
    """Its length."""


def listen(
    bundle: Bundle, positives: Path, negatives: Sequence[Path], *, program: Program, skipped: Sequence[str] = ()
) -> Recordings:
    """Run the network over all recordings.

    Args:
        bundle: A keyword bundle.
        positives: Folder of recordings of the phrase.
        negatives: Folders without it.
        program: The bundle's, of any engine.
        skipped: Names of folders that are passed over.

    Raises:
        ParityError: A folder holds no recording.
    """
    rate, streams, hours = bundle.features.sample_rate, {}, {}
    with progress_bar("listening to the phrase") as bar:
        said = [_codes(bundle, [clip], program) for clip in recordings(positives, rate, skipped, bar)]
    for folder in negatives:
        clips = list(recordings(folder, rate, skipped))
        say(f"listening to {len(clips)} recordings of {folder}")
        hours[str(folder)] = sum(map(len, clips)) / rate / 3600
        streams[str(folder)] = _codes(bundle, clips, program)
    return Recordings(positives=tuple(said), negatives=streams, hours=hours)


def recordings(folder: Path, rate: int, skipped: Sequence[str], bar: Any = None) -> Iterator[npt.NDArray[np.int16]]:
    """Every recording below ``folder`` at ``rate`` Hz but those in folders of a ``skipped`` name; ``bar`` is told."""
    from edgeaudio_models.audio_files import is_audio, read_audio

    files = [path for path in sorted(folder.rglob("*")) if is_audio(path) and not set(skipped) & set(path.parts)]
    if not files:
        raise ParityError(f"{folder}: no recordings; give a folder that holds some")
    for i, path in enumerate(files):
        yield read_audio(path, sample_rate=rate, channel=0)[0]
        if bar is not None:
            bar(i + 1, len(files))


def _codes(bundle: Bundle, clips: Sequence[npt.NDArray[np.int16]], program: Program) -> Codes:
    stream = LogitStream(bundle.features, program)
    parts = [stream.process(clip)[0] for clip in clips]
    return np.concatenate([*parts, stream.flush()[0]])


def count_events(bundle: Bundle, codes: Codes, *, threshold: float, quant: QuantParams | None = None) -> int:
    """Events of any reported label in the logit codes of one stream; ``quant`` of the codes if not the bundle's."""
    config = replace(
        bundle.detector_config,
        threshold=threshold,
        thresholds={},
        release=min(bundle.detector_config.release, threshold),
        releases={},
        gate_db=None,  # codes alone do not say how loud it was
    )
    detector = KeywordDetector(
        config,
        labels=bundle.labels,
        background_labels=bundle.background_labels,
        output_quant=quant or bundle.manifest.network.output_quant,
        clock=bundle.clock,
    )
    return len(detector.process(codes)) + len(detector.flush())


def rows(
    bundle: Bundle, heard: Recordings, thresholds: Sequence[float] = THRESHOLDS, *, quant: QuantParams | None = None
) -> list[Row]:
    """Misses and false accepts at each threshold; ``quant`` of the logit codes where it is not the bundle's."""
    hours, total = sum(heard.hours.values()), len(heard.positives)
    found = []
    for threshold in thresholds:
        counts = [count_events(bundle, codes, threshold=threshold, quant=quant) for codes in heard.positives]
        hits = sum(count > 0 for count in counts)
        by_folder = {
            folder: count_events(bundle, codes, threshold=threshold, quant=quant)
            for folder, codes in heard.negatives.items()
        }
        false = sum(by_folder.values())
        found.append(
            Row(
                threshold=threshold,
                misses=total - hits,
                positives=total,
                miss_rate=(total - hits) / total,
                miss_interval=share_interval(total - hits, total),
                false_accepts=false,
                false_accepts_by_folder=by_folder,
                false_accepts_an_hour=false / hours,
                false_accept_interval=rate_interval(false, hours),
                claimable_rate=claimable_rate(hours, count=false),
            )
        )
    return found


def first_without_false_accept(found: Sequence[Row]) -> Row | None:
    """The row of the lowest threshold at and above which nothing was falsely accepted; None if there is none."""
    best = None
    for row in sorted(found, key=lambda each: -each.threshold):
        if row.false_accepts:
            break
        best = row
    return best


def document(bundle: Bundle, heard: Recordings, found: Sequence[Row]) -> dict[str, Any]:
    """JSON form of everything."""
    clear = first_without_false_accept(found)
    return {
        "bundle": bundle.name,
        "threshold_of_bundle": bundle.detector_config.threshold,
        "hours": heard.hours,
        "rows": [asdict(row) for row in found],
        "first_without_false_accept": None if clear is None else asdict(clear),
        "claimable_without_false_accept": claimable_rate(sum(heard.hours.values())),
        "hours_needed": {f"{rate:g}": hours_needed(rate) for rate in CLAIMED_RATES},
    }


def render(values: dict[str, Any]) -> str:
    """The table as text."""
    lines = [f"{hours:8.2f} h  {folder}" for folder, hours in values["hours"].items()]
    lines.append("threshold   missed  (95 %)             false accepts an hour  (95 %)")
    for row in values["rows"]:
        low, high = row["miss_interval"]
        least, most = row["false_accept_interval"]
        mark = "  <- bundle" if row["threshold"] == values["threshold_of_bundle"] else ""
        lines.append(
            f"{row['threshold']:9g}{row['miss_rate']:9.1%}  ({low:.1%} to {high:.1%})"
            f"{row['false_accepts']:14d}{row['false_accepts_an_hour']:9.2f}  ({least:.2f} to {most:.2f}){mark}"
        )
    lines += _by_folder(values)
    clear = values["first_without_false_accept"]
    if clear is None:
        lines.append("no threshold is without a false accept")
    else:
        told = f"{clear['miss_rate']:.1%} missed at threshold {clear['threshold']:g} without a false accept"
        lines.append(f"{told}; these hours allow no claim below {clear['claimable_rate']:.2f} an hour (95 %)")
    needed = ", ".join(f"{rate} an hour {hours:.1f} h" for rate, hours in values["hours_needed"].items())
    lines.append(f"hours without a false accept that would show fewer than: {needed}")
    return "\n".join(lines) + "\n"


def _by_folder(values: dict[str, Any]) -> Iterator[str]:
    """False accepts of the bundle's own threshold, folder by folder."""
    for row in values["rows"]:
        if row["threshold"] == values["threshold_of_bundle"]:
            for folder, count in row["false_accepts_by_folder"].items():
                yield f"{count:8d} false accepts at {row['threshold']:g} in {values['hours'][folder]:.2f} h  {folder}"


def evaluate(
    path: Path, positives: Path, negatives: Sequence[Path], *, engine: str = "auto", skipped: Sequence[str] = ()
) -> dict[str, Any]:
    """Listen with a bundle to everything; see the module's first lines.

    Raises:
        ParityError: The bundle is no keyword bundle, or a folder is empty.
    """
    bundle = open_bundle(path)
    if bundle.task != "keyword":
        raise ParityError(f"task={bundle.task!r} has no threshold; give a keyword bundle")
    heard = listen(bundle, positives, negatives, program=bundle.program(engine), skipped=skipped)
    thresholds = sorted({*THRESHOLDS, bundle.detector_config.threshold})
    return document(bundle, heard, rows(bundle, heard, thresholds))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeaudio.bench.wake_word", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--positives", type=Path, required=True, help="folder of recordings of the phrase")
    parser.add_argument("--negatives", type=Path, action="append", required=True, help="folder without it; repeatable")
    parser.add_argument("--skip", action="append", default=list(SKIPPED_FOLDERS), help="folder name to pass over")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    try:
        values = evaluate(given.bundle, given.positives, given.negatives, engine=given.engine, skipped=given.skip)
    except EdgeAudioError as error:
        parser.exit(2, f"{error}\n")
    sys.stdout.write(json.dumps(values, indent=2) + "\n" if given.json else render(values))


if __name__ == "__main__":
    main()
