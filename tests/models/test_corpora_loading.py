"""Clips become one array, cached under everything that could change it; corpora are checked for what misleads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.corpora import (
    Clip,
    Corpus,
    check_corpus,
    default_cache_folder,
    default_labels,
    load_clip,
    load_waveforms,
    open_corpus,
    require_sound,
)
from edgeaudio_models.errors import CorpusError
from edgeaudio_runtime.errors import AudioError


def clip(folder: Path, name: str, samples: np.ndarray, *, rate: int = 16_000, **fields: Any) -> Clip:
    write_wav(folder / name, samples.astype(np.int16), rate)
    return Clip(path=folder / name, **{"label": "yes", **fields})


def corpus_of(folder: Path, *clips: Clip) -> Corpus:
    labels = default_labels([each.label for each in clips])
    return Corpus(name="test", root=folder, labels=labels, clips=clips)


def messages(corpus: Corpus, **options: bool | int) -> list[str]:
    return [f"{finding.severity}: {finding.message}" for finding in check_corpus(corpus, **options)]  # type: ignore[arg-type]


def test_short_clips_get_zeros_at_the_end_and_long_ones_are_cut_there(tmp_path: Path) -> None:
    clips = [clip(tmp_path, "short.wav", np.arange(1, 4)), clip(tmp_path, "long.wav", np.arange(1, 9))]
    waveforms = load_waveforms(clips, n_samples=5)
    assert waveforms.dtype == np.int16
    assert waveforms.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]


def test_a_cut_is_loaded_as_its_part_of_the_file(tmp_path: Path) -> None:
    whole = clip(tmp_path, "noise.wav", np.arange(100))
    assert load_clip(replace(whole, start=40, stop=43)).tolist() == [40, 41, 42]


def test_progress_counts_every_clip(tmp_path: Path) -> None:
    clips = [clip(tmp_path, f"{i}.wav", np.arange(10)) for i in range(3)]
    seen: list[tuple[int, int]] = []
    load_waveforms(clips, n_samples=10, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_second_load_comes_from_the_cache(tmp_path: Path) -> None:
    clips = [clip(tmp_path, "a.wav", np.arange(1, 11))]
    first = load_waveforms(clips, n_samples=10, cache_folder=tmp_path / "cache")
    seen: list[int] = []
    again = load_waveforms(
        clips, n_samples=10, cache_folder=tmp_path / "cache", progress=lambda done, _: seen.append(done)
    )
    assert seen == []
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("change", ["content", "time", "length", "start", "stop", "order"])
def test_the_cache_notices_every_change(tmp_path: Path, change: str) -> None:
    clips = [clip(tmp_path, "a.wav", np.arange(1, 11)), clip(tmp_path, "b.wav", np.arange(21, 31))]
    cache, n_samples = tmp_path / "cache", 10
    load_waveforms(clips, n_samples=n_samples, cache_folder=cache)
    if change == "content":
        clip(tmp_path, "a.wav", np.arange(51, 63))
    elif change == "time":
        os.utime(tmp_path / "a.wav", ns=(1, 1))
    elif change == "length":
        n_samples = 8
    elif change in ("start", "stop"):
        cut: dict[str, Any] = {change: 2}
        clips[0] = replace(clips[0], **cut)
    else:
        clips.reverse()
    seen: list[int] = []
    loaded = load_waveforms(clips, n_samples=n_samples, cache_folder=cache, progress=lambda done, _: seen.append(done))
    assert seen == [1, 2]
    np.testing.assert_array_equal(loaded, load_waveforms(clips, n_samples=n_samples))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_cache_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    clips = [clip(tmp_path, "a.wav", np.arange(1, 11))]
    expected = load_waveforms(clips, n_samples=10, cache_folder=tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "waveforms").iterdir()
    file.write_bytes(damage)
    np.testing.assert_array_equal(load_waveforms(clips, n_samples=10, cache_folder=tmp_path / "cache"), expected)
    np.testing.assert_array_equal(np.load(file), expected)


def test_a_missing_clip_is_named_with_and_without_a_cache(tmp_path: Path) -> None:
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(AudioError, match=r"none\.wav: no such file"):
            load_waveforms([Clip(path=tmp_path / "none.wav", label="yes")], cache_folder=cache)


def test_a_higher_rate_and_one_that_is_stated_are_resampled(tmp_path: Path) -> None:
    high = clip(tmp_path, "high.wav", np.zeros(48_000), rate=48_000)
    stated = replace(clip(tmp_path, "low.wav", np.zeros(8_000), rate=8_000), sample_rate=8_000)
    assert load_waveforms([high, stated]).shape == (2, 16_000)
    with pytest.raises(AudioError, match="sample_rate=48000 must be 16000; resample it"):
        load_waveforms([high], resample=False)


def test_a_rate_that_nobody_meant_is_refused(tmp_path: Path) -> None:
    low = clip(tmp_path, "low.wav", np.zeros(8_000), rate=8_000)
    words = (
        r"low\.wav: sample_rate=8000 is less than 16000, everything above 4000 Hz is missing; record it anew, or acc"
    )
    with pytest.raises(CorpusError, match=words):
        load_waveforms([low])
    with pytest.raises(CorpusError, match=r"low\.wav: sample_rate=8000, its corpus states 16000; correct one of them"):
        load_waveforms([replace(low, sample_rate=16_000)])


def test_a_rate_stated_anew_is_not_answered_from_the_cache(tmp_path: Path) -> None:
    low = replace(clip(tmp_path, "low.wav", np.zeros(8_000), rate=8_000), sample_rate=8_000)
    load_waveforms([low], cache_folder=tmp_path / "cache")
    with pytest.raises(CorpusError, match="its corpus states 11025"):
        load_waveforms([replace(low, sample_rate=11_025)], cache_folder=tmp_path / "cache")


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEAUDIO_CACHE", str(tmp_path / "here"))
    assert default_cache_folder() == tmp_path / "here"
    monkeypatch.delenv("EDGEAUDIO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "edgeaudio"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path.home() / ".cache" / "edgeaudio"


def test_a_sound_corpus_has_no_findings(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path,
        clip(tmp_path, "a.wav", np.arange(10), speaker="anna", split="train"),
        clip(tmp_path, "b.wav", np.arange(11), speaker="bert", split="test"),
    )
    assert check_corpus(corpus, files=True, sample_rate=16_000) == ()
    require_sound(corpus, files=True)


def test_a_speaker_in_two_splits_is_an_error(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path,
        clip(tmp_path, "a.wav", np.arange(10), speaker="anna", split="train"),
        clip(tmp_path, "b.wav", np.arange(11), speaker="anna", split="test"),
    )
    expected = "speakers in two splits=['anna'], a speaker belongs to one split; 'anna' is in ['test', 'train']"
    assert messages(corpus) == [f"error: {tmp_path}: {expected}"]
    with pytest.raises(CorpusError, match="a speaker belongs to one split"):
        require_sound(corpus)


def test_labels_without_clips_are_found(tmp_path: Path) -> None:
    corpus = replace(
        corpus_of(
            tmp_path,
            clip(tmp_path, "a.wav", np.arange(10), split="train"),
            clip(tmp_path, "b.wav", np.arange(11), split="train", label="no"),
            clip(tmp_path, "c.wav", np.arange(12), split="test", label="no"),
        ),
        labels=("no", "yes", "maybe"),
    )
    assert messages(corpus) == [
        f"error: {tmp_path}: labels ['maybe'] have no clips; add some or drop them",
        f"warning: {tmp_path}: labels ['yes'] have no clips in split='test'; it cannot score them",
    ]


def test_clips_without_a_split_beside_clips_with_one_are_found(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path, clip(tmp_path, "a.wav", np.arange(10), split="train"), clip(tmp_path, "b.wav", np.arange(11))
    )
    assert messages(corpus) == [f"error: {tmp_path}: 1 of 2 clips have no split; give all of them one, or none"]


def test_identical_recordings_are_an_error_across_splits_or_labels_only(tmp_path: Path) -> None:
    same = np.arange(10)
    harmless = corpus_of(
        tmp_path,
        clip(tmp_path, "a.wav", same, split="train"),
        clip(tmp_path, "b.wav", same, split="train"),
    )
    assert [message.partition(":")[0] for message in messages(harmless, files=True)] == ["warning"]
    assert "1 clips repeat another under a second name" in messages(harmless, files=True)[0]
    leaking = corpus_of(tmp_path, harmless.clips[0], replace(harmless.clips[1], split="test"))
    assert "are one recording in different splits; keep one" in messages(leaking, files=True)[0]
    contradicting = corpus_of(tmp_path, harmless.clips[0], replace(harmless.clips[1], label="no"))
    assert "are one recording with different labels; keep one" in messages(contradicting, files=True)[0]


def test_a_folder_under_a_second_label_is_refused_and_a_stray_in_a_large_corpus_is_not(tmp_path: Path) -> None:
    recording = clip(tmp_path, "a.wav", np.arange(10))
    (tmp_path / "copy.wav").write_bytes(recording.path.read_bytes())
    copy = replace(recording, path=tmp_path / "copy.wav", label="no")
    with pytest.raises(CorpusError, match=r"a\.wav', .*copy\.wav'\] are one recording with different labels; keep one"):
        require_sound(corpus_of(tmp_path, recording, copy))
    cuts = tuple(replace(recording, start=i, stop=i + 1) for i in range(1000))
    require_sound(corpus_of(tmp_path, recording, copy, *cuts))


def test_a_clip_whose_name_says_another_label_is_an_error(tmp_path: Path) -> None:
    named = clip(tmp_path, "no_0a7c2a8d_nohash_0.wav", np.arange(10))
    other = clip(tmp_path, "0a7c2a8d_nohash_1.wav", np.arange(11), label="no")
    expected = f"{named.path}: label='yes', its name says 'no'; move or rename it"
    assert messages(corpus_of(tmp_path, named, other)) == [f"error: {expected}"]
    assert messages(corpus_of(tmp_path, replace(named, label="_unknown_"))) == []  # "no" is no label there


def test_files_that_cannot_be_used_are_found_before_training(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.zeros((160, 2)), 16_000)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "whole.flac", np.sin(np.arange(16_000)), 16_000)
    (tmp_path / "truncated.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:8000])
    corpus = corpus_of(
        tmp_path,
        Clip(path=tmp_path / "stereo.wav", label="yes"),
        Clip(path=tmp_path / "empty.wav", label="yes"),
        Clip(path=tmp_path / "truncated.flac", label="yes"),
        clip(tmp_path, "fast.wav", np.arange(30), rate=48_000),
        clip(tmp_path, "slow.wav", np.arange(10), rate=8_000),
    )
    found = messages(corpus, files=True, sample_rate=16_000)
    assert found[0].endswith("empty.wav: the file is empty (0 bytes); fetch it again")
    assert "slow.wav: sample_rate=8000 is less than 16000, everything above 4000 Hz is missing" in found[1]
    assert found[2].endswith("stereo.wav: channels=2 must be 1; keep one channel")
    assert "truncated.flac: " in found[3]
    rates = "1 of 5 files are not at sample_rate=16000 but 48000; they are resampled when loaded"
    assert found[4:] == [f"warning: {tmp_path}: {rates}"]


@pytest.mark.real_speech
def test_the_shared_recordings_leak_no_speaker_and_decode(real_data: Path) -> None:
    corpus = open_corpus(real_data / "speech_commands")
    require_sound(corpus)
    for suffix in (".flac", ".ogg"):
        clips = [each for each in corpus.clips if each.path.suffix == suffix and each.word][:20]
        waveforms = load_waveforms(clips)
        peaks = np.abs(waveforms.astype(np.int32)).max(axis=1)
        assert np.median(peaks) > 1_000  # speech at its scale, not floats truncated to 0 and 1
