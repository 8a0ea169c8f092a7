"""Where the samples of ``edgeaudio-run`` come from: a file, standard input, a microphone; all of one face."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.record import Record
from edgeaudio_runtime.wav import ByteSource, ForeignAudioError, Frames, RawReader, Samples, WavReader, chosen_channel

if TYPE_CHECKING:
    from edgeaudio_runtime.resampling import Resampler

_COMPRESSED = (b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04", b"RF64")
"""How a file begins that cannot be meant as raw samples."""


class AudioSource(Protocol):
    """Audio that says its rate and its channels."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def n_channels(self) -> int:
        """Channels of a frame."""
        ...

    def frames(self) -> Iterator[Frames]:
        """Blocks ``[n, n_channels]`` as they come, int16 or float32 in -1..1, never empty."""
        ...


class SourceOptions(Record):
    """What the command line says about the audio."""

    audio: str | None = None
    """Path, "-" for standard input, None for a microphone."""
    rate: int | None = None
    """Hz of raw samples, or to open a microphone with; None for the bundle's."""
    channels: int | None = None
    """Channels of raw samples, or to open a microphone with; None for as many as :attr:`channel` needs."""
    encoding: str | None = None
    """Format of raw samples, a key of :data:`~edgeaudio_runtime.wav.ENCODINGS`."""
    channel: int | None = None
    """The one to hear, from 0."""
    resample: bool = False
    """Convert another rate instead of refusing it."""
    device: int | str | None = None
    """Microphone, by number or part of its name."""
    seconds: float | None = None
    """How long to listen to a microphone."""

    def __post_init__(self) -> None:
        raw = [name for name in ("rate", "channels", "encoding") if getattr(self, name) is not None]
        if self.audio not in (None, "-") and raw:
            raise AudioError(f"{_flag(raw[0])} is for raw standard input and --mic; a file says its own")
        if self.audio is None and self.encoding is not None:
            raise AudioError("--format is for raw standard input; a microphone gives what it has")
        if self.audio is not None and self.device is not None:
            raise AudioError("--device is for --mic; leave one of them out")

    @property
    def says_raw(self) -> bool:
        """Whether anything is said that only raw samples need."""
        return any(value is not None for value in (self.rate, self.channels, self.encoding))


def _flag(field: str) -> str:
    return "--format" if field == "encoding" else f"--{field}"


def open_source(
    options: SourceOptions, sample_rate: int, stack: ExitStack, *, warn: Callable[[str], None] = lambda line: None
) -> AudioSource:
    """Open what ``options`` name.

    Args:
        options: File, standard input or microphone.
        sample_rate: Hz of the bundle, which raw samples and a microphone have unless they say otherwise.
        stack: Closes it.
        warn: Takes lines about a microphone that drops samples.

    Raises:
        AudioError: No such file or device, or nothing that can be read.
    """
    rate = options.rate or sample_rate
    channels = options.channels or (options.channel or 0) + 1
    if options.audio is None:
        from edgeaudio_runtime.microphone import Microphone

        return Microphone(
            stack, sample_rate=rate, fallback=options.resample and options.rate is None, device=options.device,
            n_channels=channels, seconds=options.seconds, warn=warn,
        )  # fmt: skip
    if options.audio != "-":
        return open_file(options.audio, stack)
    return _standard_input(options, rate, options.channels or 1)


def open_file(path: str, stack: ExitStack) -> AudioSource:
    """Open a WAV file, or with the extra ``flac`` whatever libsndfile reads.

    Raises:
        AudioError: No such file, or nothing that can be read.
    """
    file = stack.enter_context(_opened(path))
    try:
        return WavReader(file, name=path)
    except ForeignAudioError as refused:
        from edgeaudio_runtime.sound_files import SoundFileReader

        return SoundFileReader(file, stack, name=path, refused=refused)


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f"cannot open audio {path!r}: {reason}; pass a WAV file or - for standard input") from error


def _standard_input(options: SourceOptions, rate: int, channels: int) -> AudioSource:
    stream = _Rewindable(sys.stdin.buffer)
    head = stream.peek(4)
    if head == b"RIFF":
        if options.says_raw:
            raise AudioError(
                "standard input is a WAV stream, which says its own; leave --rate, --channels, --format out"
            )
        return WavReader(stream, name="standard input")
    if head in _COMPRESSED:
        raise AudioError(f"standard input begins with {head!r}, a compressed file; give its path instead of -")
    return RawReader(stream, sample_rate=rate, n_channels=channels, encoding=options.encoding or "s16le")


def mono_chunks(
    source: AudioSource, sample_rate: int, *, channel: int | None = None, resample: bool = False
) -> Iterator[Samples]:
    """One channel of ``source`` at ``sample_rate``, chunk by chunk; what is wrong is told at once.

    Raises:
        AudioError: Several channels and none chosen, a channel that is not there, or a rate that was not asked for.
    """
    column = chosen_channel(channel, source.n_channels, source.name)
    chunks = (frames[:, column] for frames in source.frames())
    if source.sample_rate == sample_rate:
        return chunks
    if not resample:
        rates = f"sample_rate={source.sample_rate} of {source.name} must be {sample_rate}, the bundle's"
        raise AudioError(f"{rates}; convert it with --resample")
    from edgeaudio_runtime.resampling import Resampler

    return _resampled(chunks, Resampler(source.sample_rate, sample_rate))


def _resampled(chunks: Iterator[Samples], resampler: Resampler) -> Iterator[Samples]:
    for chunk in chunks:
        yield resampler.process(chunk)
    yield resampler.flush()


class _Rewindable:
    """A pipe whose first bytes can be looked at before they are read."""

    def __init__(self, stream: ByteSource) -> None:
        self._stream, self._head = stream, b""

    def peek(self, n_bytes: int) -> bytes:
        while len(self._head) < n_bytes and (part := self._stream.read(n_bytes - len(self._head))):
            self._head += part
        return self._head

    def read(self, size: int = -1) -> bytes:
        return self._take(size) or self._stream.read(size)

    def read1(self, size: int = -1) -> bytes:
        read1 = getattr(self._stream, "read1", self._stream.read)
        data: bytes = self._take(size) or read1(size)
        return data

    def _take(self, size: int) -> bytes:
        taken = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(taken) :]
        return taken
