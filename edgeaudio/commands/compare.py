"""``edgeaudio compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from edgeaudio.commands.options import PathType, cache_option, echo_json, json_option
from edgeaudio.progress import progress_bar
from edgeaudio_runtime.errors import ParityError

if TYPE_CHECKING:
    from edgeaudio.parity.comparison import Change
    from edgeaudio.parity.statistics import TaskResult
    from edgeaudio_runtime.bundle import Bundle


@click.command()
@click.argument("first", type=PathType)
@click.argument("second", type=PathType)
@click.option("--data", "folder", type=PathType, help="Labelled corpus on which both bundles are heard again.")
@click.option("--split", help="Split of the corpus (default: test where it has one, else everything).")
@click.option("--budget", type=click.FloatRange(min=0.0), help="Points that SECOND may lose (default: 0.3 or 0.5).")
@cache_option
@json_option
def compare(
    first: Path,
    second: Path,
    folder: Path | None,
    split: str | None,
    budget: float | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Say what SECOND does worse than FIRST: two bundles, or one bundle of two versions of the toolchain.

    Certificates are compared; with --data both are also heard on the same clips, and the interval of the difference
    decides. Exits 1 if something is worse.
    """
    from edgeaudio.parity.comparison import WORSE

    changes = compare_bundles(
        first, second, folder=folder, split=split, budget=None if budget is None else budget / 100, cache=cache
    )
    worse = any(change.verdict == WORSE for change in changes)
    if as_json:
        echo_json({"worse": worse, "changes": [change.to_dict() for change in changes]})
    else:
        for change in changes:
            click.echo(f"{change.verdict:9s}{change.what}: {change.before} -> {change.after}")
        click.echo("worse" if worse else "nothing is worse")
    raise SystemExit(1 if worse else 0)


def compare_bundles(
    first: Path,
    second: Path,
    *,
    folder: Path | None = None,
    split: str | None = None,
    budget: float | None = None,
    cache: Path | None = None,
) -> list[Change]:
    """Compare the certificates of two bundles and, where clips are given, what both say of them.

    Raises:
        ParityError: A bundle has no certificate, their labels differ where clips are given, or they are no keyword
            bundles.
    """
    from edgeaudio.parity.comparison import compare_certificates, paired_change, require_certificate
    from edgeaudio.parity.verdict import ACCURACY_BUDGET
    from edgeaudio_runtime.bundle import open_bundle

    bundles = open_bundle(first), open_bundle(second)
    before, after = (
        require_certificate(str(path), bundle.parity) for path, bundle in zip((first, second), bundles, strict=True)
    )
    changes = compare_certificates(before, after, budget=budget)
    if folder is None:
        return changes
    result = _hear_both(*bundles, folder=folder, split=split, cache=cache)
    return [paired_change(result, budget=ACCURACY_BUDGET if budget is None else budget), *changes]


def _hear_both(first: Bundle, second: Bundle, *, folder: Path, split: str | None, cache: Path | None) -> TaskResult:
    from edgeaudio.parity.corpus import load_labelled_clips
    from edgeaudio.parity.statistics import compare_decisions
    from edgeaudio.parity.task import check_known, decide_clips
    from edgeaudio_models.corpora import default_cache_folder

    if first.labels != second.labels:
        rule = "the same clips cannot be asked of both; compare their certificates, without --data"
        raise ParityError(f"labels {list(first.labels)} and {list(second.labels)} differ: {rule}")
    with progress_bar("loading clips") as progress:
        clips, _ = load_labelled_clips(
            first, folder, split=split, cache=cache or default_cache_folder(), progress=progress
        )
    index = check_known(first, clips)
    decisions = []
    for name, bundle in (("first", first), ("second", second)):
        with progress_bar(f"hearing clips by the {name} bundle") as progress:
            decisions.append(decide_clips(bundle, bundle.program("auto"), clips, progress=progress))
    truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
    return compare_decisions(truth, decisions[0], decisions[1], clips.speakers)
