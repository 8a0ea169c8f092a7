"""Streams of clips: shards written with tarfile, data sets of the Hugging Face library, the window, the training."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
from pyarrow.parquet import write_table

from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.recipe import Recipe, TrainingRecipe
from edgeaudio_models.sampler import sampling_weights
from edgeaudio_models.streams import (
    ClipStream,
    ClipWindow,
    EncodedClip,
    HuggingFaceStream,
    ShardStream,
    WindowDraws,
    expand_braces,
    is_stream,
    load_stream_data,
)
from edgeaudio_models.training import train
from edgeaudio_runtime.errors import AudioError, SpecError
from tests.training_on_tones import KEYWORD, Killed, kill_at, same_weights, tones

LABELS = ("_silence_", "low", "middle")
WORDS = ("low", "middle")


def encoded(samples: Any, *, rate: int = 16_000, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_shards(folder: Path, name: str, *, n_shards: int, clips: int, speaker: str) -> str:
    """Shards of tones, two words in turn; the pattern that names them."""
    for shard in range(n_shards):
        examples, members = tones(clips, (0, 1), seed=10 * shard + len(name)), dict[str, bytes]()
        for i, (waveform, index) in enumerate(zip(examples.waveforms, examples.label_indices, strict=True)):
            described = {"label": WORDS[index], "speaker": f"{speaker}{i}"}
            members[f"{shard}-{i}.flac"] = encoded(waveform)
            members[f"{shard}-{i}.json"] = json.dumps(described).encode()
        write_tar(folder / f"{name}-{shard:03d}.tar", members)
    return str(folder / (f"{name}-{{000..{n_shards - 1:03d}}}.tar"))


class NumberedStream(ClipStream):
    """Clips whose one loud sample is their number; passes of five."""

    identity = "numbers"

    def __init__(self) -> None:
        self.decoded = 0

    def clips(self, number: int) -> Iterator[EncodedClip]:
        for i in range(5):
            samples = np.full(4, 5 * number + i, np.int16)
            yield EncodedClip(name=f"clip {i}", label="low", speaker=f"s{i}", audio=encoded(samples))


def window_of(stream: ClipStream, *, size: int, labels: tuple[str, ...] = ("low", "middle"), **more: Any) -> ClipWindow:
    return ClipWindow(stream, labels=labels, sample_rate=16_000, n_samples=4, size=size, **more)


def held(window: ClipWindow) -> list[int]:
    return sorted(window.examples.waveforms[:, 0].tolist())


def test_a_window_holds_the_clips_from_its_first_on() -> None:
    window = window_of(NumberedStream(), size=3)
    for first in (0, 2, 9, 4, 0):  # passes go on one after the other, and a window may go back
        window.move_to(first)
        assert held(window) == [first, first + 1, first + 2]


def test_where_a_window_came_from_does_not_matter() -> None:
    moved, fresh = window_of(NumberedStream(), size=7), window_of(NumberedStream(), size=7)
    for first in range(12):
        moved.move_to(first)
    fresh.move_to(11)
    np.testing.assert_array_equal(moved.examples.waveforms, fresh.examples.waveforms)


def test_clips_that_are_skipped_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = EncodedClip.decode

    def counted(self: EncodedClip, **arguments: Any) -> Any:
        decoded.append(self.name)
        return decode(self, **arguments)

    monkeypatch.setattr(EncodedClip, "decode", counted)
    window_of(NumberedStream(), size=3).move_to(100)
    assert len(decoded) == 3


def test_silent_clips_stand_beside_the_window() -> None:
    window = window_of(NumberedStream(), size=6, labels=LABELS)
    window.move_to(1)
    assert window.examples.label_indices.tolist() == [1] * 6 + [0, 0]
    assert not window.examples.waveforms[6:].any()


class WordStream(ClipStream):
    """One clip of every given label."""

    identity = "words"

    def __init__(self, *labels: str) -> None:
        self._labels = labels

    def clips(self, number: int) -> Iterator[EncodedClip]:
        for label in self._labels:
            yield EncodedClip(name=label, label=label, speaker="anna", audio=encoded(np.zeros(4, np.int16)))


def test_words_the_network_does_not_know_are_unknown_or_left_out() -> None:
    window = window_of(WordStream("low", "tree", "_silence_", "middle"), size=3, labels=("_unknown_", "low", "middle"))
    window.move_to(0)
    assert window.examples.label_indices.tolist() == [1, 0, 2]
    window = window_of(WordStream("low", "tree", "middle"), size=2)
    window.move_to(0)
    assert window.examples.label_indices.tolist() == [0, 1]


def test_a_stream_without_a_wanted_label_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"words: no clip has one of the labels \['low', 'middle'\]"):
        window_of(WordStream("tree"), size=2).move_to(0)


def test_a_speaker_of_validation_in_the_stream_is_refused() -> None:
    with pytest.raises(CorpusError, match="low: speaker='anna' is among those of validation; validation must have"):
        window_of(WordStream("low"), size=1, held_out={"anna"}).move_to(0)


def test_draws_follow_the_window_and_balance_its_labels() -> None:
    recipe = TrainingRecipe(epochs=1, batch_size=4, class_balance=1.0, shuffle_buffer=6)
    window = window_of(NumberedStream(), size=6, labels=LABELS)
    draws = WindowDraws(window, LABELS, recipe)
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(3)
    for step, chosen in enumerate(draws.epoch(2, 200, generator)):
        assert chosen.shape == (4,)
        assert held(window)[2:] == [(400 + step) * 4 + i for i in range(6)]
        counts += np.bincount(window.examples.label_indices[chosen.numpy()], minlength=3)
    # Two labels have clips, silence and "low": half of 800 each, give or take four standard deviations.
    assert counts == pytest.approx([400, 400, 0], abs=4 * np.sqrt(200))
    weights = sampling_weights(torch.from_numpy(window.examples.label_indices), LABELS, recipe)
    assert weights.tolist() == pytest.approx([1 / 12] * 6 + [1 / 4] * 2)


def test_braces_expand_to_ranges_and_lists() -> None:
    assert expand_braces("a.tar") == ("a.tar",)
    assert expand_braces("t-{008..011}.tar") == ("t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar")
    assert expand_braces("{a,b}-{0..1}") == ("a-0", "a-1", "b-0", "b-1")
    with pytest.raises(CorpusError, match=r"shards='x\{y\}\.tar': \{y\} must be a range \{000\.\.003\} or a list"):
        expand_braces("x{y}.tar")


def test_what_names_a_stream() -> None:
    assert [is_stream(text) for text in ("t-{0..3}.tar", "hf:user/set", "pipe:cat a.tar", "corpus")] == [1, 1, 1, 0]


def shard_of(tmp_path: Path, members: Mapping[str, bytes], labels: tuple[str, ...] = ()) -> list[EncodedClip]:
    write_tar(tmp_path / "one.tar", members)
    return list(ShardStream((str(tmp_path / "one.tar"),), seed=0, labels=labels).clips(0))


def test_members_of_one_key_make_a_clip(tmp_path: Path) -> None:
    audio = encoded(np.arange(6, dtype=np.int16), kind="WAV")
    clips = shard_of(
        tmp_path,
        {
            "yes/a.wav": audio, "yes/a.json": b'{"label": "yes", "speaker": "anna"}',
            "yes/b.wav": audio, "yes/b.cls": b"1\n", "no/b.txt": b" no ", "no/b.wav": audio,
            "d.wav": audio, "d.cls": b"word", "d.json": b'{"speaker": 7}',
        },
        labels=("zero", "one"),
    )  # fmt: skip
    assert [(clip.label, clip.speaker) for clip in clips] == [("yes", "anna"), ("one", ""), ("no", ""), ("word", "7")]
    assert [clip.name.rpartition(": ")[2] for clip in clips] == ["yes/a", "yes/b", "no/b", "d"]
    assert clips[0].decode(sample_rate=16_000, n_samples=4).tolist() == [0, 1, 2, 3]
    assert clips[0].decode(sample_rate=16_000, n_samples=8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.wav": b""}, r"one\.tar: a: members \['wav'\] name no label; add \.cls or \.txt with the label, or \.json"),
        ({"a.txt": b"yes"}, r"one\.tar: a: members \['txt'\] hold no audio; add one of \['\.wav'"),
        ({"a.wav": b"", "a.json": b"{"}, r"one\.tar: a: its \.json is not JSON \(.*\); write the shard again"),
    ],
)
def test_a_clip_without_label_or_audio_is_one_line(members: dict[str, bytes], words: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=words):
        shard_of(tmp_path, members)


def test_audio_that_is_none_or_stereo_is_one_line(tmp_path: Path) -> None:
    broken, stereo = shard_of(
        tmp_path,
        {"a.wav": b"no", "a.txt": b"yes", "b.wav": encoded(np.zeros((9, 2))), "b.txt": b"yes"},
    )
    with pytest.raises(AudioError, match=r"one\.tar: a: no readable audio \(.*\); write the shard again"):
        broken.decode(sample_rate=16_000, n_samples=4)
    with pytest.raises(AudioError, match=r"one\.tar: b: channels=2 must be 1; mix it down when writing the stream"):
        stereo.decode(sample_rate=16_000, n_samples=4)


def test_another_rate_is_resampled() -> None:
    time = np.arange(800) / 8000
    low = EncodedClip(name="", label="", speaker="", audio=encoded(0.5 * np.sin(2 * np.pi * 500 * time), rate=8000))
    wanted = 0.5 * 32768 * np.sin(2 * np.pi * 500 * np.arange(1600) / 16_000)
    found = low.decode(sample_rate=16_000, n_samples=1600)
    np.testing.assert_allclose(found[200:1400], wanted[200:1400], atol=0.02 * 16384)  # the edges ring


def test_passes_take_the_shards_in_orders_of_their_own(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, "train", n_shards=5, clips=2, speaker="s")
    stream, again = (ShardStream(expand_braces(pattern), seed=3) for _ in range(2))
    orders = [[clip.name.rpartition("/")[2] for clip in stream.clips(number)] for number in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert [clip.name.rpartition("/")[2] for clip in again.clips(2)] == orders[2]


def test_a_missing_or_broken_shard_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar file" * 100)
    for name in ("none.tar", "bad.tar"):
        with pytest.raises(CorpusError, match=rf"{name}: no readable tar file \(.*\); write or fetch it again"):
            list(ShardStream((str(tmp_path / name),), seed=0).clips(0))


def test_a_pipe_is_read_with_the_webdataset_package(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="pip install 'edgeaudio[webdataset]'")
    write_shards(tmp_path, "train", n_shards=1, clips=3, speaker="s")
    stream = ShardStream((f"pipe:cat {tmp_path / 'train-000.tar'}",), seed=0)
    assert [clip.speaker for clip in stream.clips(0)] == ["s0", "s1", "s2"]


STREAMED = replace(
    KEYWORD, training=replace(KEYWORD.training, steps_per_epoch=4, shuffle_buffer=16, batch_size=8, epochs=3),
    corpus=replace(KEYWORD.corpus, clip_seconds=0.2),
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("shards")
    learned = write_shards(folder, "train", n_shards=4, clips=10, speaker="learned")
    return learned, write_shards(folder, "validation", n_shards=1, clips=8, speaker="judged")


def stream_training(shards: tuple[str, str], output: Path, recipe: Recipe = STREAMED, **more: Any) -> Checkpoint:
    return train(recipe, load_stream_data(recipe, *shards), output, **more)


def test_a_training_on_a_stream_repeats_and_resumes_after_a_kill(shards: tuple[str, str], tmp_path: Path) -> None:
    whole = stream_training(shards, tmp_path / "whole")
    assert same_weights(whole, stream_training(shards, tmp_path / "again"))
    with pytest.raises(Killed):
        stream_training(shards, tmp_path / "cut", progress=kill_at(6))
    assert same_weights(whole, stream_training(shards, tmp_path / "cut"))
    assert [row.epoch for row in whole.history] == [1, 2, 3]
    assert whole.metrics["validation"]["n_clips"] == 9  # one silent clip beside eight
    assert whole.provenance["sources"][0]["name"] == shards[0]


def test_a_training_on_a_stream_learns(shards: tuple[str, str], tmp_path: Path) -> None:
    longer = replace(STREAMED, training=replace(STREAMED.training, epochs=20))
    assert stream_training(shards, tmp_path, longer).metrics["validation"]["macro_accuracy"] >= 0.9


def test_the_state_of_another_stream_is_refused(shards: tuple[str, str], tmp_path: Path) -> None:
    digests = {
        load_stream_data(recipe, source, shards[1]).digest()
        for recipe in (STREAMED, replace(STREAMED, training=replace(STREAMED.training, shuffle_buffer=20)))
        for source in (shards[0], shards[0].replace("{000..003}", "{000..002}"))
    }
    assert len(digests) == 4


def test_streams_that_a_recipe_cannot_use_are_refused(shards: tuple[str, str]) -> None:
    lengthless = replace(STREAMED, training=replace(STREAMED.training, steps_per_epoch=0))
    with pytest.raises(SpecError, match=r"training\.steps_per_epoch=0 must be >= 1 for a stream, which has no length"):
        load_stream_data(lengthless, *shards)
    narrow = replace(STREAMED, training=replace(STREAMED.training, shuffle_buffer=4))
    with pytest.raises(SpecError, match=r"shuffle_buffer=4 must be >= training\.batch_size=8 for a stream"):
        load_stream_data(narrow, *shards)
    with pytest.raises(SpecError, match=r"has no validation split; name other shards with --validation"):
        load_stream_data(STREAMED, shards[0], None)
    with pytest.raises(CorpusError, match="speaker='learned0' is among those of validation"):
        load_stream_data(STREAMED, shards[0], shards[0])
    made = replace(STREAMED, corpus=replace(STREAMED.corpus, kind="synthesis", clips_per_word=1))
    with pytest.raises(SpecError, match=r"corpus\.kind='synthesis' must be 'recordings' to train on a stream"):
        load_stream_data(made, *shards)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parquet files and a validation split, with the kinds of the columns in the metadata as on the hub."""
    pytest.importorskip("datasets", reason="pip install 'edgeaudio[datasets]'")
    folder = tmp_path_factory.mktemp("parquet") / "data"
    folder.mkdir()
    kinds = {
        "audio": {"_type": "Audio"},
        "label": {"names": list(WORDS), "_type": "ClassLabel"},
        "speaker_id": {"dtype": "string", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
    for name, seed in (("train-00000-of-00002", 1), ("train-00001-of-00002", 2), ("validation-00000-of-00001", 3)):
        examples = tones(8, (0, 1), seed=seed)
        columns = {
            "audio": [{"bytes": encoded(waveform), "path": None} for waveform in examples.waveforms],
            "label": examples.label_indices,
            "speaker_id": [f"{name}-{i}" for i in range(8)],
        }
        audio = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        schema = pyarrow.schema(
            {"audio": audio, "label": pyarrow.int64(), "speaker_id": pyarrow.string()}, metadata=metadata
        )
        write_table(pyarrow.table(columns, schema=schema), folder / f"{name}.parquet")
    return folder.parent


def test_a_data_set_streams_from_parquet_without_being_unpacked(parquet: Path) -> None:
    stream = HuggingFaceStream(str(parquet), seed=1)
    clips = list(stream.clips(0))
    wanted = [tones(8, (0, 1), seed=seed) for seed in (1, 2)]
    by_speaker = {clip.speaker: clip for clip in clips}
    assert len(by_speaker) == len(clips) == 16
    for file, examples in enumerate(wanted):
        for i in range(8):
            clip = by_speaker[f"train-{file:05d}-of-00002-{i}"]
            assert clip.label == WORDS[examples.label_indices[i]]
            decoded = clip.decode(sample_rate=16_000, n_samples=3200)
            np.testing.assert_array_equal(decoded, examples.waveforms[i])
    assert [clip.name for clip in stream.clips(3)] == [
        clip.name for clip in HuggingFaceStream(str(parquet), seed=1).clips(3)
    ]


def test_a_data_set_trains_by_its_own_validation_split(parquet: Path, tmp_path: Path) -> None:
    data = load_stream_data(STREAMED, f"hf:{parquet}", None)
    assert len(data.validation) == 9
    one, other = (
        train(STREAMED, load_stream_data(STREAMED, f"hf:{parquet}", None), tmp_path / name) for name in ("one", "other")
    )
    assert same_weights(one, other)


def test_label_folders_stream_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="pip install 'edgeaudio[datasets]'")
    for word, n in (("low", 2), ("middle", 3)):
        (tmp_path / "train" / word).mkdir(parents=True)
        for i in range(n):
            (tmp_path / "train" / word / f"{i}.wav").write_bytes(encoded(np.full(5, i, np.int16), kind="WAV"))
    clips = list(HuggingFaceStream(str(tmp_path)).clips(0))
    assert sorted(clip.label for clip in clips) == ["low"] * 2 + ["middle"] * 3
    assert sorted(int(clip.decode(sample_rate=16_000, n_samples=5)[0]) for clip in clips) == [0, 0, 1, 1, 2]


def test_a_data_set_or_split_that_is_not_there_is_one_line(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"hf:.*#test: no such data set or split \(.*\)"):
        HuggingFaceStream(str(parquet), split="test")
    with pytest.raises(CorpusError, match=r"hf:.*none#train: no such data set or split"):
        HuggingFaceStream(str(tmp_path / "none"))
