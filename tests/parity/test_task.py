"""Several fixed hearings of each clip: the same answers one clip at a time as in a batch."""

from __future__ import annotations

import numpy as np
import pytest

from edgeaudio.parity.task import LabelledClips, confusion, score_clips, task_details
from edgeaudio.sweep.hearings import float_decisions, hear, integer_decisions
from edgeaudio.sweep.variants import first_variants
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram

ENTRY = "kws-12-small"


@pytest.fixture(scope="module")
def clips() -> LabelledClips:
    """A second each of the bundle's golden recording, from several places: words, and what lies between."""
    pcm = np.load(entry_folder(ENTRY) / BUNDLE / "golden" / "pcm.npy")
    starts = (2_000, 8_000, 24_000, 40_000, 55_000)
    labels = ("yes", "yes", "no", "_unknown_", "left")
    waveforms = np.stack([pcm[start : start + 16_000] for start in starts])
    return LabelledClips(waveforms=waveforms, labels=labels, speakers=("a", "a", "b", "", ""))


def test_every_hearing_of_a_clip_is_decided_as_in_a_batch(clips: LabelledClips) -> None:
    folder = entry_folder(ENTRY)
    bundle, module, hearings = open_bundle(folder / BUNDLE), load_checkpoint(folder).module, first_variants(3)
    program = bundle.program("numpy")
    assert isinstance(program, NumpyProgram)
    scores = score_clips(bundle, program, clips, hearings=hearings, module=module)
    features = hear(clips, hearings, spec=bundle.features, step_frames=program.signature.step_frames)
    assert np.array_equal(scores.candidate, integer_decisions(program, features))
    assert np.array_equal(scores.reference, float_decisions(module, features))
    assert len(set(scores.candidate[:, 0])) > 1
    result = scores.result()
    assert (result.n, result.n_hearings, result.n_speakers) == (5, 3, 4)
    details = task_details(bundle.labels, scores, data="golden", split="all")
    assert sum(map(sum, details["confusion"]["int8"])) == sum(map(sum, details["confusion"]["float"])) == 5


def test_a_confusion_counts_the_clips_as_they_are() -> None:
    truth, decided = np.array([0, 0, 1, 2]), np.array([[0, 2], [1, 2], [1, 2], [0, 2]])
    assert confusion(truth, decided, 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
