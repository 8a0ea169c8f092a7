"""Mutated WAV files: chunks, sizes, rates and formats that contradict each other, and what may come of them."""

from __future__ import annotations

import io
import random
import struct

import numpy as np

from edgeaudio_runtime.front_end import FrontEnd
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.wav import WavReader
from tests.prove.mutation import INTEGERS, mutate_bytes

FORMATS = ((1, 8), (1, 16), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64), (2, 4), (6, 8), (7, 8), (85, 0), (1, 12))
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
LONGEST_S = 0.25


class Pipe:
    """A stream that cannot seek and gives less than was asked for."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self._buffer, self._rng = io.BytesIO(data), rng

    def read(self, size: int = -1, /) -> bytes:
        return self._buffer.read(self._rng.randrange(1, size + 1) if size > 0 else size)


def wav_bytes(rng: random.Random) -> bytes:
    """A WAV file, right in most of its parts."""
    code, bits = rng.choice(FORMATS)
    n_channels, rate = rng.choice((1, 1, 1, 2, 3, 64)), rng.choice((16_000, 16_000, 8000, 44_100, 48_000))
    samples = rng.randbytes(int(rate * rng.random() * LONGEST_S / 8) * max(1, n_channels * bits // 8))
    chunks = [(b"fmt ", _format(code, bits, n_channels, rate, rng)), (b"data", samples)]
    for _ in range(rng.choice((0, 0, 1, 3))):
        extra = (rng.choice((b"LIST", b"fact", b"JUNK", b"fmt ", b"data", b"bext")), rng.randbytes(rng.randrange(40)))
        chunks.insert(rng.randrange(len(chunks) + 1), extra)
    if rng.random() < 0.05:
        rng.shuffle(chunks)
    body = b"".join(_chunk(tag, content, rng) for tag, content in chunks)
    magic = rng.choice((b"RIFF",) * 12 + (b"RIFX", b"RF64"))
    return magic + struct.pack("<I", _size(len(body) + 4, rng)) + b"WAVE" + body


def _format(code: int, bits: int, n_channels: int, rate: int, rng: random.Random) -> bytes:
    fields = [code, n_channels, rate, rate * n_channels * bits // 8, n_channels * bits // 8, bits]
    if rng.random() < 0.3:
        fields[rng.randrange(6)] = rng.choice(INTEGERS)
    limits = (2**16, 2**16, 2**32, 2**32, 2**16, 2**16)
    plain = struct.pack("<HHIIHH", *(value % limit for value, limit in zip(fields, limits, strict=True)))
    if rng.random() < 0.2:
        extension = struct.pack("<HHIH", 22, bits, 0, code) + GUID_TAIL
        return struct.pack("<H", 0xFFFE) + plain[2:] + extension
    return plain + rng.choice((b"", b"", b"\0\0", rng.randbytes(6)))


def _chunk(tag: bytes, content: bytes, rng: random.Random) -> bytes:
    return tag + struct.pack("<I", _size(len(content), rng)) + content + bytes(len(content) % 2)


def _size(true: int, rng: random.Random) -> int:
    wrong = (0, 1, true - 1, true + 1, true * 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.randrange(2**32))
    return true if rng.random() < 0.9 else rng.choice(wrong) % 2**32


def read_mutant(rng: random.Random) -> None:
    """Read one mutant, whole and in small chunks: both must say the same, and never more than the file holds."""
    data = wav_bytes(rng)
    if rng.random() < 0.5:
        data = mutate_bytes(data, rng)
    first = _channel(io.BytesIO(data), size=1600)
    if rng.random() < 0.5:
        second = _channel(io.BytesIO(data), size=rng.choice((1, 7, 100)))
        if first.dtype != second.dtype or first.tobytes() != second.tobytes():
            raise AssertionError("the samples depend on the size of the chunks")
    if rng.random() < 0.2:
        _channel(Pipe(data, rng), size=1600)
    if len(first) > len(data):
        raise AssertionError(f"{len(first)} samples from {len(data)} bytes")
    features = FrontEnd(preset("log_mel")).process(first)
    if not np.isfinite(features).all():
        raise AssertionError("features are not finite")


def _channel(stream: io.BytesIO | Pipe, *, size: int) -> np.ndarray:
    reader = WavReader(stream)
    channel = None if reader.format.n_channels == 1 else reader.format.n_channels - 1
    chunks = list(reader.chunks(channel=channel, size=size))
    return np.concatenate(chunks) if chunks else np.empty(0, np.int16)
