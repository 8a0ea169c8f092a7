"""``edgeaudio train wake-word --phrase``: from a phrase to a checkpoint with its threshold."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeaudio.progress import progress_bar, say
from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint
    from edgeaudio_models.recipe import Recipe
    from edgeaudio_models.training import Progress
    from edgeaudio_models.wake_word.corpus import WakeWordCorpus


def phrase_recipe(recipe: Recipe, phrase: str | None) -> Recipe:
    """The recipe for a phrase, or as it is where it needs none.

    Raises:
        SpecError: A wake-word recipe without a phrase, a phrase for another recipe, or one that cannot be said.
    """
    if recipe.corpus.kind != "wake_word":
        if phrase is not None:
            raise SpecError(f"phrase={phrase!r} does not go with recipe {recipe.name!r}; leave --phrase out")
        return recipe
    from edgeaudio_models.wake_word.phonemes import Phonemizer
    from edgeaudio_models.wake_word.phrase import read_phrase
    from edgeaudio_models.wake_word.training import with_phrase

    read = read_phrase(recipe.wake_word.phrase if phrase is None else phrase, Phonemizer())
    if read.advice:
        say(read.advice)
    return with_phrase(recipe, read.text)


def run_wake_word(
    recipe: Recipe, background: Path | None, output: Path, *, cache: Path | None, force: bool, progress: Progress
) -> Checkpoint:
    """Say everything, train, mine, train on, choose the threshold.

    ``background`` None takes the recordings that ``EDGEAUDIO_DATA`` names, if any.
    """
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.wake_word.corpus import gather
    from edgeaudio_models.wake_word.training import train_wake_word

    began = time.monotonic()
    with progress_bar(f"speaking {recipe.wake_word.phrase!r} and what is near it") as bar:
        corpus = gather(recipe, background=background, cache_folder=cache or default_cache_folder(), progress=bar)
    names = ", ".join(each.name for each in corpus.speakers.synthesizers)
    say(f"{len(corpus.positives.train)} phrases spoken by {names} ({' '.join(corpus.phrase.phonemes)})")
    say(_background(corpus))
    run = train_wake_word(recipe, corpus, output, force=force, progress=progress, say=say)
    say(f"trained in {(time.monotonic() - began) / 60:.1f} minutes")
    return run.checkpoint


def _background(corpus: WakeWordCorpus) -> str:
    """What was recorded of all that is heard, in a line."""
    from edgeaudio_models.wake_word.background import total_seconds

    if corpus.background is None:
        return "nothing recorded, from the phrase alone; --background or $EDGEAUDIO_DATA names speech and noise"
    rate, speech, noise = corpus.speakers.sample_rate, corpus.speech, corpus.noise
    hours = total_seconds([*speech.train, *speech.validation], rate) / 3600
    minutes = 0.0 if noise is None else len(noise) / rate / 60
    left_out = f", {speech.n_left_out} recordings of the phrase left out" if speech.n_left_out else ""
    return f"{hours:.1f} hours of recorded speech and {minutes:.0f} minutes of noise in {corpus.background}{left_out}"
