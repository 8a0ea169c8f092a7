"""From a checkpoint to an entry of the zoo: round, quantize, prove, measure, describe; all in one staged directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.calibration_clips import Int16
from edgeaudio.card import render_card
from edgeaudio.exporting import LADDER_CLIPS, ExportChoices, quantize_checkpoint, torch_side, write_quantized
from edgeaudio.parity.certificate import certificate, environment, write_certificate
from edgeaudio.parity.float_reference import FloatNetwork
from edgeaudio.parity.ladder import TorchSide, run_ladder
from edgeaudio.parity.stages import Stage
from edgeaudio.progress import say
from edgeaudio.zoo.background import background_figures
from edgeaudio.zoo.card import render_entry_card
from edgeaudio.zoo.facts import entry_facts
from edgeaudio.zoo.judging import Judge, Judged, Measurements, open_judge
from edgeaudio.zoo.speed import speed_figures
from edgeaudio_models.zoo_entries import BUNDLE, CARD, CARD_TEXT, CURVE
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import ParityError, SpecError
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory, staged_file

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.recipe import Recipe
    from edgeaudio_models.training_data import TrainingData

CARD_SCHEMA_VERSION = 1


def build_entry(
    checkpoint: Checkpoint,
    data: TrainingData,
    output: Path,
    *,
    measure: Measurements,
    commands: tuple[str, ...],
    force: bool = False,
) -> dict[str, Any]:
    """Write an entry: float16 checkpoint, int8 bundle without its float model, certificate, measurements, card.

    Args:
        checkpoint: The trained network; its recipe says how to quantize.
        data: Clips of its recipe: some calibrate, some carry the ladder.
        output: Directory to write.
        measure: What to measure it on.
        commands: How to make the entry again, for the card.
        force: Replace ``output``.

    Returns:
        The card's JSON form. An entry whose int8 form loses more than its task allows is written all the same, with a
        certificate that has not passed, so that it can be looked into.

    Raises:
        ParityError: A rung of the ladder failed; nothing is written.
        CorpusError, SpecError: Clips cannot be had as asked for.
    """
    from edgeaudio_models.half_weights import round_weights, save_half_checkpoint

    refuse_overwrite(output, force=force)
    rounded = round_weights(checkpoint)
    judge = open_judge(rounded, measure)
    quantized = quantize_checkpoint(rounded, data.train, ExportChoices())
    with staged_directory(output, force=force) as staged:
        save_half_checkpoint(rounded, staged / "checkpoint")
        for path in (staged / "checkpoint").iterdir():
            path.rename(staged / path.name)
        (staged / "checkpoint").rmdir()
        (staged / BUNDLE).mkdir()
        write_quantized(staged / BUNDLE, rounded, quantized, float_reference=False)
        bundle = open_bundle(staged / BUNDLE)
        side = torch_side(rounded, simulation=quantized.simulate)
        stages = _climbed(bundle, side, list(data.validation.waveforms[:LADDER_CLIPS]))
        judged, figures = _measured(bundle, side.offline, judge, measure)
        _certify(bundle, stages, judged)
        card = _card(rounded, bundle, staged, figures, commands)
        write_card(staged, card)
    return card


def with_calibration(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """The checkpoint with the calibration of ``recipe``, which must be its own in all else.

    Raises:
        SpecError: The recipes differ in more than that.
    """
    from edgeaudio_models.recipe_text import recipe_values

    own = checkpoint.recipe
    changed = replace(own, calibration=recipe.calibration, detector=recipe.detector)
    if changed != recipe:
        given = recipe_values(recipe)
        different = [name for name, value in recipe_values(changed).items() if value != given[name]]
        raise SpecError(
            f"recipe={recipe.name!r} differs from the one that {checkpoint.name!r} was trained by in {different}; "
            "only calibration and detector may"
        )
    return replace(checkpoint, recipe=recipe)


def _measured(
    bundle: Bundle, network: FloatNetwork, judge: Judge, measure: Measurements
) -> tuple[Judged, dict[str, Any]]:
    """What the judge found, and all figures of the card."""
    judged = judge(bundle, network)
    figures = dict(judged.figures)
    if measure.background is not None:
        figures["background"] = background_figures(bundle, measure.background)
    if measure.rounds:
        say("timing")
        figures["speed"] = speed_figures(bundle.path, rounds=measure.rounds)
    return judged, figures


def _climbed(bundle: Bundle, side: TorchSide, clips: list[Int16]) -> list[Stage]:
    say("climbing the parity ladder")
    stages = run_ladder(bundle, clips, torch_side=side)
    failed = [stage.name for stage in stages if not stage.passed]
    if failed:
        raise ParityError(f"bundle={bundle.name!r}: stages {failed} failed; diagnose the checkpoint before it is kept")
    return stages


def _certify(bundle: Bundle, stages: Sequence[Stage], judged: Judged) -> None:
    document = certificate(bundle, stages, task=judged.task)
    write_certificate(bundle, document, render_card(bundle, document))


def _card(
    checkpoint: Checkpoint, bundle: Bundle, folder: Path, figures: Mapping[str, Any], commands: tuple[str, ...]
) -> dict[str, Any]:
    facts = entry_facts(checkpoint, bundle)
    if checkpoint.history:
        from edgeaudio.zoo.curve import learning_curve

        curve = learning_curve(checkpoint.history, figure=facts["training"]["chosen_by"])
        (folder / CURVE).write_text(curve, "utf-8")
        facts["training"]["curve"] = CURVE
    return {
        "schema_version": CARD_SCHEMA_VERSION,
        **facts,
        "headline": _headline(figures),
        **figures,
        "history": [asdict(row) for row in checkpoint.history],
        "files": _files(folder),
        "reproduce": list(commands),
        "environment": environment(),
    }


def _headline(figures: Mapping[str, Any]) -> str:
    if "word_errors" in figures:
        task = figures["word_errors"]
        about = f"of {task['n_words']:,} words in {task['n']} strings ({task['data']}, split {task['split']})"
        return f"Word error rate {task['int8']:.2%} {about}."
    if "wake_word" in figures:
        return _wake_word_headline(figures["wake_word"])
    task = figures["accuracy"]
    low, high = task["int8_ci95"]
    interval = f"95 % by speaker: {100 * low:.1f} to {100 * high:.1f}"
    return f"{task['int8']:.2%} of the {task['split']} clips of {task['data']} are right ({interval})."


def _wake_word_headline(found: Mapping[str, Any]) -> str:
    row = next(row for row in found["rows"] if row["threshold"] == found["threshold_of_bundle"])
    hours = sum(found["hours"].values())
    return (
        f"{row['miss_rate']:.1%} of {row['positives']} recordings are missed, with {row['false_accepts']} false "
        f"accepts in {hours:.2f} hours of other speech."
    )


def _files(folder: Path) -> dict[str, int]:
    """Bytes of the files people ship: weights and the bundle without its golden data."""
    wanted = ("*.safetensors", f"{BUNDLE}/model.*", f"{BUNDLE}/*.json")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for pattern in wanted
        for path in sorted(folder.glob(pattern))
        if path.name != "parity.json"
    }


def retime(folder: Path, *, rounds: int) -> None:
    """Measure the speed of an entry again, on this machine, and write its card; nothing else of it changes."""
    card = json.loads((folder / CARD).read_text("utf-8"))
    write_card(folder, {**card, "speed": speed_figures(folder / BUNDLE, rounds=rounds)})


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Put ``card.json`` and ``card.md`` into an entry."""
    texts = {CARD: json.dumps(card, indent=1, ensure_ascii=False) + "\n", CARD_TEXT: render_entry_card(card)}
    for name, text in texts.items():
        with staged_file(folder / name) as path:
            path.write_text(text, "utf-8")
