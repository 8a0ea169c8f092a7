"""``edgeaudio parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, json_option
from edgeaudio.parity.report import render_stages
from edgeaudio.progress import progress_bar, say

if TYPE_CHECKING:
    from edgeaudio.parity.float_reference import FloatNetwork
    from edgeaudio.parity.task import LabelledClips, TaskScores
    from edgeaudio_runtime.bundle import Bundle

PROBE_CLIPS = 64
"""Clips of the data that the ladder is climbed on."""


@click.command()
@click.argument("bundle", type=PathType)
@click.option("--data", "folder", type=PathType, help="Labelled corpus for the task metric.")
@click.option("--split", help="Split of the corpus (default: test where it has one, else everything).")
@click.option("--checkpoint", type=PathType, help="The checkpoint it was exported from, for the stages in torch.")
@click.option("--write", is_flag=True, help="Put the certificate and the card into the bundle.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of levels, gaps and chunks.")
@cache_option
@json_option
def parity(
    bundle: Path,
    folder: Path | None,
    split: str | None,
    checkpoint: Path | None,
    write: bool,
    seed: int,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Prove BUNDLE: compare all neighbours from PCM to events, and float with int8; exit 1 if a stage fails."""
    document = run_parity(
        bundle, folder=folder, split=split, checkpoint=checkpoint, write=write, seed=seed, cache=cache
    )
    if as_json:
        echo_json(document)
    else:
        click.echo(render_stages(document))
    raise SystemExit(0 if document["passed"] else 1)


def run_parity(
    path: Path,
    *,
    folder: Path | None = None,
    split: str | None = None,
    checkpoint: Path | None = None,
    write: bool = False,
    seed: int = 0,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Climb the ladder, measure the task where there are labelled clips, and return the certificate."""
    from edgeaudio.card import render_card
    from edgeaudio.exporting import torch_side
    from edgeaudio.parity.certificate import certificate, write_certificate
    from edgeaudio.parity.ladder import run_ladder
    from edgeaudio.parity.task import task_details
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_runtime.bundle import open_bundle

    bundle = open_bundle(path)
    side = None if checkpoint is None else torch_side(load_checkpoint(checkpoint))
    clips, split = (None, "") if folder is None else _clips(bundle, folder, split, cache)
    probe = [] if clips is None else list(clips.waveforms[:: max(1, len(clips.labels) // PROBE_CLIPS)])
    stages = run_ladder(bundle, probe, torch_side=side, seed=seed, progress=lambda name: say(f"compared: {name}"))
    if clips is None:
        document = certificate(bundle, stages)
    else:
        scores = _scores(bundle, clips, None if side is None else side.offline)
        assert folder is not None
        details = task_details(bundle.labels, scores, data=folder.resolve().name, split=split)
        document = certificate(bundle, stages, task=scores.result(), details=details)
    if write:
        write_certificate(bundle, document, render_card(bundle, document))
    return document


def _clips(bundle: Bundle, folder: Path, split: str | None, cache: Path | None) -> tuple[LabelledClips, str]:
    from edgeaudio.parity.corpus import load_labelled_clips
    from edgeaudio_models.corpora import default_cache_folder

    with progress_bar("loading clips") as progress:
        return load_labelled_clips(
            bundle, folder, split=split, cache=cache or default_cache_folder(), progress=progress
        )


def _scores(bundle: Bundle, clips: LabelledClips, float_network: FloatNetwork | None) -> TaskScores:
    from edgeaudio.parity.task import score_clips

    with progress_bar("scoring clips") as progress:
        return score_clips(bundle, bundle.program("auto"), clips, float_network=float_network, progress=progress)
