"""What a card says of a keyword network: decisions of the float network and its int8 form on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeaudio.parity.task import LabelledClips, TaskScores, task_details
from edgeaudio.progress import progress_bar
from edgeaudio.sweep.hearings import Decisions, float_decisions, hear, integer_decisions
from edgeaudio.sweep.variants import VARIANTS, Variant
from edgeaudio.zoo.noise import GAINS_DB, SNRS_DB, Noise, in_noise, without_label
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint

SILENCE = "_silence_"


@dataclass(frozen=True, kw_only=True)
class KeywordNetworks:
    """A float network and the integer graph that was made from it."""

    checkpoint: Checkpoint
    """The float network."""
    program: NumpyProgram
    """The integer graph; every engine of the bundle answers as it does, code for code."""

    def decide(self, clips: LabelledClips, variants: Sequence[Variant], title: str) -> tuple[Decisions, Decisions]:
        """Label indices ``[n, variants]`` of both, float first."""
        spec, module = self.checkpoint.features, self.checkpoint.module
        with progress_bar(title) as progress:
            features = hear(clips, variants, spec=spec, step_frames=module.step_frames, progress=progress)
        with progress_bar(f"{title}, float") as progress:
            reference = float_decisions(module, features, progress)
        with progress_bar(f"{title}, int8") as progress:
            return reference, integer_decisions(self.program, features, progress)

    def truth(self, clips: LabelledClips) -> Decisions:
        """Right label index of every clip ``[n]``."""
        labels = list(self.checkpoint.labels)
        return np.array([labels.index(label) for label in clips.labels], dtype=np.intp)


def keyword_figures(
    networks: KeywordNetworks, clips: LabelledClips, noises: Sequence[Noise], *, data: str, split: str
) -> dict[str, Any]:
    """Every figure of the card that comes from labelled clips, JSON-ready.

    Args:
        networks: What is measured.
        clips: Clips that neither training nor any choice has seen.
        noises: Noise that training has not heard.
        data: Name of the corpus.
        split: Of it.

    Returns:
        ``accuracy`` (each clip once, as a certificate has it, with macro averages and confusion matrices), ``hearings``
        (each clip in sixteen fixed shifts and gains), ``gain`` and ``noise`` (clips without ``_silence_``).
    """
    truth = networks.truth(clips)
    reference, candidate = networks.decide(clips, VARIANTS, f"hearing {split} clips in {len(VARIANTS)} ways")
    once = TaskScores(truth=truth, reference=reference[:, 0], candidate=candidate[:, 0], speakers=clips.speakers)
    often = TaskScores(truth=truth, reference=reference, candidate=candidate, speakers=clips.speakers)
    labels = networks.checkpoint.labels
    return {
        "accuracy": {
            **once.result().to_dict(),
            **task_details(labels, once, data=data, split=split),
            "macro": {"float": _macro(truth, once.reference), "int8": _macro(truth, once.candidate)},
        },
        "hearings": {
            **often.result().to_dict(),
            "subsets": task_details(labels, often, data=data, split=split)["subsets"],
        },
        **_conditions(networks, clips, noises),
    }


def _conditions(networks: KeywordNetworks, clips: LabelledClips, noises: Sequence[Noise]) -> dict[str, Any]:
    spoken = without_label(clips, SILENCE)
    gains = [Variant(shift_ms=0.0, gain_db=gain_db) for gain_db in GAINS_DB]
    found = networks.decide(spoken, gains, f"hearing clips at {len(gains)} levels")
    shares = [(decided == networks.truth(spoken)[:, None]).mean(axis=0) for decided in found]
    return {
        "gain": [
            {"gain_db": gain_db, "float": float(in_float), "int8": float(in_int8)}
            for gain_db, in_float, in_int8 in zip(GAINS_DB, *shares, strict=True)
        ],
        "noise": [_noisy(networks, spoken, noise, snr_db) for noise in noises for snr_db in SNRS_DB],
    }


def _noisy(networks: KeywordNetworks, clips: LabelledClips, noise: Noise, snr_db: float) -> dict[str, Any]:
    title = f"hearing clips in {noise.name} at {snr_db:g} dB"
    in_float, in_int8 = networks.decide(in_noise(clips, noise, snr_db), VARIANTS[:1], title)
    truth = networks.truth(clips)[:, None]
    return {
        "noise": noise.name,
        "snr_db": snr_db,
        "float": float((in_float == truth).mean()),
        "int8": float((in_int8 == truth).mean()),
    }


def _macro(truth: Decisions, decided: Decisions) -> float:
    return float(np.mean([(decided[truth == index] == index).mean() for index in np.unique(truth)]))
