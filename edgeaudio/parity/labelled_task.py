"""What a certificate measures on labelled recordings: accuracy on clips, or word error rate on joined strings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.progress import progress_bar
from edgeaudio_runtime.errors import ParityError

if TYPE_CHECKING:
    from edgeaudio.parity.float_reference import FloatNetwork
    from edgeaudio_models.streaming import StreamingModule
    from edgeaudio_runtime.bundle import Bundle

PROBE_CLIPS = 64
"""Clips of the data that the ladder is climbed on."""
PROBE_STRINGS = 16
"""The same of strings of words, which are longer."""

Int16 = npt.NDArray[np.int16]


class ClipTask:
    """Accuracy on single clips."""

    def __init__(
        self, bundle: Bundle, folder: Path, split: str | None, cache: Path | None, hearings: int | None
    ) -> None:
        from edgeaudio.parity.as_is import is_as_is
        from edgeaudio.parity.corpus import load_labelled_clips
        from edgeaudio.sweep.variants import first_variants
        from edgeaudio_models.corpora import default_cache_folder

        if hearings is not None and is_as_is(bundle):
            rule = "a model that came as it is has no float network to compare with"
            raise ParityError(f"hearings={hearings} narrow a comparison, and {rule}; leave --hearings out")
        self._hearings = first_variants(hearings or 1)
        self._bundle, self._data = bundle, folder.resolve().name
        with progress_bar("loading clips") as progress:
            self.clips, self._split = load_labelled_clips(
                bundle, folder, split=split, cache=cache or default_cache_folder(), progress=progress
            )
        self.probe = list(self.clips.waveforms[:: max(1, len(self.clips.labels) // PROBE_CLIPS)])

    def measure(self, float_network: FloatNetwork | None, module: StreamingModule | None = None) -> dict[str, Any]:
        """The comparison (of a model that came as it is, its accuracy alone), as a certificate has it."""
        from edgeaudio.parity.as_is import is_as_is, score_alone
        from edgeaudio.parity.task import score_clips, task_details

        bundle = self._bundle
        if is_as_is(bundle):
            with progress_bar("scoring clips") as progress:
                program = bundle.program("auto")
                result, details = score_alone(
                    bundle, program, self.clips, data=self._data, split=self._split, progress=progress
                )
                return {**result.to_dict(), **details}
        with progress_bar("scoring clips") as progress:
            scores = score_clips(
                bundle, bundle.program("auto"), self.clips, hearings=self._hearings,
                float_network=float_network, module=module, progress=progress,
            )  # fmt: skip
        details = task_details(bundle.labels, scores, data=self._data, split=self._split)
        return {**scores.result().to_dict(), **details}


class StringTask:
    """Word error rate on joined strings."""

    def __init__(self, bundle: Bundle, folder: Path, split: str | None, hearings: int | None) -> None:
        from edgeaudio.parity.corpus import load_spoken_words
        from edgeaudio.parity.word_errors import join_words
        from edgeaudio.sweep.variants import VARIANTS, first_variants

        self._bundle, self._data = bundle, folder.resolve().name
        self._hearings = first_variants(hearings or len(VARIANTS))
        with progress_bar("loading words") as progress:
            words, self._split = load_spoken_words(bundle, folder, split=split, progress=progress)
        self.strings = join_words(words, sample_rate=bundle.features.sample_rate)
        self.probe: list[Int16] = [string.samples for string in self.strings[:PROBE_STRINGS]]

    def measure(self, float_network: FloatNetwork | None, module: StreamingModule | None = None) -> dict[str, Any]:
        """The comparison, as a certificate has it."""
        from edgeaudio.parity.word_errors import score_strings

        bundle = self._bundle
        with progress_bar("reading strings") as progress:
            result = score_strings(
                bundle, bundle.program("auto"), self.strings, hearings=self._hearings,
                float_network=float_network, progress=progress,
            )  # fmt: skip
        return {**result.to_dict(), "data": self._data, "split": self._split}


def open_task(
    bundle: Bundle, folder: Path, split: str | None, cache: Path | None, hearings: int | None
) -> ClipTask | StringTask:
    """What measures this bundle on a corpus; clips are loaded now.

    Args:
        bundle: A keyword or a CTC bundle.
        folder: The corpus.
        split: Of it; None is "test" where it has one, else everything.
        cache: Where decoded clips are kept; None is the usual place.
        hearings: Fixed shifts and gains; None is one for clips, all for strings.

    Raises:
        CorpusError, ParityError: There are no such clips, or hearings of a model without a float network are asked for.
    """
    if bundle.task == "ctc":
        return StringTask(bundle, folder, split, hearings)
    return ClipTask(bundle, folder, split, cache, hearings)
