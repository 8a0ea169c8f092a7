"""Misses and false accepts of a keyword bundle on recordings, at every threshold, with what they allow one to claim.

Run: ``python -m edgeaudio.bench.wake_word BUNDLE --positives DIR --negatives DIR [--negatives DIR ...]``. Every
recording with the phrase is heard from a reset to its end; it is missed where no event of the label comes. The
recordings of a folder without the phrase are heard one after the other as one stream; every event is a false accept.
Folders called ``_silence_`` or ``_background_noise_`` hold no speech and are passed over, and so are those named for a
background label among positives and for a keyword among negatives.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeaudio.parity.recordings import QUIET_FOLDERS
from edgeaudio.parity.stream_section import StreamResults, hear_folders
from edgeaudio.parity.stream_statistics import claimable_rate, hours_needed, rate_interval, share_interval
from edgeaudio.parity.streams import INT8, Networks
from edgeaudio.progress import progress_bar
from edgeaudio.scale.choosing import Place, shard_counter
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import EdgeAudioError

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, *(round(0.01 * i, 2) for i in range(80, 100)))
CLAIMED_RATES = (10.0, 1.0, 0.1)
"""Rates an hour for which the hours needed are told."""


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


def rows(results: StreamResults, side: str = INT8) -> list[Row]:
    """Misses and false accepts of one side at each threshold."""
    return [_row(results, side, i + 1, threshold) for i, threshold in enumerate(results.thresholds)]


def _row(results: StreamResults, side: str, index: int, threshold: float) -> Row:
    outcome = results.outcome(side, index)
    return Row(
        threshold=threshold,
        misses=outcome.misses,
        positives=outcome.positives,
        miss_rate=outcome.miss_rate,
        miss_interval=share_interval(outcome.misses, outcome.positives),
        false_accepts=outcome.false_accepts,
        false_accepts_by_folder={str(folder): each.events[side][index] for folder, each in results.negatives.items()},
        false_accepts_an_hour=outcome.rate,
        false_accept_interval=rate_interval(outcome.false_accepts, outcome.hours),
        claimable_rate=claimable_rate(outcome.hours, count=outcome.false_accepts),
    )


def first_without_false_accept(found: Sequence[Row]) -> Row | None:
    """The row of the lowest threshold at and above which nothing was falsely accepted; None if there is none."""
    best = None
    for row in sorted(found, key=lambda each: -each.threshold):
        if row.false_accepts:
            break
        best = row
    return best


def document(bundle: Bundle, results: StreamResults, found: Sequence[Row]) -> dict[str, Any]:
    """JSON form of everything."""
    clear, hours = first_without_false_accept(found), {str(each): results.hours(each) for each in results.negatives}
    return {
        "bundle": bundle.name,
        "threshold_of_bundle": bundle.detector_config.threshold,
        "hours": hours,
        "rows": [asdict(row) for row in found],
        "first_without_false_accept": None if clear is None else asdict(clear),
        "claimable_without_false_accept": claimable_rate(sum(hours.values())),
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
    path: Path,
    positives: Path,
    negatives: Sequence[Path],
    *,
    engine: str = "auto",
    skipped: Sequence[str] = (),
    place: Place | None = None,
) -> dict[str, Any]:
    """Listen with a bundle to everything; see the module's first lines.

    Raises:
        ParityError: The bundle is no keyword bundle, or a folder is empty.
    """
    bundle = open_bundle(path)
    networks = Networks(bundle=bundle, program=bundle.program(engine))
    with progress_bar("listening") as bar, shard_counter(place or Place()) as count:
        results = hear_folders(
            networks, [positives], negatives, thresholds=thresholds_of(bundle), skipped=skipped, progress=bar,
            count=count,
        )  # fmt: skip
    return document(bundle, results, rows(results))


def thresholds_of(bundle: Bundle) -> list[float]:
    """:data:`THRESHOLDS` and the bundle's own."""
    return sorted({*THRESHOLDS, bundle.detector_config.threshold})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeaudio.bench.wake_word", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--positives", type=Path, required=True, help="folder of recordings of the phrase")
    parser.add_argument("--negatives", type=Path, action="append", required=True, help="folder without it; repeatable")
    parser.add_argument("--skip", action="append", default=list(QUIET_FOLDERS), help="folder name to pass over")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, help="count false accepts in so many Ray processes")
    parser.add_argument("--address", help="count them on the Ray cluster at this address")
    parser.add_argument("--work", type=Path, help="keep what was counted here, to go on from")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    try:
        place = Place(workers=given.workers, address=given.address, work=given.work)
        values = evaluate(
            given.bundle, given.positives, given.negatives, engine=given.engine, skipped=given.skip, place=place
        )
    except EdgeAudioError as error:
        parser.exit(2, f"{error}\n")
    sys.stdout.write(json.dumps(values, indent=2) + "\n" if given.json else render(values))


if __name__ == "__main__":
    main()
