"""``edgeaudio tune``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, echo_json, json_option
from edgeaudio.progress import progress_bar
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.staging import OutputError, staged_file

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle
    from edgeaudio_runtime.detector_config import DetectorConfig


@click.command()
@click.argument("bundle", type=PathType)
@click.option(
    "--positives", type=PathType, multiple=True, required=True, help="Folder of recordings with one keyword each."
)
@click.option("--negatives", type=PathType, multiple=True, required=True, help="Folder of recordings without one.")
@click.option("--target", type=float, default=0.5, show_default=True, help="False accepts an hour that are accepted.")
@click.option("--write", is_flag=True, help="Put the choice into the bundle's detector.json.")
@json_option
def tune(
    bundle: Path, positives: tuple[Path, ...], negatives: tuple[Path, ...], target: float, write: bool, as_json: bool
) -> None:
    """Choose threshold, smoothing, patience and refractory time of BUNDLE for a rate of false accepts.

    One half of the recordings chooses, the other reports; which file is in which half depends on its name alone.
    """
    values = run_tune(bundle, positives, negatives, target=target, write=write)
    if as_json:
        echo_json(values)
        return
    click.echo(render_tuning(values))


def run_tune(
    path: Path, positives: tuple[Path, ...], negatives: tuple[Path, ...], *, target: float = 0.5, write: bool = False
) -> dict[str, Any]:
    """Choose on one half, report on the other; with ``write`` the choice replaces the bundle's ``detector.json``.

    Raises:
        ParityError: No keyword bundle, too few recordings, or no settings that keep the target.
        OutputError: The bundle is packed and shall be written.
    """
    from edgeaudio.parity.stream_statistics import hours_needed
    from edgeaudio.tuning.material import CHOOSING, REPORTING, hear_halves
    from edgeaudio.tuning.search import choose, latencies_s, trade_off, try_settings
    from edgeaudio_runtime.bundle import open_bundle

    bundle = open_bundle(path)
    if bundle.task != "keyword":
        raise ParityError(f"task={bundle.task!r} has no detector to tune; give a keyword bundle")
    if write and not bundle.path.is_dir():
        raise OutputError(f"{bundle.path} is packed; unpack it to write its detector")
    with progress_bar("listening") as bar:
        halves = hear_halves(bundle, positives, negatives, program=bundle.program("auto"), progress=bar)
    with progress_bar("trying settings") as bar:
        config, chosen_by = choose(bundle, halves[CHOOSING], target=target, progress=bar)
    report = halves[REPORTING]
    reported = try_settings(bundle, config, report)
    values: dict[str, Any] = {
        "bundle": bundle.name,
        "target_an_hour": target,
        "detector": config.to_dict(),
        "chosen_by": chosen_by.to_dict(),
        "reported": reported.to_dict(),
        "as_it_was": try_settings(bundle, bundle.detector_config, report).to_dict(),
        "latency_s": latencies_s(bundle, config, report.positives),
        "hours_to_claim_target": hours_needed(target),
        "det": trade_off(bundle, config, report),
    }
    if write:
        kept = ("miss_rate", "miss_rate_ci95", "false_accepts_an_hour", "false_accepts_an_hour_ci95", "hours")
        tuned = {"target_an_hour": target, **{name: values["reported"][name] for name in kept}}
        _write(bundle, replace(config, tuned=tuned))
    return values


def _write(bundle: Bundle, config: DetectorConfig) -> None:
    with staged_file(bundle.path / "detector.json") as staged:
        staged.write_text(json.dumps(config.to_dict(), indent=2) + "\n", "utf-8")


def render_tuning(values: dict[str, Any]) -> str:
    """The choice and what it does, as text."""
    detector = values["detector"]
    lines = [
        f"threshold {detector['threshold']:g}, smoothing {detector['smoothing_s']:g} s, "
        f"patience {detector.get('patience', 1)}, refractory {detector['refractory_s']:g} s",
        f"{'':24s}missed (95 %)               false accepts an hour (95 %)",
    ]
    rows = {"half that chose": "chosen_by", "other half": "reported", "other half, as it was": "as_it_was"}
    lines += [f"{name:24s}{_outcome(values[key])}" for name, key in rows.items()]
    if values["latency_s"]:
        latency = values["latency_s"]
        lines.append(
            f"reported {latency['p50']:.2f} s after the end of the sound (median), {latency['p95']:.2f} s (95 %)"
        )
    reported = values["reported"]
    lines.append(
        f"{reported['hours']:.2f} hours allow no claim below {reported['claimable_an_hour']:.2f} an hour; fewer than "
        f"{values['target_an_hour']:g} takes {values['hours_to_claim_target']:.1f} hours without one"
    )
    return "\n".join(lines)


def _outcome(row: dict[str, Any]) -> str:
    low, high = row["miss_rate_ci95"]
    least, most = row["false_accepts_an_hour_ci95"]
    missed = f"{row['miss_rate']:.1%} ({low:.1%} to {high:.1%})"
    return f"{missed:28s}{row['false_accepts_an_hour']:.2f} ({least:.2f} to {most:.2f})"
