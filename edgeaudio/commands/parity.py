"""``edgeaudio parity``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, cache_option, command_line, echo_json, json_option, scale_options
from edgeaudio.parity.labelled_task import ClipTask, StringTask, open_task
from edgeaudio.parity.report import badge_line, junit_xml, render_stages
from edgeaudio.progress import progress_bar, say
from edgeaudio.scale.choosing import Place, shard_counter
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.staging import staged_file

if TYPE_CHECKING:
    from edgeaudio.parity.blame import Part
    from edgeaudio.parity.stages import Stage
    from edgeaudio.scale.counting import ShardCounter
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_runtime.bundle import Bundle


@click.command()
@click.argument("bundle", type=PathType)
@click.option("--data", "folder", type=PathType, help="Labelled corpus for the task metric.")
@click.option("--split", help="Split of the corpus (default: test where it has one, else everything).")
@click.option("--checkpoint", type=PathType, help="The checkpoint it was exported from, for the stages in torch.")
@click.option("--write", is_flag=True, help="Put the certificate and the card into the bundle.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of levels, gaps and chunks.")
@click.option(
    "--hearings",
    type=click.IntRange(1, 16),
    help="Fixed shifts and gains in which each clip is heard (default: 1, as it is) or each string of words (16).",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0.0),
    help="Points that int8 may lose (default: 0.3 of accuracy, 0.5 of word error rate).",
)
@click.option("--blame", is_flag=True, help="Swap one part at a time and say where accuracy is lost.")
@click.option(
    "--robustness", is_flag=True, help="Hear the recordings at other levels, in noise, cut off, with losses too."
)
@click.option(
    "--robustness-clips",
    type=click.IntRange(min=1),
    help="Recordings heard under every condition, spread over labels and speakers (default: 1000).",
)
@click.option("--positives", type=PathType, multiple=True, help="Folder of recordings of one keyword each, for misses.")
@click.option(
    "--negatives", type=PathType, multiple=True, help="Folder (or tar shards) without one, for false accepts."
)
@scale_options
@click.option("--junit", type=PathType, help="Write the stages as JUnit XML, for CI.")
@click.option("--html", type=PathType, help="Write the certificate as one page.")
@click.option("--badge", is_flag=True, help="Print one line of Markdown for a README instead of the table.")
@cache_option
@json_option
def parity(
    bundle: Path,
    folder: Path | None,
    split: str | None,
    checkpoint: Path | None,
    write: bool,
    seed: int,
    hearings: int | None,
    budget: float | None,
    blame: bool,
    robustness: bool,
    robustness_clips: int | None,
    positives: tuple[Path, ...],
    negatives: tuple[Path, ...],
    workers: int | None,
    address: str | None,
    work: Path | None,
    junit: Path | None,
    html: Path | None,
    badge: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Prove BUNDLE: compare all neighbours from PCM to events, and float with int8.

    Exits 1 if a stage fails or int8 is shown to lose more than the budget.
    """
    place = Place(workers=workers, address=address, work=work)
    if place != Place() and not negatives:
        raise ParityError("workers, address and work are for recordings without a keyword; give --negatives too")
    if html is not None:
        import matplotlib  # noqa: F401  # Missed before the work begins, not after it.
    document = run_parity(
        bundle, folder=folder, split=split, checkpoint=checkpoint, write=write, seed=seed, hearings=hearings,
        budget=None if budget is None else budget / 100, blame=blame, cache=cache,
        robustness=robustness, robustness_clips=robustness_clips, positives=positives, negatives=negatives,
        place=place,
    )  # fmt: skip
    _write_reports(document, junit=junit, html=html)
    if as_json:
        echo_json(document)
    elif badge:
        click.echo(badge_line(document))
    else:
        click.echo(render_stages(document))
    raise SystemExit(0 if document["passed"] else 1)


def _write_reports(document: Mapping[str, Any], *, junit: Path | None, html: Path | None) -> None:
    from edgeaudio.parity.page import certificate_page

    for path, render in ((junit, junit_xml), (html, lambda proof: certificate_page(proof, command=command_line()))):
        if path is not None:
            with staged_file(path) as staged:
                staged.write_text(render(document), "utf-8")


def run_parity(
    path: Path,
    *,
    folder: Path | None = None,
    split: str | None = None,
    checkpoint: Path | None = None,
    write: bool = False,
    seed: int = 0,
    hearings: int | None = None,
    budget: float | None = None,
    blame: bool = False,
    robustness: bool = False,
    robustness_clips: int | None = None,
    positives: Sequence[Path] = (),
    negatives: Sequence[Path] = (),
    place: Place = Place(),  # noqa: B008  # frozen
    cache: Path | None = None,
) -> dict[str, Any]:
    """Climb the ladder, measure the task where there are labelled clips, count events in streams where there are any.

    Returns:
        The certificate.

    Raises:
        ParityError: What is asked for does not go with the bundle or with what else is given.
    """
    from edgeaudio.card import render_card
    from edgeaudio.exporting import torch_side
    from edgeaudio.parity.as_trained import compare_with_training
    from edgeaudio.parity.certificate import certificate, write_certificate
    from edgeaudio.parity.ladder import run_ladder
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_runtime.bundle import open_bundle

    bundle = open_bundle(path)
    _check_streams(bundle, positives, negatives)
    _check_given(folder, checkpoint, blame=blame, robustness=robustness, robustness_clips=robustness_clips)
    trained = None if checkpoint is None else load_checkpoint(checkpoint)
    side = None if trained is None else torch_side(trained)
    task = None if folder is None else open_task(bundle, folder, split, cache, hearings)
    probe = [] if task is None else task.probe
    stages = [] if trained is None else [*compare_with_training(bundle, trained)]
    stages += run_ladder(bundle, probe, torch_side=side, seed=seed, progress=lambda name: say(f"compared: {name}"))
    streams = None
    if positives or negatives:
        with shard_counter(place, checkpoint=checkpoint) as count:
            streams = _streams(bundle, trained, positives, negatives, count)
    if task is None:
        document = certificate(bundle, stages, streams=streams)
    else:
        measured = task.measure(None if side is None else side.offline, None if trained is None else trained.module)
        parts = _blame(bundle, task, trained, budget, stages) if blame and trained is not None else None
        swept = _sweep(bundle, task, folder, trained, robustness_clips, budget) if robustness and folder else None
        document = certificate(
            bundle, stages, task=measured, budget=budget, blame=parts, robustness=swept, streams=streams
        )
    document.update(_inside(bundle, task, trained))
    if write:
        write_certificate(bundle, document, render_card(bundle, document))
    return document


def _check_streams(bundle: Bundle, positives: Sequence[Path], negatives: Sequence[Path]) -> None:
    if (positives or negatives) and bundle.task != "keyword":
        raise ParityError(f"task={bundle.task!r} reports no keywords in streams; leave --positives and --negatives out")


def _check_given(
    folder: Path | None, checkpoint: Path | None, *, blame: bool, robustness: bool, robustness_clips: int | None
) -> None:
    if blame and (folder is None or checkpoint is None):
        raise ParityError("blame swaps parts of a trained network on labelled clips; give --checkpoint and --data too")
    if robustness_clips is not None and not robustness:
        raise ParityError(f"robustness_clips={robustness_clips} are heard under conditions; give --robustness too")
    if robustness and folder is None:
        raise ParityError("robustness is measured on labelled recordings; give --data too")


def _blame(
    bundle: Bundle, task: StringTask | ClipTask, trained: Checkpoint, budget: float | None, stages: Sequence[Stage]
) -> list[Part]:
    from edgeaudio.exporting import torch_side
    from edgeaudio.parity.blame import Trained, find_blame
    from edgeaudio.parity.verdict import ACCURACY_BUDGET
    from edgeaudio_runtime.detector_config import DetectorConfig

    if isinstance(task, StringTask):
        raise ParityError("task='ctc' is not split by parts yet; leave --blame out")
    made_of = Trained(
        features=trained.features,
        network=torch_side(trained).offline,
        labels=trained.labels,
        detector=DetectorConfig.from_dict({"schema_version": 1, **trained.recipe.detector}),
    )
    with progress_bar("looking for blame") as progress:
        return find_blame(
            bundle, made_of, task.clips, program=bundle.program("auto"),
            budget=ACCURACY_BUDGET if budget is None else budget, stages=stages, progress=progress,
        )  # fmt: skip


def _inside(bundle: Bundle, task: StringTask | ClipTask | None, trained: Checkpoint | None) -> dict[str, Any]:
    """What a page draws of the network itself: errors by layer and scores over clips, where there are any."""
    from edgeaudio.parity.as_is import is_as_is
    from edgeaudio.parity.layer_errors import layer_sections_of

    sections: dict[str, Any] = layer_sections_of(bundle, [] if task is None else task.probe)
    if isinstance(task, ClipTask) and bundle.manifest.mode == "streaming":
        from edgeaudio.parity.curves import telling_curves
        from edgeaudio.parity.float_reference import float_steps
        from edgeaudio.parity.ladder import one_torch_thread
        from edgeaudio.parity.streams import Networks

        module = None if trained is None else trained.module
        steps = None if is_as_is(bundle) else float_steps(bundle, module)
        networks = Networks(bundle=bundle, program=bundle.program("auto"), float_steps=steps)
        with one_torch_thread():
            sections["curves"] = telling_curves(networks, task.clips)
        say("looked at: scores over clips")
    return sections


def _sweep(
    bundle: Bundle,
    task: StringTask | ClipTask,
    folder: Path,
    trained: Checkpoint | None,
    most: int | None,
    budget: float | None,
) -> dict[str, Any]:
    from edgeaudio.exporting import torch_side
    from edgeaudio.parity.ladder import one_torch_thread
    from edgeaudio.parity.robustness import (
        MOST_CLIPS,
        ClipSubject,
        StringSubject,
        Subject,
        conditions_of,
        spread_clips,
        sweep_conditions,
    )

    program, network = bundle.program("auto"), None if trained is None else torch_side(trained).offline
    subject: Subject
    if isinstance(task, StringTask):
        subject = StringSubject(bundle, program, task.strings[: most or MOST_CLIPS], float_network=network)
    else:
        subject = ClipSubject(
            bundle, program, spread_clips(task.clips, most or MOST_CLIPS), float_network=network,
            module=None if trained is None else trained.module,
        )  # fmt: skip
    conditions = conditions_of(bundle, folder)
    title = f"hearing {subject.n} recordings under {len(conditions)} conditions"
    with progress_bar(title) as progress, one_torch_thread():
        return sweep_conditions(subject, conditions, budget=budget, progress=progress)


def _streams(
    bundle: Bundle,
    trained: Checkpoint | None,
    positives: Sequence[Path],
    negatives: Sequence[Path],
    count: ShardCounter | None,
) -> dict[str, Any]:
    from edgeaudio.parity.as_is import is_as_is
    from edgeaudio.parity.float_reference import float_steps
    from edgeaudio.parity.ladder import one_torch_thread
    from edgeaudio.parity.stream_section import hear_folders, streams_section
    from edgeaudio.parity.streams import Networks

    steps = None if is_as_is(bundle) else float_steps(bundle, None if trained is None else trained.module)
    networks = Networks(bundle=bundle, program=bundle.program("auto"), float_steps=steps)
    with progress_bar("listening to streams") as progress, one_torch_thread():
        return streams_section(hear_folders(networks, positives, negatives, progress=progress, count=count))
