"""What a stream of clips is: passes over encoded clips, each in the order that the seed and its number decide."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from edgeaudio_models.audio_files import Int16, fit_length, resample_audio, to_int16
from edgeaudio_runtime.errors import AudioError


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedClip:
    """One labelled clip as it lies in the stream; decoding waits until somebody wants to hear it."""

    name: str
    """For messages: the shard and the key, or the row."""
    label: str
    """Word or background label."""
    speaker: str
    """Who said it; empty if unknown."""
    audio: bytes | Path
    """A whole audio file (WAV, FLAC, Ogg), or where it lies."""

    def decode(self, *, sample_rate: int, n_samples: int) -> Int16:
        """Samples int16 ``[n_samples]`` at ``sample_rate``: resampled, padded or cut at the end.

        Raises:
            AudioError: It is no audio, or has several channels.
        """
        return fit_length(self.decode_whole(sample_rate=sample_rate), n_samples)

    def decode_whole(self, *, sample_rate: int) -> Int16:
        """The same, as long as it is."""
        try:
            source = io.BytesIO(self.audio) if isinstance(self.audio, bytes) else self.audio
            samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(f"{self.name}: no readable audio ({error}); write the shard again") from error
        if samples.shape[1] != 1:
            raise AudioError(f"{self.name}: channels={samples.shape[1]} must be 1; mix it down when writing the stream")
        mono = samples[:, 0] if rate == sample_rate else resample_audio(samples[:, 0], rate, sample_rate)
        return to_int16(mono)


class ClipStream(ABC):
    """Clips that come one after the other, again and again."""

    identity: str
    """Names the source; a training resumes only on a stream of the same identity."""

    @abstractmethod
    def clips(self, number: int) -> Iterator[EncodedClip]:
        """Every clip once, in the order of pass ``number``, from 0; equal numbers give equal orders.

        Raises:
            CorpusError: The source is missing or damaged, or a clip has no label; one line that names it.
        """
