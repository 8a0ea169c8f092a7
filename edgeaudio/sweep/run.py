"""One sweep: quantize every cell, decide every hearing, time all that came through side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeaudio.bench.benchmark import engine_contenders, speech_like_audio
from edgeaudio.bench.timing import time_side_by_side
from edgeaudio.exporting import ExportChoices, quantize_checkpoint, write_quantized
from edgeaudio.parity.certificate import environment
from edgeaudio.parity.corpus import clips_of_labels
from edgeaudio.parity.statistics import TaskResult, compare_decisions
from edgeaudio.parity.task import LabelledClips
from edgeaudio.progress import progress_bar, say
from edgeaudio.sweep.grid import Cell
from edgeaudio.sweep.hearings import Decisions, Features, digest_of, float_decisions, hear, integer_decisions
from edgeaudio.sweep.results import CellResult, SweepResult
from edgeaudio.sweep.store import SweepStore, digest_of_folder, digest_of_sources, key_of
from edgeaudio.sweep.variants import Variant
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import ParityError

if TYPE_CHECKING:
    from edgeaudio_export.calibration.calibrate import Calibration
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.training_data import Examples

SILENCE = "_silence_"
"""Label that is also left out once: clips of silence are often cuts of noise that training has heard."""
TIMING_ROUNDS = 12
"""Rounds of the timing; every engine of every cell runs in each."""


@dataclass(frozen=True, kw_only=True)
class SweepInput:
    """What a sweep works on."""

    checkpoint: Checkpoint
    """The trained network."""
    digest: str
    """Digest of its directory."""
    training: Examples
    """Clips it was trained on; some of them calibrate."""
    clips: LabelledClips
    """Clips it is judged on."""
    split: str
    """The split they are from."""
    data: str
    """Name of the corpus."""


def load_input(path: Path, folder: Path, *, split: str | None, cache: Path | None) -> SweepInput:
    """Load a keyword checkpoint, the training clips of its recipe and the labelled clips of a split.

    Raises:
        ParityError: The checkpoint's task has no accuracy on labelled clips.
        CheckpointError, CorpusError, SpecError: Something cannot be read, or lacks the split or the labels.
    """
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import load_training_data
    from edgeaudio_models.zoo_entries import checkpoint_folder

    checkpoint = load_checkpoint(path)
    if checkpoint.window_frames is None:
        raise ParityError(f"task={checkpoint.task!r} has no accuracy on labelled clips; sweep a keyword checkpoint")
    cache, spec = cache or default_cache_folder(), checkpoint.features
    with progress_bar("loading clips") as progress:
        clips, split = clips_of_labels(
            checkpoint.labels, folder, sample_rate=spec.sample_rate,
            n_samples=checkpoint.window_frames * spec.hop_length, split=split, cache=cache, progress=progress,
        )  # fmt: skip
        data = load_training_data(checkpoint.recipe, data_folder=folder, cache_folder=cache, progress=progress)
    return SweepInput(
        checkpoint=checkpoint,
        digest=digest_of_folder(checkpoint_folder(path)),
        training=data.train,
        clips=clips,
        split=split,
        data=folder.resolve().name,
    )


def run_sweep(
    given: SweepInput,
    cells: Sequence[Cell],
    variants: Sequence[Variant],
    store: SweepStore,
    *,
    n_calibration: int | None = None,
) -> SweepResult:
    """Fill the table.

    Args:
        given: Network and clips.
        cells: Rows of the table.
        variants: Ways to hear each clip.
        store: Where finished cells are found and kept.
        n_calibration: Number of calibration clips; None takes the recipe's.

    Returns:
        A result for every cell, in order; a path's refusal is one.
    """
    sweep = _Sweep(given, variants, store, n_calibration)
    reference = sweep.reference()
    found = [sweep.cell(cell, f"{number} of {len(cells)}") for number, cell in enumerate(cells, 1)]
    bundles = {entry.cell.name: open_bundle(entry.bundle) for entry in found if entry.bundle is not None}
    microseconds = _timed(bundles) if bundles else {}
    results = [
        CellResult(
            cell=entry.cell,
            refused=entry.refused,
            task=sweep.compared(reference, entry.decisions),
            task_without_silence=sweep.compared(reference, entry.decisions, without=SILENCE),
            bytes_by_engine=_sizes(bundles.get(entry.cell.name)),
            us_per_step=microseconds.get(entry.cell.name, {}),
        )
        for entry in found
    ]
    return SweepResult(
        checkpoint=given.checkpoint.name,
        digest=given.digest,
        data=given.data,
        split=given.split,
        variants=tuple(variants),
        cells=tuple(results),
        environment=environment(),
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    cell: Cell
    refused: str | None = None
    bundle: Path | None = None
    decisions: Decisions | None = None


class _Sweep:
    """What all cells share; features are computed when the first cell needs them."""

    def __init__(
        self, given: SweepInput, variants: Sequence[Variant], store: SweepStore, n_calibration: int | None
    ) -> None:
        self.given, self.variants, self.store = given, variants, store
        self.n_calibration = n_calibration
        self.sources = digest_of_sources()
        self.data = digest_of(given.clips, variants)
        labels = list(given.checkpoint.labels)
        self.truth = np.array([labels.index(label) for label in given.clips.labels], dtype=np.intp)
        self.training = key_of(hashlib.sha256(given.training.waveforms.tobytes()).hexdigest())
        self._hearings: Features | None = None
        self._calibration: Calibration | None = None

    def hearings(self) -> Features:
        """Features of every clip in every variant."""
        if self._hearings is None:
            checkpoint = self.given.checkpoint
            with progress_bar(f"hearing clips in {len(self.variants)} variants") as progress:
                self._hearings = hear(
                    self.given.clips, self.variants, spec=checkpoint.features,
                    step_frames=checkpoint.module.step_frames, progress=progress,
                )  # fmt: skip
        return self._hearings

    def reference(self) -> Decisions:
        """Decisions of the float network."""

        def compute() -> Decisions:
            with progress_bar("deciding in float") as progress:
                return float_decisions(self.given.checkpoint.module, self.hearings(), progress)

        key = key_of(self.given.digest, self.data, self.sources, environment())
        return self.store.decisions("float", key, self.given.split, compute)

    def compared(
        self, reference: Decisions, decisions: Decisions | None, *, without: str | None = None
    ) -> TaskResult | None:
        """A cell against the float network, on clips of all labels or of all but one; None where nothing is left."""
        clips = self.given.clips
        kept = np.array([label != without for label in clips.labels])
        if decisions is None or not kept.any() or (without is not None and kept.all()):
            return None
        speakers = [speaker for speaker, keep in zip(clips.speakers, kept, strict=True) if keep]
        return compare_decisions(self.truth[kept], reference[kept], decisions[kept], speakers)

    def cell(self, cell: Cell, number: str) -> _Found:
        """Bundle and decisions of one cell, or why there are none."""
        say(f"cell {number}: {cell.name}")
        key = key_of(self.given.digest, self.training, self.n_calibration, cell.to_dict(), self.sources, environment())
        made = self.store.bundle(cell, key, lambda directory: self._write(directory, cell))
        if isinstance(made, str):
            return _Found(cell=cell, refused=made)

        def compute() -> Decisions:
            program = open_bundle(made).program("numpy")
            assert isinstance(program, NumpyProgram)
            with progress_bar("deciding") as progress:
                return integer_decisions(program, self.hearings(), progress)

        decisions = self.store.decisions(f"cells/{cell.name}", key_of(key, self.data), self.given.split, compute)
        return _Found(cell=cell, bundle=made, decisions=decisions)

    def _write(self, directory: Path, cell: Cell) -> None:
        checkpoint = self.given.checkpoint
        choices = choices_of(cell, n_calibration=self.n_calibration)
        # Recovery changes the network, so its activations are observed anew.
        earlier = None if cell.recovery else self._calibration
        quantized = quantize_checkpoint(checkpoint, self.given.training, choices, calibration=earlier)
        if not cell.recovery:
            self._calibration = quantized.calibration
        write_quantized(directory, checkpoint, quantized)


def choices_of(cell: Cell, *, n_calibration: int | None) -> ExportChoices:
    """What ``edgeaudio export`` would be told for a cell."""
    return ExportChoices(
        backend=cell.backend,  # type: ignore[arg-type]
        method=cell.method,
        calibration=cell.calibration,
        recovery=cell.recovery,
        clips=n_calibration,
    )


def _timed(bundles: dict[str, Bundle]) -> dict[str, dict[str, float]]:
    """Median microseconds of one network step by cell and engine, all in the same rounds."""
    first = next(iter(bundles.values()))
    audio = speech_like_audio(first.features.sample_rate)
    contenders = {
        (name, engine): contender
        for name, bundle in bundles.items()
        for engine, contender in engine_contenders(bundle, bundle.engines(), audio).items()
    }
    say(f"timing {len(contenders)} programs side by side")
    timings = time_side_by_side({"\t".join(key): one for key, one in contenders.items()}, rounds=TIMING_ROUNDS)
    found: dict[str, dict[str, float]] = {}
    for (name, engine), contender in contenders.items():
        per_step = timings[f"{name}\t{engine}"].median_us * contender.audio_ms / 10
        found.setdefault(name, {})[engine] = round(per_step, 2)
    return found


def _sizes(bundle: Bundle | None) -> dict[str, int]:
    """Bytes of each engine's own files."""
    sizes: dict[str, int] = {}
    for artifact in () if bundle is None else bundle.manifest.artifacts:
        if artifact.engine is not None:
            sizes[artifact.engine] = sizes.get(artifact.engine, 0) + artifact.size
    return sizes
