"""Where the samples of ``edgeaudio-run`` come from: a WAV file, standard input, a microphone."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.wav import ByteSource, Samples, WavReader, raw_chunks, resampled

_MIC_BLOCK_S = 0.1
_MIC_QUEUE = 100
"""Blocks that may wait (10 s); a device that falls further behind says so instead of filling its memory."""


def audio_chunks(
    audio: str, sample_rate: int, stack: ExitStack, *, channel: int | None = None, resample: bool = False
) -> Iterator[Samples]:
    """Yield mono chunks at ``sample_rate`` from a WAV file or, for "-", from standard input (WAV or raw int16 mono).

    Args:
        audio: Path, or "-".
        sample_rate: The bundle's, Hz.
        stack: Closes the file.
        channel: Index from 0 where the audio has several.
        resample: Convert another rate instead of refusing it.

    Raises:
        AudioError: No such file, no WAV, or channels or a rate that were not asked for.
    """
    if audio != "-":
        return _wav_chunks(stack.enter_context(_opened(audio)), audio, sample_rate, channel, resample)
    stream = _Rewindable(sys.stdin.buffer)
    if stream.begins_with(b"RIFF"):
        return _wav_chunks(stream, "standard input", sample_rate, channel, resample)
    if channel not in (None, 0):
        raise AudioError(f"channel={channel}, but raw standard input is mono; pipe a WAV stream instead")
    return iter(raw_chunks(stream))


def _opened(audio: str) -> BinaryIO:
    try:
        return Path(audio).open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f"cannot open audio {audio!r}: {reason}; pass a WAV file or - for standard input") from error


def _wav_chunks(
    stream: ByteSource, name: str, sample_rate: int, channel: int | None, resample: bool
) -> Iterator[Samples]:
    reader = WavReader(stream, name=name)
    chunks = reader.chunks(channel=channel)
    if reader.sample_rate == sample_rate:
        return chunks
    if not resample:
        rates = f"sample_rate={reader.sample_rate} of {name} must be {sample_rate}, the bundle's"
        raise AudioError(f"{rates}; convert it with --resample")
    return iter(resampled(chunks, from_rate=reader.sample_rate, to_rate=sample_rate))


class _Rewindable:
    """A pipe whose first bytes can be looked at before they are read."""

    def __init__(self, stream: ByteSource) -> None:
        self._stream, self._head = stream, b""

    def begins_with(self, magic: bytes) -> bool:
        while len(self._head) < len(magic) and (part := self._stream.read(len(magic) - len(self._head))):
            self._head += part
        return self._head == magic

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


def microphone_chunks(
    sample_rate: int, stack: ExitStack, *, seconds: float | None = None
) -> Iterator[npt.NDArray[np.int16]]:
    """Yield int16 chunks of 0.1 s from the default microphone until interrupted, or for ``seconds``.

    Raises:
        AudioError: sounddevice is not installed, the device refuses, or listening falls 10 s behind.
    """
    try:
        sounddevice: Any = import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: the wheel is there, PortAudio is not
        raise AudioError(f"no microphone ({error}); run: pip install 'edgeaudio-runtime[mic]'") from error
    blocks: queue.Queue[Any] = queue.Queue(maxsize=_MIC_QUEUE + 1)

    def receive(data: Any, frames: int, time: Any, status: Any) -> None:
        if blocks.qsize() < _MIC_QUEUE:
            blocks.put_nowait(np.frombuffer(bytes(data), dtype=np.int16))
        elif not blocks.full():
            blocks.put_nowait(None)

    try:
        stack.enter_context(
            sounddevice.RawInputStream(
                samplerate=sample_rate, blocksize=round(_MIC_BLOCK_S * sample_rate), channels=1, dtype="int16",
                callback=receive,
            )
        )  # fmt: skip
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(f"the microphone refused sample_rate={sample_rate}: {error}") from error
    return _blocks(blocks, None if seconds is None else round(seconds / _MIC_BLOCK_S))


def _blocks(blocks: queue.Queue[Any], count: int | None) -> Iterator[npt.NDArray[np.int16]]:
    n_taken = 0
    while count is None or n_taken < count:
        block = blocks.get()
        if block is None:
            raise AudioError("listening is 10 s behind the microphone; take a faster engine or a smaller bundle")
        yield block
        n_taken += 1
