"""Every planted fault caught by its stage and named by blame, and a hundred runs on the good bundle that find none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgeaudio.parity.blame import Part, Trained, blamed, find_blame, suspects
from edgeaudio.parity.stages import Stage
from edgeaudio.parity.task import LabelledClips
from edgeaudio_models.checkpoint import Checkpoint, load_checkpoint
from edgeaudio_models.corpora import load_waveforms, open_corpus
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import EdgeAudioError
from tests.parity.faults.examination import Original, applies, original, shorten, stages
from tests.parity.faults.planting import LOADING, Fault
from tests.parity.faults.registry import FAULTS, NAME

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one fault."""

    fault: Fault
    """What was planted."""
    failed: tuple[str, ...]
    """Stages that failed, in their order; the message of what did not load."""
    named: str
    """What the first of them names."""
    suspected: tuple[str, ...] | None
    """Parts that blame names, the likeliest first; None where it was not asked."""
    costly: tuple[str, ...]
    """Those of them that are shown to lose more than the budget."""

    @property
    def holds(self) -> bool:
        """Whether the right stage failed first and named the fault, and blame names the part."""
        first = self.failed[0] if self.failed else ""
        if self.fault.caught == LOADING:
            return self.fault.names in first
        named = first == self.fault.caught and self.fault.names in self.named
        return named and (self.suspected is None or self.suspected[:1] == (self.fault.part,))


def plant_all(made_from: Original, clips: LabelledClips | None, *, progress: Say) -> Iterator[Outcome]:
    """Plant every fault into a copy of the zoo's bundle; with ``clips`` ask blame too."""
    for fault in filter(applies, FAULTS):
        with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
            folder = Path(shutil.copytree(entry_folder(NAME) / BUNDLE, Path(place) / "bundle"))
            shorten(patch)
            fault.plant(folder, patch)
            outcome = examine(fault, folder, made_from, clips)
        progress(f"{fault.name}: {'caught' if outcome.holds else 'NOT AS IT SHOULD BE'}")
        yield outcome


def examine(fault: Fault, folder: Path, made_from: Original, clips: LabelledClips | None) -> Outcome:
    """Climb the whole ladder on a bundle with a fault, as far as it goes, and ask blame."""
    found: list[Stage] = []
    message = ""
    try:
        found.extend(stages(folder, made_from))
    except EdgeAudioError as error:
        message = str(error)
    failed = [stage for stage in found if not stage.passed]
    parts: list[Part] | None = None
    counted = not any(stage.name == "frame count" for stage in failed)  # else no network takes the frames
    if clips is not None and failed and counted and not message:
        parts = _blame(folder, made_from, clips, found)
    return Outcome(
        fault=fault, failed=(*(stage.name for stage in failed), *([message] if message else [])),
        named=", ".join(failed[0].culprits) if failed else "",
        suspected=None if parts is None else tuple(suspects(parts, found)),
        costly=tuple(blamed(parts or [])),
    )  # fmt: skip


def _blame(folder: Path, made_from: Original, clips: LabelledClips, found: list[Stage]) -> list[Part]:
    bundle = open_bundle(folder)
    program = bundle.program("litert" if any(stage.name == "engine litert" for stage in found) else "auto")
    return find_blame(bundle, trained_of(made_from), clips, program=program, stages=found)


def trained_of(made_from: Original) -> Trained:
    """What blame begins with."""
    checkpoint = made_from.checkpoint
    detector = DetectorConfig.from_dict({"schema_version": 1, **checkpoint.recipe.detector})
    return Trained(
        features=checkpoint.features, network=made_from.side.offline, detector=detector, labels=checkpoint.labels
    )


def some_clips(checkpoint: Checkpoint, data: Path, *, of_each: int) -> LabelledClips:
    """Clips of validation speakers, so many of each label, spread over the split."""
    corpus = open_corpus(data / "speech_commands", labels=checkpoint.labels).select("validation")
    chosen: list[int] = []
    for label in checkpoint.labels:
        of_label = [i for i, clip in enumerate(corpus.clips) if clip.label == label]
        chosen += of_label[:: max(1, len(of_label) // of_each)][:of_each]
    corpus = replace(corpus, clips=tuple(corpus.clips[i] for i in chosen))
    waveforms = load_waveforms(corpus, sample_rate=16_000, n_samples=16_000, cache_folder=None)
    labels = tuple(clip.label for clip in corpus.clips)
    return LabelledClips(waveforms=waveforms, labels=labels, speakers=corpus.speakers)


def false_alarms(made_from: Original, runs: int, *, progress: Say, first: int = 0) -> list[str]:
    """Stages that fail on the good bundle in runs with other chunks, levels, gaps and made-up recordings each."""
    alarms = []
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        for seed in range(first, first + runs):
            clips = [recording(seed), recording(seed + 10_000)]
            found = stages(entry_folder(NAME) / BUNDLE, made_from, clips=clips, seed=seed)
            alarms += [f"seed {seed}: {stage.name}" for stage in found if not stage.passed]
            if (seed + 1 - first) % 10 == 0:
                progress(f"good bundle: {seed + 1 - first} runs, {len(alarms)} alarms")
    return alarms


def recording(seed: int) -> np.ndarray:
    """A second of gliding tones and noise at any level from faint to clipped, int16."""
    rng = np.random.default_rng(seed)
    time = np.arange(16_000) / 16_000
    glide = np.sin(2 * np.pi * (rng.uniform(100, 3000) + rng.uniform(-1500, 1500) * time) * time)
    sound = glide * np.sin(np.pi * time) + rng.uniform(0, 0.5) * rng.standard_normal(len(time))
    return np.clip(np.rint(10 ** rng.uniform(1, 4.6) * sound), -32768, 32767).astype(np.int16)


def load_original() -> Original:
    """The zoo entry that the faults are planted in."""
    return original(load_checkpoint(NAME))


def describe(outcome: Outcome) -> str:
    """A line for the proof."""
    first = outcome.failed[0] if outcome.failed else "nothing"
    rest = f" and {len(outcome.failed) - 1} more" if len(outcome.failed) > 1 else ""
    blame = f"; blame: {', '.join(outcome.suspected)}" if outcome.suspected else ""
    costly = f" (costs: {', '.join(outcome.costly)})" if outcome.costly else ""
    verdict = "caught" if outcome.holds else "WRONG"
    return f"{verdict}: {outcome.fault.name}: {first}{rest} ({outcome.named}){blame}{costly}"
