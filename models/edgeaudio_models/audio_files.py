"""Read and write audio files: decoded as float32, converted to int16 exactly once.

Decoding straight to int16 is a trap: libsndfile does not scale float WAV files when it is asked for int16, so a clip
with peaks at 1.0 comes back as samples of 0 and 1. Everything here is decoded as float32 and rounded by one function.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from edgeaudio_runtime.errors import AudioError

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au", ".mp3")
"""File names that are taken for audio, lower case."""

MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 768_000
"""Rates outside are damaged headers, not recordings; the highest converter on sale runs at 768 kHz."""

_UNSTATED_SIZE = 0x7FFF0000
"""Programs that write WAV into a pipe leave 0 in the header, or some size from here up (sox, ffmpeg)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate: int
    """Hz."""
    n_channels: int
    """1 is mono."""
    n_samples: int
    """Samples per channel."""
    subtype: str
    """Encoding as libsndfile calls it: "PCM_16", "FLOAT", "OPUS", ..."""


def is_audio(path: Path) -> bool:
    """Tell by its name whether a file is taken for audio; hidden files (``._yes.wav``) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header only.

    Raises:
        AudioError: The file is missing, empty, truncated, no audio, or its header holds an absurd rate.
    """
    file = Path(path)
    with _opened(file) as sound:
        return _checked_info(file, sound)


def _checked_info(file: Path, sound: soundfile.SoundFile) -> AudioInfo:
    info = AudioInfo(
        sample_rate=sound.samplerate, n_channels=sound.channels, n_samples=sound.frames, subtype=sound.subtype
    )
    if not MIN_SAMPLE_RATE <= info.sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{file}: sample_rate={info.sample_rate} must be in [{MIN_SAMPLE_RATE}, {MAX_SAMPLE_RATE}] Hz; "
            "the header is damaged, re-encode the file"
        )
    return info


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
    resample: bool = True,
    start: int = 0,
    stop: int | None = None,
) -> tuple[Int16, int]:
    """Decode a file to int16 mono samples.

    Args:
        path: WAV, FLAC, Ogg Opus or Vorbis, AIFF, AU or MP3.
        sample_rate: Rate of the result in Hz; None keeps the file's.
        channel: Which channel of a file with several; None is right for mono only.
        resample: Whether a file of another rate is resampled (soxr, high quality) or refused.
        start: First sample to read, at the file's own rate.
        stop: One past the last sample to read, at the file's own rate; None is the end.

    Returns:
        Samples, int16 ``[n_samples]``, and their rate in Hz.

    Raises:
        AudioError: Missing, empty, truncated or no audio; several channels and none chosen; another rate where
            ``resample=False``.
    """
    samples, rate = read_float(path, channel=channel, start=start, stop=stop)
    if sample_rate is None or rate == sample_rate:
        return to_int16(samples), rate
    if not resample:
        raise AudioError(f"{path}: sample_rate={rate} must be {sample_rate}; resample it (--resample)")
    return to_int16(resample_audio(samples, rate, sample_rate)), sample_rate


def read_float(
    path: str | os.PathLike[str], *, channel: int | None = None, start: int = 0, stop: int | None = None
) -> tuple[Float32, int]:
    """Decode a file to float32 mono samples, full scale 1.0, and its own rate; see :func:`read_audio`."""
    file = Path(path)
    if start < 0 or (stop is not None and stop <= start):
        raise AudioError(f"{file}: start={start} and stop={stop} must be 0 <= start < stop")
    with _opened(file) as sound:
        info = _checked_info(file, sound)
        index = _channel_index(file, info, channel)
        expected = len(range(info.n_samples)[start:stop])
        if start:
            sound.seek(min(start, info.n_samples))
        frames = sound.read(expected, dtype="float32", always_2d=True)
    _check_frames(file, frames, expected=expected)
    if not np.isfinite(frames[:, index]).all():
        raise AudioError(f"{file}: holds samples that are NaN or infinite; re-encode it")
    return np.ascontiguousarray(frames[:, index]), info.sample_rate


def to_int16(samples: npt.NDArray[np.floating]) -> Int16:
    """Convert full scale 1.0 to int16: ``clip(rint(samples * 32768), -32768, 32767)``.

    The factor 32768 inverts what decoders do with 16-bit files, so those come back bit for bit.

    Raises:
        AudioError: A sample is NaN or infinite.
    """
    if not np.isfinite(samples).all():
        n_bad = int((~np.isfinite(samples)).sum())
        raise AudioError(f"{n_bad} samples are NaN or infinite and have no int16 value; repair them first")
    codes: Int16 = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    return codes


def resample_audio(samples: Float32, from_rate: int, to_rate: int) -> Float32:
    """Resample 1-D float32 samples with soxr at high quality (delay compensated, rounded length)."""
    if from_rate == to_rate or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, from_rate, to_rate, quality="HQ"), dtype=np.float32)


def fit_length(samples: Int16, n_samples: int) -> Int16:
    """Pad with zeros at the end, or cut at the end, to exactly ``n_samples``; what Speech Commands peers do."""
    if len(samples) >= n_samples:
        return samples[:n_samples]
    return np.concatenate([samples, np.zeros(n_samples - len(samples), np.int16)])


def write_wav(path: str | os.PathLike[str], samples: Int16, sample_rate: int) -> None:
    """Write int16 samples ``[n_samples]`` as a 16-bit WAV file, whole or not at all."""
    with whole_file(Path(path)) as temporary:
        soundfile.write(temporary, samples, sample_rate, subtype="PCM_16", format="WAV")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that takes its place when the block ends well.

    The name is unlike any other, so several threads or programs may fill the same cache at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(file: Path) -> Iterator[soundfile.SoundFile]:
    if not file.is_file():
        raise AudioError(f"{file}: no such file")
    if file.stat().st_size == 0:
        raise AudioError(f"{file}: the file is empty (0 bytes); fetch it again")
    _refuse_truncated(file)
    try:
        with soundfile.SoundFile(file) as sound:
            yield sound
    except (soundfile.LibsndfileError, OSError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise AudioError(f"{file}: cannot be decoded ({reason}); is it audio, and whole?") from error


def _channel_index(file: Path, info: AudioInfo, channel: int | None) -> int:
    if channel is None and info.n_channels == 1:
        return 0
    if channel is None:
        raise AudioError(f"{file}: channels={info.n_channels}, one is needed; choose it (--channel 0)")
    if not 0 <= channel < info.n_channels:
        raise AudioError(f"{file}: channel={channel} must be in [0, {info.n_channels - 1}]")
    return channel


def _check_frames(file: Path, frames: Float32, *, expected: int) -> None:
    if not len(frames):
        raise AudioError(f"{file}: holds no samples; leave it out")
    if len(frames) < expected:
        raise AudioError(f"{file}: truncated, {len(frames)} of {expected} samples could be read; fetch it again")


def _refuse_truncated(file: Path) -> None:
    """Libsndfile reads what is there of a cut WAV or Ogg file and says nothing."""
    with file.open("rb") as stream:
        head = stream.read(12)
        missing = 0
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            missing = _missing_wav_bytes(file)
        elif head[:4] == b"OggS":
            missing = _missing_ogg_bytes(file)
    if missing > 0:
        raise AudioError(f"{file}: truncated, {missing} bytes of the audio are missing; fetch it again")


def _missing_wav_bytes(file: Path) -> int:
    total = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(12)
        while len(header := stream.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                return 0 if size == 0 or size >= _UNSTATED_SIZE else stream.tell() + size - total
            stream.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _missing_ogg_bytes(file: Path) -> int:
    data = file.read_bytes()
    page = data.rfind(b"OggS")
    n_segments = data[page + 26] if len(data) > page + 26 else 0
    lengths = data[page + 27 : page + 27 + n_segments]
    return page + 27 + n_segments + sum(lengths) - len(data)
