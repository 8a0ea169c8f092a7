"""Audio from RIFF/WAVE files and from pipes, in chunks, without trusting a header further than it can be checked."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.record import Record

Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]
Frames = npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""Samples of all channels, ``[n, n_channels]``."""

ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}
"""Names of raw sample formats, as ffmpeg and ALSA call them, and what they are to numpy."""

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the format code in the sub-format of WAVE_FORMAT_EXTENSIBLE."""
_UNKNOWN_SIZE = 0x7FFFFF00
"""Recorders that cannot seek back write 0, 0x7FFFFFFF, 0x80000000 or 0xFFFFFFFF: nobody knows, read to the end."""
_SUPPORTED = frozenset({(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)})
_RATES = range(1000, 768_001)
_CHANNELS = range(1, 65)
_SKIP_BYTES = 1 << 16
_REMEDY = "run: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
DEFAULT_CHUNK = 1600
"""Sample frames a chunk holds at most, 0.1 s at 16 kHz."""


class ForeignAudioError(AudioError):
    """Audio this module does not decode, but another decoder might."""


class ByteSource(Protocol):
    """A binary file or pipe; where it has ``read1`` as well, that is preferred for live audio."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


class WavFormat(Record):
    """The fmt chunk, as far as it matters."""

    sample_rate: int
    """Hz."""
    n_channels: int
    bits: int
    """Bits a sample."""
    is_float: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes one sample of all channels takes."""
        return self.n_channels * self.bits // 8


class WavReader:
    """A WAVE stream whose header has been read; :meth:`chunks` yields one channel."""

    def __init__(self, stream: ByteSource, *, name: str = "audio") -> None:
        """Read the header up to the samples.

        Args:
            stream: A file, or a pipe positioned at "RIFF".
            name: What errors call it.

        Raises:
            AudioError: Not WAVE, a format that is not plain PCM or float, an absurd header, or a file cut short.
        """
        self._stream, self._name = stream, name
        self._check_riff()
        self.format, self._data_bytes = self._read_chunks()

    def _check_riff(self) -> None:
        head = _read_fully(self._stream, 12)
        if head[:4] in (b"RF64", b"RIFX"):
            kind = head[:4].decode()
            raise ForeignAudioError(f"{self._name} is {kind}, only RIFF is read; {_REMEDY}")
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            begins = f"{self._name} is not a WAV file, it begins with {head[:12]!r}"
            raise ForeignAudioError(f"{begins}; {_REMEDY}")

    def _read_chunks(self) -> tuple[WavFormat, int | None]:
        """Walk the chunks up to "data"; return the format and the declared bytes, None for "to the end"."""
        form = None
        while True:
            head = _read_fully(self._stream, 8)
            if len(head) < 8:
                raise AudioError(f"truncated WAV: {self._name} ends before its samples; copy or record it again")
            tag, size = head[:4], struct.unpack("<I", head[4:])[0]
            if tag == b"data":
                break
            form = self._read_chunk(tag, size, form)
        if form is None:
            raise AudioError(f"{self._name} has samples before its format; it is damaged, write it again")
        return form, self._checked_size(size)

    def _read_chunk(self, tag: bytes, size: int, form: WavFormat | None) -> WavFormat | None:
        padded = size + size % 2
        if tag != b"fmt ":
            _skip(self._stream, padded)
            return form
        if not 16 <= size <= 4096:
            raise AudioError(f"{self._name} has a format chunk of {size} bytes, it must be 16 to 4096; it is damaged")
        body = _read_fully(self._stream, padded)
        if len(body) < padded:
            raise AudioError(f"truncated WAV: {self._name} ends before its samples; copy or record it again")
        return _parse_format(body, self._name)

    def _checked_size(self, size: int) -> int | None:
        left = _bytes_left(self._stream)
        if size == 0 or size >= _UNKNOWN_SIZE:
            return None
        if left is not None and left < size:
            sizes = f"header says {size} bytes of samples, data has {left}"
            raise AudioError(f"truncated WAV: {self._name}: {sizes}; copy or record it again")
        return size

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._name

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.format.sample_rate

    @property
    def n_channels(self) -> int:
        """Channels of a frame."""
        return self.format.n_channels

    def frames(self, *, size: int = DEFAULT_CHUNK) -> Iterator[Frames]:
        """Blocks ``[n, n_channels]`` as they come, n <= ``size`` and never 0.

        They are int16 for 8 and 16 bit (8 bit is shifted up), float32 in -1..1 for everything else.
        """
        for block in _blocks(self._stream, self.format.frame_bytes, size, self._data_bytes):
            yield decode(block, self.format).reshape(-1, self.n_channels)

    def chunks(self, *, channel: int | None = None, size: int = DEFAULT_CHUNK) -> Iterator[Samples]:
        """The samples of one channel as they come, at most ``size`` at a time; the channel is checked at once.

        Args:
            channel: Index from 0; may be None for a mono file.
            size: Samples a chunk holds at most.

        Raises:
            AudioError: Several channels and none chosen, or a channel that is not there.
        """
        column = chosen_channel(channel, self.n_channels, self._name)
        return (frames[:, column] for frames in self.frames(size=size))


class RawReader:
    """Samples without a header, of channels in turn."""

    def __init__(
        self,
        stream: ByteSource,
        *,
        sample_rate: int,
        n_channels: int = 1,
        encoding: str = "s16le",
        name: str = "standard input",
    ) -> None:
        """Say what the bytes are.

        Raises:
            AudioError: A rate, a number of channels or an encoding out of range.
        """
        if sample_rate not in _RATES:
            raise AudioError(f"sample_rate={sample_rate} must be {_RATES[0]} to {_RATES[-1]} Hz")
        if n_channels not in _CHANNELS:
            raise AudioError(f"channels={n_channels} must be {_CHANNELS[0]} to {_CHANNELS[-1]}")
        if encoding not in ENCODINGS:
            raise AudioError(f"format={encoding!r} must be one of {list(ENCODINGS)}")
        self.name, self.sample_rate, self.n_channels = name, sample_rate, n_channels
        self._stream, self._dtype = stream, np.dtype(ENCODINGS[encoding])

    def frames(self, *, size: int = DEFAULT_CHUNK) -> Iterator[Frames]:
        """Blocks ``[n, n_channels]`` as they come; part of a frame at the very end is dropped."""
        for block in _blocks(self._stream, self._dtype.itemsize * self.n_channels, size, None):
            samples = np.frombuffer(block, dtype=self._dtype).reshape(-1, self.n_channels)
            yield samples.astype(self._dtype.newbyteorder("="), copy=False)


def chosen_channel(channel: int | None, n_channels: int, name: str) -> int:
    """The column to take of frames with ``n_channels``.

    Raises:
        AudioError: Several channels and none chosen, or a channel that is not there.
    """
    if channel is None and n_channels > 1:
        raise AudioError(f"{name} has {n_channels} channels, the bundle takes one; choose with --channel 0")
    if channel is not None and not 0 <= channel < n_channels:
        raise AudioError(f"channel={channel} must be in 0..{n_channels - 1}; {name} has {n_channels}")
    return channel or 0


def _parse_format(body: bytes, name: str) -> WavFormat:
    code, n_channels, rate, _, align, bits = struct.unpack("<HHIIHH", body[:16])
    if code == _EXTENSIBLE and len(body) >= 40 and body[26:40] == _GUID_TAIL:
        code = struct.unpack("<H", body[24:26])[0]
    if (code, bits) not in _SUPPORTED:
        raise ForeignAudioError(
            f"{name} has format={code:#06x} with {bits} bits, only PCM and float are read; {_REMEDY}"
        )
    if rate not in _RATES:
        raise AudioError(f"{name} says sample_rate={rate}, it must be {_RATES[0]} to {_RATES[-1]}; it is damaged")
    if n_channels not in _CHANNELS or align != n_channels * bits // 8:
        raise AudioError(
            f"{name} says {n_channels} channels of {bits} bits in blocks of {align} bytes; its header is damaged"
        )
    return WavFormat(sample_rate=rate, n_channels=n_channels, bits=bits, is_float=code == _FLOAT)


def decode(block: bytes, form: WavFormat) -> Samples:
    """The samples of whole frames, channels interleaved, as int16 or float32 in -1..1."""
    if form.is_float:
        with np.errstate(over="ignore", invalid="ignore"):  # becomes infinity or NaN, which the front end refuses
            return np.frombuffer(block, dtype=f"<f{form.bits // 8}").astype(np.float32)
    if form.bits == 16:
        return np.frombuffer(block, dtype="<i2").astype(np.int16, copy=False)
    if form.bits == 8:
        return (np.frombuffer(block, dtype=np.uint8).astype(np.int16) - 128) << 8
    if form.bits == 32:
        return (np.frombuffer(block, dtype="<i4") / np.float64(2**31)).astype(np.float32)
    wide = np.zeros((len(block) // 3, 4), dtype=np.uint8)
    wide[:, 1:] = np.frombuffer(block, dtype=np.uint8).reshape(-1, 3)
    # 24 bits in the upper part of an int32: exact in float32.
    return (wide.reshape(-1).view("<i4") / np.float64(2**31)).astype(np.float32)


def _blocks(stream: ByteSource, unit: int, size: int, total: int | None) -> Iterator[bytes]:
    """Whole units of ``unit`` bytes, at most ``size`` of them, until ``total`` bytes or the end of the stream."""
    # read1 returns what a pipe has, so that a live stream is heard at once and not a chunk late.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while total is None or total > 0:
        wanted = size * unit - len(rest)
        block = read(wanted if total is None else min(wanted, total))
        if not block:
            return
        if total is not None:
            total -= len(block)
        rest += block
        whole = len(rest) - len(rest) % unit
        if whole:
            yield rest[:whole]
            rest = rest[whole:]


def _read_fully(stream: ByteSource, n_bytes: int) -> bytes:
    parts, missing = [], n_bytes
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _skip(stream: ByteSource, n_bytes: int) -> None:
    while n_bytes and (part := stream.read(min(n_bytes, _SKIP_BYTES))):
        n_bytes -= len(part)


def _bytes_left(stream: ByteSource) -> int | None:
    """Bytes between here and the end of a regular file; None for a pipe."""
    if isinstance(stream, io.BytesIO):
        return len(stream.getbuffer()) - stream.tell()
    file: Any = stream
    try:
        status = os.fstat(file.fileno())
        return status.st_size - file.tell() if stat.S_ISREG(status.st_mode) else None
    except (OSError, AttributeError):
        return None
