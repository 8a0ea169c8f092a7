"""Say many texts in many voices at once; a text that an engine cannot say is left out, as long as few are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.synthesis.base import Synthesizer
from edgeaudio_models.synthesis.planning import Cast, PlannedClip, cast_voices, plan_clips
from edgeaudio_models.synthesis.speech import speak

MOST_FAILURES = 0.1
"""Share of the texts that may go unsaid: an engine may not know a rare word, but not half of the words."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speakers:
    """Who speaks, and in which split."""

    synthesizers: tuple[Synthesizer, ...]
    """The engines."""
    cast: Cast
    """Their voices by split."""
    sample_rate: int
    """Of what is said, in Hz."""
    cache_folder: Path | None
    """Where it is kept."""
    seed: int
    """Of every draw."""

    def say(
        self, label: str, texts: Sequence[str], n_clips: int, progress: Progress | None = None, *, slow_rounds: int = 1
    ) -> Said:
        """Say drawn ``texts``, ``n_clips`` in all.

        Args:
            label: Names the draws: another label draws other voices.
            texts: What to draw from; each is taken about as often as the others.
            n_clips: Clips of both splits.
            progress: Called with (clips done, clips in all).
            slow_rounds: In one round of so many the slow synthesizers speak too.

        Raises:
            SynthesisError: More than ``MOST_FAILURES`` of them failed; the last failure is the cause.
        """
        generator = np.random.default_rng([self.seed, *label.encode(), len(texts)])
        # In an order of their own: plan_clips goes through texts and engines in step.
        order = np.concatenate([generator.permutation(len(texts)) for _ in range(-(-n_clips // max(1, len(texts))))])
        drawn = [texts[i] for i in order[:n_clips]]
        rounds = {i: slow_rounds for i, engine in enumerate(self.synthesizers) if engine.slow}
        return self._speak(
            plan_clips(label, drawn, len(drawn), cast=self.cast, seed=self.seed, rounds=rounds), progress
        )

    def _speak(self, plan: Sequence[PlannedClip], progress: Progress | None) -> Said:
        train: list[Int16] = []
        validation: list[Int16] = []
        failures: list[SynthesisError] = []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for i, result in enumerate(pool.map(self._try, plan)):
                if isinstance(result, SynthesisError):
                    failures.append(result)
                elif len(result):
                    (validation if plan[i].split == "validation" else train).append(result)
                if progress is not None:
                    progress(i + 1, len(plan))
                if len(failures) > max(1.0, MOST_FAILURES * len(plan)):
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
        if len(failures) > max(1.0, MOST_FAILURES * len(plan)):
            raise SynthesisError(f"{len(failures)} of {len(plan)} texts could not be said") from failures[-1]
        return Said(train=tuple(train), validation=tuple(validation))

    def _try(self, clip: PlannedClip) -> Int16 | SynthesisError:
        engine = self.synthesizers[clip.synthesizer]
        try:
            return speak(engine, clip.utterance, sample_rate=self.sample_rate, cache_folder=self.cache_folder)
        except SynthesisError as error:
            return error


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """Speech without silence around it, int16 ``[n]`` each, by split."""

    train: tuple[Int16, ...]
    """In voices to learn from."""
    validation: tuple[Int16, ...]
    """In other voices, where the engines have enough of them."""


def speakers(
    synthesizers: Sequence[Synthesizer], *, sample_rate: int, cache_folder: Path | None, seed: int
) -> Speakers:
    """Cast the voices of ``synthesizers``.

    Raises:
        SynthesisError: There is none.
    """
    if not synthesizers:
        raise SynthesisError("no synthesizer is installed; run: pip install 'edgeaudio[synthesis,wake-word]'")
    cast = cast_voices(synthesizers, generator=np.random.default_rng([seed, 0]))
    return Speakers(
        synthesizers=tuple(synthesizers), cast=cast, sample_rate=sample_rate, cache_folder=cache_folder, seed=seed
    )
