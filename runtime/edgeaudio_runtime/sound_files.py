"""FLAC, Ogg, RF64 and whatever else libsndfile reads, through the package soundfile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any, BinaryIO

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.wav import DEFAULT_CHUNK, ForeignAudioError, Frames

_INT16_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "ULAW", "ALAW", "DPCM_16", "IMA_ADPCM", "MS_ADPCM"})
"""What int16 holds without loss; everything else is read as float32."""
_BLOCK_VALUES = 1 << 20
"""Values decoded at once, a minute of mono at 16 kHz: soundfile seeks after every read, which an MP3 decoder answers
with a damaged frame and lines on standard error."""
_UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's word for a stream whose header does not say how long it is."""


class SoundFileReader:
    """A file that libsndfile has opened, read block by block."""

    def __init__(self, stream: BinaryIO, stack: ExitStack, *, name: str, refused: ForeignAudioError) -> None:
        """Open ``stream`` from its beginning.

        Args:
            stream: A file that can be sought in.
            stack: Closes the decoder.
            name: What errors call it.
            refused: Why it is no WAV file; told again where libsndfile cannot read it either.

        Raises:
            AudioError: soundfile is not installed, or libsndfile does not know the format.
        """
        self.name = name
        self._library = _import_soundfile(refused)
        stream.seek(0)
        try:
            self._file: Any = stack.enter_context(self._library.SoundFile(stream))
        except self._library.LibsndfileError as error:
            raise AudioError(f"{str(refused).partition(';')[0]}, and libsndfile cannot read it; {_REMEDY}") from error

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self._file.samplerate)

    @property
    def n_channels(self) -> int:
        """Channels of a frame."""
        return int(self._file.channels)

    def frames(self, *, size: int = DEFAULT_CHUNK) -> Iterator[Frames]:
        """Blocks ``[n, n_channels]``, int16 where that holds the file's values, else float32.

        Raises:
            AudioError: The file is damaged, or shorter than its header says.
        """
        dtype = "int16" if self._file.subtype in _INT16_SUBTYPES else "float32"
        n_read, n_frames = 0, int(self._file.frames)
        while len(block := self._read(_BLOCK_VALUES // self.n_channels, dtype)):
            n_read += len(block)
            yield from (block[start : start + size] for start in range(0, len(block), size))
        if n_read < n_frames < _UNKNOWN_FRAMES:
            lengths = f"its header says {n_frames} samples, {n_read} could be read"
            raise AudioError(f"{self.name} is cut short: {lengths}; copy or record it again")

    def _read(self, size: int, dtype: str) -> Frames:
        try:
            block: Frames = self._file.read(size, dtype=dtype, always_2d=True)
        except self._library.LibsndfileError as error:
            raise AudioError(f"{self.name} is damaged ({error}); copy or record it again") from error
        return block


_REMEDY = "run: ffmpeg -i IN -c:a pcm_s16le OUT.wav"


def _import_soundfile(refused: ForeignAudioError) -> Any:
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise AudioError(f"{refused}, or pip install 'edgeaudio-runtime[flac]' to read FLAC and Ogg") from error
