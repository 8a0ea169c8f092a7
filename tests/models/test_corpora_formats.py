"""Corpora are recognised, read in a stable order, and refused in one line where they contradict themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.corpora import Clip, Corpus, Source, open_corpus, open_folders, open_manifest
from edgeaudio_models.errors import CorpusError

COLUMNS = "path,label,word,speaker,split,samples,sample_rate,source\n"


def record(path: Path, *, value: int = 1) -> Path:
    write_wav(path, np.full(160, value, np.int16), 16_000)
    return path


def manifest(folder: Path, rows: str, *, columns: str = COLUMNS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text(columns + rows)
    return folder


def test_a_folder_per_label_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("yes/b.wav", "yes/a.wav", "no/0a7c2a8d_nohash_3.wav", "_unknown_/cat.wav", "yes/._a.wav", "yes/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        record(tmp_path / name)
    corpus = open_corpus(tmp_path)
    assert corpus.labels == ("_unknown_", "no", "yes")
    assert [clip.path.name for clip in corpus.clips] == ["cat.wav", "0a7c2a8d_nohash_3.wav", "a.wav", "b.wav"]
    assert corpus.label_indices().tolist() == [0, 1, 2, 2]
    assert corpus.speakers == ("", "0a7c2a8d", "", "")
    assert corpus.splits == ()


def test_folders_named_for_splits_are_splits(tmp_path: Path) -> None:
    for name in ("train/yes/a.wav", "dev/yes/b.wav", "test/yes/c.wav"):
        record(tmp_path / name)
    corpus = open_corpus(tmp_path)
    assert corpus.splits == ("train", "validation", "test")
    assert [clip.path.name for clip in corpus.select("validation").clips] == ["b.wav"]


def test_a_label_folder_without_audio_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "yes" / "a.wav")
    (tmp_path / "no").mkdir()
    with pytest.raises(CorpusError, match=r"label='no' has no audio files; add some or remove the folder"):
        open_corpus(tmp_path)


def test_empty_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"clips=0, a corpus needs audio files"):
        open_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; give a folder of recordings"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"nowhere: no such folder"):
        open_folders(tmp_path / "nowhere")


@pytest.mark.parametrize("rate", ["16k", "-1", "8000.0"])
def test_a_rate_that_is_no_number_is_refused(tmp_path: Path, rate: str) -> None:
    rows = f"train/a.wav,yes,yes,anna,train,160,{rate},mine\n"
    words = rf"manifest\.csv:2: sample_rate='{rate}' must be a whole number of Hz, or empty"
    with pytest.raises(CorpusError, match=words):
        open_corpus(manifest(tmp_path / "own", rows))


def test_a_manifest_gives_every_column(tmp_path: Path) -> None:
    rows = (
        "train/a.wav,yes,yes,anna,train,160,16000,speech_commands_v0.01\ntest/b.wav,_silence_,,,test,160,16000,mine\n"
    )
    corpus = open_corpus(manifest(tmp_path / "own", rows) / "manifest.csv")
    assert corpus.name == "own"
    assert corpus.labels == ("_silence_", "yes")
    first, second = corpus.clips
    assert first == Clip(
        path=tmp_path / "own" / "train" / "a.wav",
        label="yes",
        word="yes",
        speaker="anna",
        split="train",
        source="speech_commands_v0.01",
        sample_rate=16_000,
    )
    assert (second.word, second.speaker) == ("", "")
    assert corpus.sources == (
        Source(name="mine", licence="unstated"),
        Source(name="Speech Commands v0.01", licence="CC BY 4.0", citation="Pete Warden, arXiv:1804.03209"),
    )


def test_a_manifest_of_path_and_label_is_enough(tmp_path: Path) -> None:
    corpus = open_manifest(manifest(tmp_path, "a.wav,yes,extra\n", columns="path,label,note\n"))
    assert corpus.clips == (Clip(path=tmp_path / "a.wav", label="yes"),)
    assert corpus.splits == ()


def test_a_manifest_from_a_spreadsheet_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\na.wav,yes\r\n")
    assert open_manifest(tmp_path).labels == ("yes",)


@pytest.mark.parametrize("name", ["../a.wav", "/etc/a.wav", "train/../../a.wav"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.csv:2: path='.*' must stay inside the folder of the manifest"):
        open_manifest(manifest(tmp_path, f"{name},yes\n", columns="path,label\n"))


def test_a_manifest_with_faults_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"columns \['label'\] are missing; the first line must name path,label,word"):
        open_manifest(manifest(tmp_path, "a.wav\n", columns="path\n"))
    with pytest.raises(
        CorpusError, match=r"manifest\.csv:3: split='dev' must be one of \['train', 'validation', 'test'"
    ):
        open_manifest(manifest(tmp_path, "a.wav,yes,train\nb.wav,yes,dev\n", columns="path,label,split\n"))
    with pytest.raises(CorpusError, match=r"manifest\.csv:2: path='a.wav' and label='' must not be empty"):
        open_manifest(manifest(tmp_path, "a.wav,\n", columns="path,label\n"))
    with pytest.raises(CorpusError, match=r"no such file; a manifest has the columns path,label"):
        open_manifest(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="clips=0"):
        open_manifest(manifest(tmp_path, ""))


def test_other_words_become_unknown_under_a_models_labels(tmp_path: Path) -> None:
    rows = "a.wav,yes\nb.wav,cat\nc.wav,_silence_\nd.wav,no\n"
    folder = manifest(tmp_path, rows, columns="path,label\n")
    corpus = open_corpus(folder, labels=["_unknown_", "yes"])
    assert corpus.labels == ("_unknown_", "yes")
    assert [(clip.path.name, clip.label, clip.word) for clip in corpus.clips] == [
        ("a.wav", "yes", ""),
        ("b.wav", "_unknown_", "cat"),
        ("d.wav", "_unknown_", "no"),
    ]
    assert [clip.path.name for clip in open_corpus(folder, labels=["yes", "no"]).clips] == ["a.wav", "d.wav"]


def test_a_wanted_label_without_clips_is_refused(tmp_path: Path) -> None:
    folder = manifest(tmp_path, "a.wav,yes,train\nb.wav,no,test\n", columns="path,label,split\n")
    with pytest.raises(CorpusError, match=r"labels \['maybe'\] have no clips; add recordings or leave the labels out"):
        open_corpus(folder, labels=["yes", "maybe"])
    with pytest.raises(CorpusError, match=r"labels \['no'\] have no clips of split='train'"):
        open_corpus(folder, labels=["yes", "no"], split="train")


def test_an_unknown_split_is_refused_by_name(tmp_path: Path) -> None:
    folder = manifest(tmp_path, "a.wav,yes,train\n", columns="path,label,split\n")
    with pytest.raises(CorpusError, match=r"split='dev' is not in the corpus; it has \['train'\]"):
        open_corpus(folder, split="dev")
    folder = manifest(tmp_path, "a.wav,yes\n", columns="path,label\n")
    with pytest.raises(CorpusError, match=r"split='test' is not in the corpus; it has none; leave --split out"):
        open_corpus(folder, split="test")


def test_clips_with_foreign_labels_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"labels \['no'\] of clips must be among labels=\['yes'\]"):
        Corpus(name="x", root=tmp_path, labels=("yes",), clips=(Clip(path=tmp_path / "a.wav", label="no"),))


@pytest.mark.real_speech
def test_the_shared_speech_commands_are_recognised_by_their_manifest(real_data: Path) -> None:
    corpus = open_corpus(real_data / "speech_commands")
    sizes = {split: len(corpus.select(split)) for split in corpus.splits}
    assert sizes == {"train": 8193, "validation": 914, "test": 1023}
    assert len(corpus.labels) == 12
    assert corpus.labels[:2] == ("_silence_", "_unknown_")
    assert {source.licence for source in corpus.sources} == {"CC BY 4.0"}
