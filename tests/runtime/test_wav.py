"""WAV: every plain format, every odd header, and one line for what cannot be read."""

import contextlib
import io
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.wav import RawReader, WavReader

GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(tag: bytes, body: bytes, *, size: int | None = None) -> bytes:
    return tag + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(code: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16, align: int | None = None) -> bytes:
    block = channels * bits // 8 if align is None else align
    return struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits)


def riff(*chunks: bytes, size: int | None = None) -> io.BytesIO:
    body = b"WAVE" + b"".join(chunks)
    return io.BytesIO(b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body)


class Pipe:
    """Bytes that come a few at a time and cannot be sought."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = data, piece

    def read(self, size: int, /) -> bytes:
        taken, self._data = self._data[: min(size, self._piece)], self._data[min(size, self._piece) :]
        return taken


def read_all(reader: WavReader, **kwargs: int) -> np.ndarray:
    chunks = list(reader.chunks(**kwargs))
    return np.concatenate(chunks) if chunks else np.empty(0)


PCM = np.array([0, 1, -1, 1000, -32768, 32767, 123], dtype=np.int16)


def test_sixteen_bits_come_as_they_are(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(PCM.tobytes())
    with (tmp_path / "a.wav").open("rb") as stream:
        reader = WavReader(stream)
        samples = read_all(reader, size=3)
    assert reader.sample_rate == 16000
    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, PCM)


@pytest.mark.parametrize(
    ("code", "bits", "data", "expected"),
    [
        (1, 8, bytes([0, 128, 255]), np.array([-32768, 0, 32512], dtype=np.int16)),
        (1, 24, bytes.fromhex("000080 000000 ffff7f 000040"), np.array([-1, 0, 1 - 2**-23, 0.5], dtype=np.float32)),
        (1, 32, struct.pack("<3i", -(2**31), 0, 2**30), np.array([-1, 0, 0.5], dtype=np.float32)),
        (3, 32, struct.pack("<3f", -1.5, 0.0, 0.25), np.array([-1.5, 0, 0.25], dtype=np.float32)),
        (3, 64, struct.pack("<2d", -1.0, 0.125), np.array([-1.0, 0.125], dtype=np.float32)),
    ],
)
def test_other_widths_keep_their_values(code: int, bits: int, data: bytes, expected: np.ndarray) -> None:
    samples = read_all(WavReader(riff(chunk(b"fmt ", fmt(code, 1, 16000, bits)), chunk(b"data", data))))
    assert samples.dtype == expected.dtype
    np.testing.assert_array_equal(samples, expected)


def test_the_extensible_form_is_read() -> None:
    extended = fmt(0xFFFE) + struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + GUID_TAIL
    np.testing.assert_array_equal(
        read_all(WavReader(riff(chunk(b"fmt ", extended), chunk(b"data", PCM.tobytes())))), PCM
    )


def test_other_chunks_are_passed_over_with_their_padding() -> None:
    parts = chunk(b"LIST", b"odd"), chunk(b"fmt ", fmt()), chunk(b"fact", b"12345"), chunk(b"data", PCM.tobytes())
    trailer = chunk(b"id3 ", b"not samples")
    np.testing.assert_array_equal(read_all(WavReader(riff(*parts, trailer))), PCM)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_size_nobody_knew_means_to_the_end(size: int) -> None:
    data = riff(chunk(b"fmt ", fmt()), chunk(b"data", PCM.tobytes(), size=size), size=size).getvalue()
    np.testing.assert_array_equal(read_all(WavReader(io.BytesIO(data))), PCM)
    np.testing.assert_array_equal(read_all(WavReader(Pipe(data, 3))), PCM)


def test_a_file_cut_short_is_refused_before_any_sample(tmp_path: Path) -> None:
    data = riff(chunk(b"fmt ", fmt()), chunk(b"data", PCM.tobytes())).getvalue()
    (tmp_path / "cut.wav").write_bytes(data[:-6])
    with (tmp_path / "cut.wav").open("rb") as stream, pytest.raises(AudioError) as caught:
        WavReader(stream, name="cut.wav")
    assert str(caught.value) == (
        "truncated WAV: cut.wav: header says 14 bytes of samples, data has 8; copy or record it again"
    )


@pytest.mark.parametrize("length", [12, 15, 20, 30, 36, 40])
def test_a_file_that_ends_in_its_header_is_refused(length: int) -> None:
    data = riff(chunk(b"fmt ", fmt()), chunk(b"data", PCM.tobytes())).getvalue()
    with pytest.raises(AudioError, match="truncated WAV: x ends before its samples"):
        WavReader(io.BytesIO(data[:length]), name="x")


def test_a_pipe_that_ends_early_gives_what_came() -> None:
    data = riff(chunk(b"fmt ", fmt()), chunk(b"data", PCM.tobytes())).getvalue()
    np.testing.assert_array_equal(read_all(WavReader(Pipe(data[:-6], 5))), PCM[:-3])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (fmt(rate=0), "x says sample_rate=0, it must be 1000 to 768000"),
        (fmt(rate=4_000_000_000 // 4), "x says sample_rate=1000000000"),
        (fmt(code=6, bits=8), "x has format=0x0006 with 8 bits, only PCM and float are read; run: ffmpeg"),
        (fmt(code=0x11, bits=4), "x has format=0x0011 with 4 bits"),
        (fmt(code=0xFFFE), "x has format=0xfffe"),
        (fmt(channels=0), "x says 0 channels of 16 bits in blocks of 0 bytes"),
        (fmt(align=3), "x says 1 channels of 16 bits in blocks of 3 bytes"),
        (b"short", "x has a format chunk of 5 bytes, it must be 16 to 4096"),
    ],
)
def test_a_format_that_cannot_be_meant_is_named(form: bytes, words: str) -> None:
    with pytest.raises(AudioError) as caught:
        WavReader(riff(chunk(b"fmt ", form), chunk(b"data", PCM.tobytes())), name="x")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x is not a WAV file, it begins with b''"),
        (b"ID3\x03 an mp3 file", "x is not a WAV file, it begins with b'ID3"),
        (b"RIFF\0\0\0\0AVI LIST", "x is not a WAV file"),
        (b"RF64\0\0\0\0WAVE", "x is RF64, only RIFF is read; run: ffmpeg"),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, words: str) -> None:
    with pytest.raises(AudioError) as caught:
        WavReader(io.BytesIO(data), name="x")
    assert words in str(caught.value)


def test_samples_before_their_format_are_refused() -> None:
    with pytest.raises(AudioError, match="x has samples before its format"):
        WavReader(riff(chunk(b"data", PCM.tobytes())), name="x")


def test_several_channels_need_a_choice() -> None:
    both = np.stack([PCM, PCM[::-1]], axis=1)
    data = riff(chunk(b"fmt ", fmt(channels=2)), chunk(b"data", both.tobytes())).getvalue()
    with pytest.raises(AudioError, match="x has 2 channels, the bundle takes one; choose with --channel 0"):
        next(WavReader(io.BytesIO(data), name="x").chunks())
    np.testing.assert_array_equal(read_all(WavReader(io.BytesIO(data)), channel=0, size=2), PCM)
    np.testing.assert_array_equal(read_all(WavReader(io.BytesIO(data)), channel=1), PCM[::-1])
    with pytest.raises(AudioError, match=r"channel=2 must be in 0\.\.1; x has 2"):
        next(WavReader(io.BytesIO(data), name="x").chunks(channel=2))


def test_chunks_never_hold_more_than_asked() -> None:
    data = riff(chunk(b"fmt ", fmt()), chunk(b"data", np.zeros(1000, np.int16).tobytes()))
    assert [len(c) for c in WavReader(data).chunks(size=300)] == [300, 300, 300, 100]


@given(piece=st.integers(1, 7), n_bytes=st.integers(0, 33))
def test_raw_samples_do_not_depend_on_how_the_pipe_delivers(piece: int, n_bytes: int) -> None:
    data = np.arange(-8, 9, dtype=np.int16).tobytes()[:n_bytes]
    blocks = list(RawReader(Pipe(data, piece), sample_rate=16000).frames(size=4))
    assert all(0 < len(block) <= 4 for block in blocks)
    whole = np.concatenate([np.empty((0, 1), np.int16), *blocks])
    np.testing.assert_array_equal(whole[:, 0], np.arange(-8, 9, dtype=np.int16)[: n_bytes // 2])


@pytest.mark.parametrize(("encoding", "dtype"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw_samples_of_several_channels_come_as_frames(encoding: str, dtype: str) -> None:
    expected = np.array([[0, 1], [2, 3], [4, 5]], dtype=dtype)
    data = expected.tobytes() + b"\x01\x02\x03"
    reader = RawReader(io.BytesIO(data), sample_rate=48000, n_channels=2, encoding=encoding)
    (frames,) = reader.frames()
    assert (reader.sample_rate, reader.n_channels, frames.dtype) == (48000, 2, np.dtype(dtype))
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sample_rate": 10}, "sample_rate=10 must be 1000 to 768000 Hz"),
        ({"sample_rate": 8000, "n_channels": 0}, "channels=0 must be 1 to 64"),
        ({"sample_rate": 8000, "encoding": "u8"}, "format='u8' must be one of ['s16le', 'f32le']"),
    ],
)
def test_raw_samples_that_cannot_be_meant_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(AudioError) as caught:
        RawReader(io.BytesIO(), **values)
    assert str(caught.value) == words


@given(data=st.binary(max_size=80))
@example(b"fmt \x10\0\0\0" + fmt() + b"data\xff\xff\xff\x7f")
@example(b"LIST\xff\xff\xff\xff")
def test_no_header_does_worse_than_one_line(data: bytes) -> None:
    # Anything but AudioError, a MemoryError above all, fails the test.
    with contextlib.suppress(AudioError):
        for samples in WavReader(io.BytesIO(b"RIFF\0\0\0\0WAVE" + data)).chunks(channel=0):
            assert samples.dtype in (np.int16, np.float32)
