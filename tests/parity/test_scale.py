"""Shards and their records: the same audio gives the same counts wherever a corpus is cut, ended and begun again."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.parity.stream_section import det_settings
from edgeaudio.parity.streams import INT8, Networks, StreamCounts, count_stream
from edgeaudio.scale import counting, status
from edgeaudio.scale.counting import ShardCounter
from edgeaudio.scale.origin import open_networks, origin_of
from edgeaudio.scale.ray_pool import ray_pool
from edgeaudio.scale.records import Records
from edgeaudio.scale.shards import Shard, cut, is_archive, negative_shards
from edgeaudio.scale.status import Status, Watch
from edgeaudio_models.audio_files import read_audio, write_wav
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import ParityError

RATE = 16_000
WAV_HEADER = 44
"""Bytes before the samples of a plain WAV file."""


@pytest.fixture(scope="module")
def networks() -> Networks:
    bundle = open_bundle(entry_folder("kws-12-small") / BUNDLE)
    return Networks(bundle=bundle, program=bundle.program("auto"))


@pytest.fixture(scope="module")
def settings(networks: Networks) -> Any:
    return det_settings(networks.bundle.detector_config, [0.3, 0.9])


@pytest.fixture(scope="module")
def talk(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight recordings of words, so that there is something to count, and one of a word the bundle reports."""
    folder, word = tmp_path_factory.mktemp("talk"), networks.bundle.golden.pcm
    for i in range(8):
        (folder / "a").mkdir(exist_ok=True)
        write_wav(folder / "a" / f"{i}.wav", np.roll(word, 997 * i)[: RATE * (1 + i % 3)], RATE)
    (folder / "yes").mkdir()
    write_wav(folder / "yes" / "0.wav", word, RATE)
    return folder


def shards_of(networks: Networks, talk: Path) -> list[Shard]:
    return negative_shards(networks.bundle, talk, shard_bytes=60_000)


def reference(networks: Networks, groups: Sequence[Sequence[Path]], settings: Any) -> list[StreamCounts]:
    read = lambda path: read_audio(path, sample_rate=RATE)[0]  # noqa: E731
    return [count_stream(networks, map(read, group), settings) for group in groups]


def test_a_folder_is_cut_where_enough_bytes_have_come_together(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.wav" for i in range(5)]
    for path, size in zip(files, (40, 70, 100, 10, 20), strict=True):
        path.write_bytes(bytes(size))
    found = cut(files, 100)
    assert [[Path(source).name for source in shard.sources] for shard in found] == [
        ["0.wav", "1.wav"], ["2.wav"], ["3.wav", "4.wav"],
    ]  # fmt: skip
    assert [shard.n_bytes for shard in found] == [110, 100, 30]
    assert [shard.name for shard in found] == [f"{files[0]} and 1 more", str(files[2]), f"{files[3]} and 1 more"]
    assert [len(shard.sources) for shard in cut(files)] == [5]
    assert cut([]) == []


def test_a_digest_follows_path_size_time_and_what_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "0.wav"
    path.write_bytes(bytes(10))
    (shard,) = cut([path])
    before = shard.digest
    assert cut([path])[0].digest == before
    assert replace(shard, skipped=frozenset({"yes"})).digest != before
    os.utime(path, ns=(0, 1))
    assert shard.digest != before
    other = path.rename(tmp_path / "1.wav")
    os.utime(other, ns=(0, 1))
    assert cut([other])[0].digest != shard.digest


def test_each_shard_is_one_stream_and_keywords_are_passed_over(networks: Networks, talk: Path, settings: Any) -> None:
    shards = shards_of(networks, talk)
    sizes = {path: path.stat().st_size for path in sorted((talk / "a").iterdir())}
    assert [shard.n_bytes for shard in shards] == [
        sum(sizes[Path(source)] for source in shard.sources) for shard in shards
    ]
    assert [Path(source) for shard in shards for source in shard.sources] == list(sizes)
    assert len(shards) >= 4
    wanted = reference(networks, [[Path(source) for source in shard.sources] for shard in shards], settings)
    assert ShardCounter().each(networks, shards, settings) == wanted
    total = ShardCounter()(networks, {"talk": shards, "again": shards[:1]}, settings)
    assert total["again"] == wanted[0]
    assert total["talk"].n_recordings == 8
    assert total["talk"].n_samples == sum((size - WAV_HEADER) // 2 for size in sizes.values())
    assert total["talk"].events[INT8] == tuple(np.sum([one.events[INT8] for one in wanted], axis=0))
    assert total["talk"].events[INT8][1] > 0


def write_tar(path: Path, clips: dict[str, tuple[bytes, str]]) -> Path:
    """One WAV a key, with a label where it is not empty."""
    with tarfile.open(path, "w") as archive:
        for key, (audio, label) in clips.items():
            for suffix, data in (("wav", audio), ("cls", label.encode())):
                if data:
                    entry = tarfile.TarInfo(f"{key}.{suffix}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_tar_shard_is_the_same_stream_as_its_recordings(
    networks: Networks, talk: Path, settings: Any, tmp_path: Path
) -> None:
    files = sorted((talk / "a").iterdir())[:3]
    clips = {f"{i}": (path.read_bytes(), "talk" if i else "") for i, path in enumerate(files)}
    clips["9"] = ((talk / "yes" / "0.wav").read_bytes(), "yes")
    for i in range(2):
        write_tar(tmp_path / f"part-{i}.tar", clips)
    shards = negative_shards(networks.bundle, tmp_path / "part-{0..1}.tar")
    assert [shard.name for shard in shards] == [str(tmp_path / f"part-{i}.tar") for i in range(2)]
    assert all(shard.is_archive and shard.n_bytes > 0 for shard in shards)
    (wanted,) = reference(networks, [files], settings)
    assert ShardCounter().each(networks, shards, settings) == [wanted, wanted]


def test_a_source_is_an_archive_by_its_end() -> None:
    assert is_archive("https://example.org/talk-{000..031}.tar")
    assert not is_archive(Path("talk"))


class Ended(Exception):
    """What a run is ended with."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Names of the shards that are counted; ``limit`` at the end raises Ended."""
    names: list[Any] = []
    count = counting.count_shard

    def counted(networks: Networks, shard: Shard, settings: Any) -> StreamCounts:
        if len(names) == limit[0]:
            raise Ended
        names.append(shard.name)
        return count(networks, shard, settings)

    limit = [2]
    monkeypatch.setattr(counting, "count_shard", counted)
    names_and_limit: list[Any] = [names, limit]
    return names_and_limit


def test_a_run_that_was_ended_goes_on_with_the_missing_shards(
    networks: Networks, talk: Path, settings: Any, tmp_path: Path, counted: list[Any], capsys: Any
) -> None:
    names, limit = counted
    shards, counter = shards_of(networks, talk), ShardCounter(work=tmp_path / "work")
    with pytest.raises(Ended):
        counter.each(networks, shards, settings)
    assert len(list((tmp_path / "work").iterdir())) == 2
    limit[0] = -1
    found = counter.each(networks, shards, settings)
    assert names == [shard.name for shard in shards]  # each of them once, over both runs
    assert found == reference(networks, [[Path(source) for source in one.sources] for one in shards], settings)
    assert counter.each(networks, shards, settings) == found
    assert len(names) == len(shards)
    hours = sum(one.n_samples for one in found) / RATE / 3600
    events = sum(one.events[INT8][0] for one in found)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"shards {len(shards)} of {len(shards)}: {hours:.2f} h, {events} events"
    )


def test_a_damaged_record_is_counted_again(
    networks: Networks, talk: Path, settings: Any, tmp_path: Path, counted: list[Any]
) -> None:
    names, limit = counted
    limit[0] = -1
    shards, counter = shards_of(networks, talk)[:2], ShardCounter(work=tmp_path)
    wanted = counter.each(networks, shards, settings)
    first, second = sorted(tmp_path.iterdir())
    first.write_text(first.read_text()[:-20])
    second.write_text("[]")
    assert counter.each(networks, shards, settings) == wanted
    assert len(names) == 4


def test_a_record_is_of_one_network_engine_setting_and_shard(networks: Networks, talk: Path, tmp_path: Path) -> None:
    shards, config = shards_of(networks, talk), networks.bundle.detector_config
    digests = {
        origin_of(replace(networks, program=networks.bundle.program(name))).digest for name in ("numpy", "litert")
    }
    assert len(digests) == 2
    paths = {
        Records(tmp_path, digest, [each]).path(shard)
        for digest in digests
        for each in (config, replace(config, refractory_s=config.refractory_s + 0.04))
        for shard in shards[:2]
    }
    assert len(paths) == 8
    counts = StreamCounts(n_recordings=2, n_samples=16_000, events={INT8: (3, 1)})
    records = Records(tmp_path, "a", [config])
    records.keep(shards[0], counts)
    assert records.find(shards[0]) == counts
    assert records.find(shards[1]) is None
    assert json.loads(records.path(shards[0]).read_text())["shard"] == shards[0].name


@pytest.mark.parametrize("packed", [False, True])
def test_networks_that_come_from_bytes_hear_the_same(
    networks: Networks, talk: Path, settings: Any, tmp_path: Path, packed: bool
) -> None:
    own = networks
    if packed:
        bundle = open_bundle(shutil.make_archive(str(tmp_path / "bundle"), "zip", networks.bundle.path))
        own = Networks(bundle=bundle, program=bundle.program("auto"))
    opened, shard = open_networks(origin_of(own)), shards_of(networks, talk)[0]
    assert not Path(opened.bundle.path).exists()
    assert counting.count_shard(opened, shard, settings) == counting.count_shard(networks, shard, settings)


def test_float_networks_of_a_checkpoint_need_the_checkpoint(networks: Networks, talk: Path, tmp_path: Path) -> None:
    def no_steps() -> Any:
        raise AssertionError

    with pytest.raises(ParityError, match=r"^bundle='kws-12-small' has no model\.float\.onnx to send to workers; give"):
        ShardCounter(work=tmp_path).each(replace(networks, float_steps=no_steps), shards_of(networks, talk), ())


def test_time_left_follows_what_was_counted_now(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [Shard(name=str(i), sources=(), n_bytes=size) for i, size in enumerate((100, 300, 200, 0))]
    counts = StreamCounts(n_recordings=1, n_samples=RATE * 3600, events={INT8: (2, 9)})
    clock, told = [0.0], list[Status]()
    monkeypatch.setattr(status.time, "monotonic", lambda: clock[0])
    watch = Watch(shards, RATE, told.append)
    watch.add(shards[0], counts, from_disk=True)
    clock[0] = 60.0
    watch.add(shards[1], counts, from_disk=False)
    # 300 bytes took a minute; 200 and the one that stands for an unknown size are left.
    assert told == [
        Status(done=1, total=4, hours=1.0, events=2, left_s=None),
        Status(done=2, total=4, hours=2.0, events=4, left_s=60.0 * 201 / 300),
    ]
    assert told[0].line() == "shards 1 of 4: 1.00 h, 2 events"
    assert told[1].line() == "shards 2 of 4: 2.00 h, 4 events, 40 s left"
    assert replace(told[1], left_s=1800.0).line().endswith("30 min left")
    assert replace(told[1], left_s=9000.0).line().endswith("2.5 h left")


def test_without_ray_workers_are_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ParityError, match=r"^ray is not installed; run: pip install 'edgeaudio\[scale\]'$"),
        ray_pool(workers=2),
    ):
        pass


class Late:
    """A Ray whose processes are always late."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.ended = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.begun.append(options)
        raise ConnectionError("timed out\nand more")

    def shutdown(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(
    ("where", "message", "begun"),
    [
        ({"workers": 2}, r"^Ray does not start here \(timed out\); run without --workers$", 3),
        ({"address": "ray://x:1"}, r"^address='ray://x:1' must name a Ray cluster \(timed out\); start one there$", 1),
    ],
)
def test_a_cluster_that_does_not_answer_is_said_in_a_line(
    where: dict[str, Any], message: str, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: Any = Late()
    monkeypatch.setitem(sys.modules, "ray", late)
    with pytest.raises(ParityError, match=message), ray_pool(**where):
        pass
    assert len(late.begun) == begun
    assert late.ended >= 1
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
