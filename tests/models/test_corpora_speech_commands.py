"""The original Speech Commands tree: official lists, the speaker hash, unknown words and cuts of noise."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.corpora import SILENCE, UNKNOWN, noise_files, open_corpus, open_speech_commands
from edgeaudio_models.corpora.speech_commands import NOISE_SHARES, which_set
from edgeaudio_models.errors import CorpusError

# Worked out with sha1sum and bc: sha1 modulo 2**27 in percent is 56.84, 79.57, 5.72, 9.99995, 14.63, 19.45, 14.20.
HASHED = {
    "0a7c2a8d": "train",
    "004ae714": "train",
    "5ccd5ccd": "validation",
    "6aae6aae": "validation",
    "899d899d": "test",
    "dde3dde3": "test",
    "4c6167ca": "test",
}


def record(path: Path, *, n_samples: int = 160) -> Path:
    write_wav(path, np.arange(n_samples, dtype=np.int64).astype(np.int16), 16_000)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for speaker in HASHED:
        for word in ("yes", "no", "cat"):
            record(tmp_path / word / f"{speaker}_nohash_0.wav")
    record(tmp_path / "_background_noise_" / "hum.wav", n_samples=160_000)
    (tmp_path / "_background_noise_" / "README.md").write_text("noise")
    return tmp_path


@pytest.mark.parametrize("speaker", HASHED)
def test_the_hash_of_the_speaker_decides_whatever_follows_it(speaker: str) -> None:
    for name in (f"{speaker}_nohash_0.wav", f"yes/{speaker}_nohash_17.wav", f"{speaker}_nohash_1.wav.wav"):
        assert which_set(name) == HASHED[speaker]


def test_shares_of_the_hash_rule_follow_the_percentages() -> None:
    names = [f"{i:08x}_nohash_0.wav" for i in range(4000)]
    counts = Counter(which_set(name, validation_percent=10.0, testing_percent=20.0) for name in names)
    # binomial standard deviations are 0.5 % and 0.6 %; four of them
    assert counts["validation"] / 4000 == pytest.approx(0.10, abs=0.02)
    assert counts["test"] / 4000 == pytest.approx(0.20, abs=0.025)


@pytest.mark.real_speech
def test_the_hash_rule_agrees_with_the_published_test_set(real_data: Path) -> None:
    with (real_data / "speech_commands" / "manifest.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["speaker"]]
    by_source: dict[str, Counter[str]] = {}
    for row in rows:
        counts = by_source.setdefault(row["source"], Counter())
        counts[which_set(f"{row['speaker']}_nohash_0.wav")] += 1
    assert set(by_source["speech_commands_test_set_v0.02"]) == {"test"}
    assert set(by_source["speech_commands_v0.01"]) == {"train", "validation"}


def test_without_lists_the_hash_decides(tree: Path) -> None:
    corpus = open_speech_commands(tree, keywords=["yes", "no"])
    spoken = [clip for clip in corpus.clips if clip.label != SILENCE]
    assert {clip.speaker: clip.split for clip in spoken} == HASHED


def test_lists_win_over_the_hash(tree: Path) -> None:
    train, *_ = [speaker for speaker, split in HASHED.items() if split == "train"]
    test, *_ = [speaker for speaker, split in HASHED.items() if split == "test"]
    (tree / "testing_list.txt").write_text(f"yes/{train}_nohash_0.wav\n")
    (tree / "validation_list.txt").write_text(f"no/{train}_nohash_0.wav\n")
    corpus = open_speech_commands(tree, keywords=["yes", "no"])
    splits = {(clip.word, clip.speaker): clip.split for clip in corpus.clips if clip.word}
    assert splits["yes", train] == "test"
    assert splits["no", train] == "validation"
    assert splits["cat", train] == splits["yes", test] == "train"


def test_where_one_list_is_absent_the_hash_stands_in_for_it_alone(tree: Path) -> None:
    (tree / "testing_list.txt").write_text("")
    corpus = open_speech_commands(tree, keywords=["yes", "no"])
    spoken = {clip.speaker: clip.split for clip in corpus.clips if clip.label != SILENCE}
    assert spoken == {speaker: "train" if split == "test" else split for speaker, split in HASHED.items()}


def test_other_words_are_unknown_and_keep_their_word(tree: Path) -> None:
    corpus = open_speech_commands(tree, keywords=["yes", "no"])
    assert corpus.labels == ("_silence_", "_unknown_", "yes", "no")
    assert {(clip.word, clip.label) for clip in corpus.clips if clip.word} == {
        ("yes", "yes"),
        ("no", "no"),
        ("cat", UNKNOWN),
    }


def test_silence_is_cut_from_each_splits_own_part_of_the_noise(tree: Path) -> None:
    corpus = open_speech_commands(tree, keywords=["yes", "no"])
    cuts = [clip for clip in corpus.clips if clip.label == SILENCE]
    n_speakers = Counter(HASHED.values())
    assert Counter(clip.split for clip in cuts) == n_speakers  # as many as a keyword has clips
    for clip in cuts:
        low, high = NOISE_SHARES[clip.split]
        assert clip.start is not None
        assert clip.stop is not None
        assert clip.stop - clip.start == 16_000
        assert round(low * 160_000) <= clip.start < clip.stop <= round(high * 160_000)


def test_the_same_seed_cuts_the_same_silence(tree: Path) -> None:
    first, again, other = (open_speech_commands(tree, keywords=["yes"], seed=seed) for seed in (1, 1, 2))
    assert first.clips == again.clips
    assert first.clips != other.clips


def test_the_tree_is_recognised_by_its_lists_or_its_noise(tree: Path) -> None:
    assert open_corpus(tree).labels == ("_silence_", "_unknown_", "yes", "no")  # of the benchmark's words, those there
    (tree / "_background_noise_" / "hum.wav").unlink()
    (tree / "testing_list.txt").write_text("")
    assert open_corpus(tree).name == "Speech Commands"


def test_a_models_labels_decide_what_is_a_keyword(tree: Path) -> None:
    corpus = open_corpus(tree, labels=["_unknown_", "cat"], split="train")
    assert corpus.labels == ("_unknown_", "cat")
    assert {(clip.word, clip.label) for clip in corpus.clips} == {("yes", UNKNOWN), ("no", UNKNOWN), ("cat", "cat")}
    with pytest.raises(CorpusError, match=r"labels \['up'\] have no clips; add the folders or leave the words out"):
        open_corpus(tree, labels=["yes", "up"])
    with pytest.raises(CorpusError, match=r"keywords=\[\] must name at least one word"):
        open_corpus(tree, labels=["_unknown_"])


def test_a_tree_without_noise_has_no_silence_label(tree: Path) -> None:
    (tree / "_background_noise_" / "hum.wav").unlink()
    assert noise_files(tree) == []
    assert open_speech_commands(tree, keywords=["yes", "no"]).labels == ("_unknown_", "yes", "no")


def test_a_missing_tree_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder; fetch it with `edgeaudio data fetch speech-commands`"):
        open_speech_commands(tmp_path / "none")
