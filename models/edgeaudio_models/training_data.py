"""What training reads: plain arrays, so that it depends on no corpus and no file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    from edgeaudio_models.streams.window import ClipWindow


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Labelled clips of one length."""

    waveforms: npt.NDArray[np.int16]
    """``[N, samples]`` at the rate of the recipe's features."""
    label_indices: npt.NDArray[np.int64]
    """``[N]``, indices into the recipe's labels."""
    words: tuple[str, ...] = ()
    """What each clip says, for labels that stand for several words; empty if unknown."""
    voices: tuple[str, ...] = ()
    """Who says each clip; empty if unknown."""

    def __post_init__(self) -> None:
        shape = self.waveforms.shape
        if len(shape) != 2 or self.waveforms.dtype != np.int16:
            raise SpecError(f"waveforms are {self.waveforms.dtype}{list(shape)}, they must be int16 [N, samples]")
        if self.label_indices.shape != shape[:1] or not np.issubdtype(self.label_indices.dtype, np.integer):
            given = f"{self.label_indices.dtype}{list(self.label_indices.shape)}"
            raise SpecError(f"label_indices are {given}, they must be integers [{shape[0]}], one for each waveform")
        if not shape[0] or not shape[1]:
            raise SpecError(f"waveforms of shape {list(shape)} hold nothing; give at least one clip")

    def __len__(self) -> int:
        return len(self.waveforms)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Clips to learn from and clips to choose by; the test split has no place here."""

    train: Examples
    """Clips to learn from."""
    validation: Examples
    """Clips of other speakers, to choose the best epoch by."""
    noise: npt.NDArray[np.int16] | None = None
    """One long recording of noise ``[M]``; None leaves generated noise alone."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the clips come from and on what terms, JSON-ready; goes into the checkpoint."""
    window: ClipWindow | None = None
    """Where the clips of ``train`` are replaced from while the training goes on; None means that they are all."""

    def __post_init__(self) -> None:
        if self.train.waveforms.shape[1] != self.validation.waveforms.shape[1]:
            lengths = f"{self.train.waveforms.shape[1]} and {self.validation.waveforms.shape[1]}"
            raise SpecError(f"clips of train and validation have {lengths} samples; they must be equal")
        if self.noise is not None and (self.noise.ndim != 1 or self.noise.dtype != np.int16):
            raise SpecError(f"noise is {self.noise.dtype}{list(self.noise.shape)}, it must be int16 [M]")

    def check_labels(self, n_labels: int, *, first: int = 0) -> None:
        """Raise SpecError unless every label index lies in ``[first, n_labels)``."""
        for name, examples in (("train", self.train), ("validation", self.validation)):
            low, high = int(examples.label_indices.min()), int(examples.label_indices.max())
            if low < first or high >= n_labels:
                rule = f"they must be in {first}..{n_labels - 1}"
                raise SpecError(f"label indices of {name} span {low}..{high}, {rule}, as the recipe's labels say")

    def digest(self) -> str:
        """Hex digest over every clip and label, or the name of the stream: two runs on equal data are the same run."""
        digest = hashlib.blake2b(digest_size=16)
        if self.window is not None:
            digest.update(self.window.identity.encode())
        for array in (
            *(() if self.window is not None else (self.train.waveforms, self.train.label_indices)),
            self.validation.waveforms,
            self.validation.label_indices,
            np.zeros(0, np.int16) if self.noise is None else self.noise,
        ):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
