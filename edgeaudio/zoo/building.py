"""From a checkpoint to an entry of the zoo: round, quantize, prove, measure, describe; all in one staged directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.calibration_clips import Int16
from edgeaudio.card import render_card
from edgeaudio.exporting import LADDER_CLIPS, ExportChoices, quantize_checkpoint, torch_side, write_quantized
from edgeaudio.parity.certificate import certificate, environment, write_certificate
from edgeaudio.parity.ladder import run_ladder
from edgeaudio.parity.task import LabelledClips
from edgeaudio.progress import progress_bar, say
from edgeaudio.zoo.background import background_figures
from edgeaudio.zoo.card import render_entry_card
from edgeaudio.zoo.facts import entry_facts
from edgeaudio.zoo.keyword_figures import KeywordNetworks, keyword_figures
from edgeaudio.zoo.noise import Noise, names_of, open_noise
from edgeaudio.zoo.speed import speed_figures
from edgeaudio_models.zoo_entries import BUNDLE, CARD, CARD_TEXT, CURVE
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import ParityError, SpecError
from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.recipe import Recipe
    from edgeaudio_models.training_data import TrainingData

CARD_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What an entry is measured on."""

    folder: Path
    """Labelled corpus."""
    split: str | None = None
    """Split of it; None is "test", which it must have."""
    noise: tuple[str, ...] = ()
    """``NAME=PATTERN`` of noise that training has not heard."""
    background: Path | None = None
    """Folder of recordings that are not for the model."""
    rounds: int = 60
    """Rounds of the timing; 0 leaves it out."""
    cache: Path | None = None
    """Where decoded clips are kept."""


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
        The card's JSON form.

    Raises:
        ParityError: A rung of the ladder failed; nothing is written.
        CorpusError, SpecError: Clips cannot be had as asked for.
    """
    from edgeaudio_models.half_weights import round_weights, save_half_checkpoint

    refuse_overwrite(output, force=force)
    rounded = round_weights(checkpoint)
    tested = load_tested(rounded, measure)
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
        figures = _figures(rounded, bundle, tested, measure)
        _prove(bundle, side, list(data.validation.waveforms[:LADDER_CLIPS]), figures)
        card = _card(rounded, bundle, staged, figures, commands)
        write_card(staged, card)
    return card


@dataclass(frozen=True, kw_only=True)
class TestedOn:
    """Clips and noise, loaded before the long work begins."""

    clips: LabelledClips
    split: str
    noises: tuple[Noise, ...]


def load_tested(checkpoint: Checkpoint, measure: Measurements) -> TestedOn:
    """The clips and the noise of the measurements.

    Raises:
        ParityError: The task has no accuracy on clips, or the corpus has no test split and no other was named.
    """
    from edgeaudio.parity.corpus import clips_of_labels

    if checkpoint.window_frames is None:
        raise ParityError(f"task={checkpoint.task!r} has no accuracy on labelled clips; build a keyword checkpoint")
    spec = checkpoint.features
    n_samples = checkpoint.window_frames * spec.hop_length
    noises = tuple(open_noise(each, sample_rate=spec.sample_rate, n_samples=n_samples) for each in measure.noise)
    names_of(noises)
    with progress_bar("loading clips") as progress:
        clips, split = clips_of_labels(
            checkpoint.labels, measure.folder, sample_rate=spec.sample_rate, n_samples=n_samples,
            split=measure.split, cache=measure.cache, progress=progress,
        )  # fmt: skip
    if split == "all":
        rule = "an entry is measured on clips that training has not heard"
        raise ParityError(f"{measure.folder}: no split 'test', and {rule}; name one with --split")
    return TestedOn(clips=clips, split=split, noises=noises)


def with_calibration(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """The checkpoint with the calibration of ``recipe``, which must be its own in all else.

    Raises:
        SpecError: The recipes differ in more than that.
    """
    own = checkpoint.recipe
    changed = replace(own, calibration=recipe.calibration, detector=recipe.detector)
    if changed != recipe:
        different = [name for name, value in asdict(changed).items() if value != asdict(recipe)[name]]
        raise SpecError(
            f"recipe={recipe.name!r} differs from the one that {checkpoint.name!r} was trained by in {different}; "
            "only calibration and detector may"
        )
    return replace(checkpoint, recipe=recipe)


def _figures(checkpoint: Checkpoint, bundle: Bundle, tested: TestedOn, measure: Measurements) -> dict[str, Any]:
    program = bundle.program("numpy")
    assert isinstance(program, NumpyProgram)
    networks = KeywordNetworks(checkpoint=checkpoint, program=program)
    data = measure.folder.resolve().name
    figures = keyword_figures(networks, tested.clips, tested.noises, data=data, split=tested.split)
    if measure.background is not None:
        figures["background"] = background_figures(bundle, measure.background)
    if measure.rounds:
        say("timing")
        figures["speed"] = speed_figures(bundle.path, rounds=measure.rounds)
    return figures


def _prove(bundle: Bundle, side: Any, clips: list[Int16], figures: Mapping[str, Any]) -> None:
    say("climbing the parity ladder")
    stages = run_ladder(bundle, clips, torch_side=side)
    document = {**certificate(bundle, stages), "task": _task(figures)}
    failed = [stage.name for stage in stages if not stage.passed]
    if failed:
        raise ParityError(f"bundle={bundle.name!r}: stages {failed} failed; diagnose the checkpoint before it is kept")
    write_certificate(bundle, document, render_card(bundle, document))


def _task(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracy as a certificate has it."""
    return {name: value for name, value in figures["accuracy"].items() if name not in ("macro", "confusion")}


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
    task = figures["accuracy"]
    low, high = task["int8_ci95"]
    interval = f"95 % by speaker: {100 * low:.1f} to {100 * high:.1f}"
    return f"{task['int8']:.2%} of the {task['split']} clips of {task['data']} are right ({interval})."


def _files(folder: Path) -> dict[str, int]:
    """Bytes of the files people ship: weights and the bundle without its golden data."""
    wanted = ("*.safetensors", f"{BUNDLE}/model.*", f"{BUNDLE}/*.json")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for pattern in wanted
        for path in sorted(folder.glob(pattern))
        if path.name != "parity.json"
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Put ``card.json`` and ``card.md`` into an entry."""
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / CARD_TEXT).write_text(render_entry_card(card), "utf-8")
