"""Decode the clips of a corpus into one int16 array, cached on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeaudio_models.audio_files import Int16, audio_info, fit_length, read_audio, whole_file
from edgeaudio_models.corpora.clips import Clip, Corpus
from edgeaudio_models.errors import CorpusError

CACHE_FORMAT = 1
"""Part of every key; raise it when decoding, resampling or padding changes."""

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


def default_cache_folder() -> Path:
    """Folder for decoded and synthesized audio: ``$EDGEAUDIO_CACHE``, else ``edgeaudio`` in the user's cache folder."""
    chosen = os.environ.get("EDGEAUDIO_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeaudio"


def load_waveforms(
    clips: Corpus | Sequence[Clip],
    *,
    sample_rate: int = 16_000,
    n_samples: int = 16_000,
    resample: bool = True,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
) -> Int16:
    """Decode clips to int16 ``[n_clips, n_samples]``, in their order.

    Shorter clips are padded with zeros at the end, longer ones cut at the end (what Speech Commands peers do).

    Args:
        clips: A corpus or some of its clips.
        sample_rate: Rate of the result in Hz.
        n_samples: Samples per clip of the result.
        resample: Whether clips of another rate are resampled or refused.
        cache_folder: Keep the array here, under a key over every clip's path, size, modification time and cut; None
            keeps nothing.
        progress: Called after each clip.

    Raises:
        AudioError: A clip cannot be decoded, has several channels, or another rate with ``resample=False``.
        CorpusError: A clip has another rate than its corpus states, or a lower one than ``sample_rate`` and its corpus
            does not say so; or the cache cannot be written.
    """
    chosen = clips.clips if isinstance(clips, Corpus) else tuple(clips)
    cached = None
    if cache_folder is not None:
        cached = cache_folder / "waveforms" / f"{_key(chosen, sample_rate, n_samples, resample)}.npy"
        found = _read_cached(cached, shape=(len(chosen), n_samples))
        if found is not None:
            return found
    waveforms = np.zeros((len(chosen), n_samples), np.int16)
    for i, clip in enumerate(chosen):
        waveforms[i] = fit_length(load_clip(clip, sample_rate=sample_rate, resample=resample), n_samples)
        if progress is not None:
            progress(i + 1, len(chosen))
    if cached is not None:
        _write_cached(cached, waveforms)
    return waveforms


def load_clip(clip: Clip, *, sample_rate: int = 16_000, resample: bool = True) -> Int16:
    """Decode one clip in full length: int16 ``[n_samples]``; errors as :func:`load_waveforms`."""
    problem = rate_problem(clip, audio_info(clip.path).sample_rate, sample_rate) if resample else ""
    if problem:
        raise CorpusError(problem)
    samples, _ = read_audio(
        clip.path, sample_rate=sample_rate, resample=resample, start=clip.start or 0, stop=clip.stop
    )
    return samples


def rate_problem(clip: Clip, rate: int, wanted: int) -> str:
    """Why a file of ``rate`` Hz was surely not meant for features of ``wanted``, or the empty string.

    More samples than wanted can be left out, missing ones cannot be made.
    """
    if clip.sample_rate not in (None, rate):
        return f"{clip.path}: sample_rate={rate}, its corpus states {clip.sample_rate}; correct one of them"
    if rate < wanted and clip.sample_rate is None:
        lacks = f"is less than {wanted}, everything above {rate // 2} Hz is missing"
        remedy = "record it anew, or accept it in the column sample_rate of manifest.csv"
        return f"{clip.path}: sample_rate={rate} {lacks}; {remedy}"
    return ""


def _key(clips: Sequence[Clip], sample_rate: int, n_samples: int, resample: bool) -> str:
    digest = hashlib.sha256(repr((CACHE_FORMAT, sample_rate, n_samples, resample, len(clips))).encode())
    for clip in clips:
        try:
            status = clip.path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = (0, 0)  # the decoder names the missing file in its error
        digest.update(repr((str(clip.path.absolute()), *stamp, clip.start, clip.stop)).encode())
        if clip.sample_rate not in (None, sample_rate):
            digest.update(repr(clip.sample_rate).encode())
    return digest.hexdigest()[:32]


def _read_cached(path: Path, *, shape: tuple[int, int]) -> Int16 | None:
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    usable = array.shape == shape and array.dtype == np.int16
    return np.asarray(array, np.int16) if usable else None


def _write_cached(path: Path, array: Int16) -> None:
    try:
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, array)
    except OSError as error:
        remedy = "free space or choose another cache folder"
        raise CorpusError(f"{path}: the cache of decoded clips cannot be written ({error}); {remedy}") from error
