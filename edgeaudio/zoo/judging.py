"""How an entry is judged, by its task: single clips for keywords, strings of words for CTC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.parity.float_reference import FloatNetwork
from edgeaudio.progress import progress_bar
from edgeaudio.zoo.noise import Noise, names_of, open_noise
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import ParityError, SpecError

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was found."""

    figures: dict[str, Any]
    """Sections of the card."""
    task: dict[str, Any] | None = None
    """The task as a certificate has it; None where it has none."""


Judge = Callable[[Bundle, FloatNetwork], Judged]
"""Measures a bundle and the float network it was made from."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What an entry is measured on."""

    folder: Path
    """Labelled corpus; of a wake word recordings of it."""
    negatives: tuple[Path, ...] = ()
    """Of a wake word: folders of speech without it."""
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

    def __post_init__(self) -> None:
        if self.rounds and self.rounds < 5:
            raise SpecError(f"rounds={self.rounds} must be 0 or >= 5, fewer have no median worth the name")


def open_judge(checkpoint: Checkpoint, measure: Measurements) -> Judge:
    """What judges this checkpoint; clips and noise are loaded now, before the long work begins.

    Raises:
        ParityError: The corpus has no test split and no other was named.
        CorpusError, SpecError: Clips or noise cannot be had as asked for.
    """
    if checkpoint.recipe.corpus.kind == "wake_word":
        return _stream_judge(checkpoint, measure)
    if measure.negatives:
        raise SpecError(f"negatives are for wake words; recipe {checkpoint.name!r} is judged on labelled recordings")
    return _string_judge(measure) if checkpoint.task == "ctc" else _clip_judge(checkpoint, measure)


def _clip_judge(checkpoint: Checkpoint, measure: Measurements) -> Judge:
    from edgeaudio.parity.corpus import clips_of_labels
    from edgeaudio.zoo.keyword_figures import KeywordNetworks, keyword_figures

    assert checkpoint.window_frames is not None
    rate, n_samples = checkpoint.features.sample_rate, checkpoint.window_frames * checkpoint.features.hop_length
    noises = _noises(measure, sample_rate=rate, n_samples=n_samples)
    with progress_bar("loading clips") as progress:
        clips, split = clips_of_labels(
            checkpoint.labels, measure.folder, sample_rate=rate, n_samples=n_samples,
            split=measure.split, cache=measure.cache, progress=progress,
        )  # fmt: skip
    _check_split(measure, split)

    def judge(bundle: Bundle, network: FloatNetwork) -> Judged:
        program = bundle.program("numpy")
        assert isinstance(program, NumpyProgram)
        networks = KeywordNetworks(checkpoint=checkpoint, program=program)
        figures = keyword_figures(networks, clips, noises, data=measure.folder.resolve().name, split=split)
        task = {name: value for name, value in figures["accuracy"].items() if name != "macro"}
        return Judged(figures=figures, task=task)

    return judge


def _string_judge(measure: Measurements) -> Judge:
    def judge(bundle: Bundle, network: FloatNetwork) -> Judged:
        from edgeaudio.parity.corpus import load_spoken_words
        from edgeaudio.parity.word_errors import join_words
        from edgeaudio.zoo.string_figures import StringNetworks, string_figures

        rate = bundle.features.sample_rate
        with progress_bar("loading words") as progress:
            words, split = load_spoken_words(bundle, measure.folder, split=measure.split, progress=progress)
        _check_split(measure, split)
        noises = _noises(measure, sample_rate=rate, n_samples=rate)
        strings, networks = join_words(words, sample_rate=rate), StringNetworks(bundle=bundle, network=network)
        figures = string_figures(networks, strings, noises)
        about = {"data": measure.folder.resolve().name, "split": split}
        figures["word_errors"].update(about)
        return Judged(figures=figures, task={**figures["hearings"], **about})

    return judge


def _stream_judge(checkpoint: Checkpoint, measure: Measurements) -> Judge:
    from edgeaudio.parity.float_reference import float_steps
    from edgeaudio.zoo.stream_figures import stream_figures

    if not measure.negatives:
        raise SpecError("negatives=() must be at least one folder of speech without the wake word; give --negatives")

    def judge(bundle: Bundle, network: FloatNetwork) -> Judged:
        steps = float_steps(bundle, checkpoint.module)
        figures = stream_figures(bundle, steps, measure.folder, measure.negatives)
        return Judged(figures=figures)

    return judge


def _noises(measure: Measurements, *, sample_rate: int, n_samples: int) -> tuple[Noise, ...]:
    noises = tuple(open_noise(each, sample_rate=sample_rate, n_samples=n_samples) for each in measure.noise)
    names_of(noises)
    return noises


def _check_split(measure: Measurements, split: str) -> None:
    if split == "all":
        rule = "an entry is measured on clips that training has not heard"
        raise ParityError(f"{measure.folder}: no split 'test', and {rule}; name one with --split")
