"""Counting on a local Ray cluster: the same numbers as in one process, with a worker killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.bench.wake_word import evaluate
from edgeaudio.parity.float_reference import float_steps
from edgeaudio.parity.stream_section import det_settings, hear_folders
from edgeaudio.parity.streams import INT8, Networks
from edgeaudio.scale import shards as cutting
from edgeaudio.scale.choosing import Place
from edgeaudio.scale.counting import ShardCounter
from edgeaudio.scale.ray_pool import RayPool, ray_pool
from edgeaudio.scale.shards import Shard, negative_shards
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import AudioError

pytest.importorskip("ray", reason="ray is not installed; run: pip install 'edgeaudio[scale]'")

SHARD_BYTES = 3 * 64_044
"""Three of the recordings here."""
KILL_WITHIN_S = 120.0
"""A busy machine begins a worker slowly."""


@pytest.fixture(scope="module")
def pool() -> Generator[RayPool]:
    """Two workers, gone when the tests are done."""
    with ray_pool(workers=2) as pool:
        yield pool
    assert [line for line in processes_below(os.getpid()) if "ray" in line] == []


def processes_below(parent: int) -> list[str]:
    """Command lines of the processes that a process began."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "status").read_text() if entry.name.isdigit() else ""
            command = (entry / "cmdline").read_text().replace("\0", " ") if status else ""
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and "State:\tZ" not in status:
            found += [command, *processes_below(int(entry.name))]
    return found


@pytest.fixture(scope="module")
def networks() -> Networks:
    bundle = open_bundle(entry_folder("kws-12-small") / BUNDLE)
    return Networks(bundle=bundle, program=bundle.program("auto"))


@pytest.fixture(scope="module")
def settings(networks: Networks) -> Any:
    return det_settings(networks.bundle.detector_config, [0.3, 0.9])


@pytest.fixture(scope="module")
def talk(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve times two seconds of the words that the bundle knows, so that there is something to count."""
    folder, words = tmp_path_factory.mktemp("talk"), networks.bundle.golden.pcm
    for i in range(12):
        write_wav(folder / f"{i:02d}.wav", np.roll(words, 1997 * i)[:32_000], 16_000)
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SHARD_BYTES", SHARD_BYTES)


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + KILL_WITHIN_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_changes_no_number(
    networks: Networks, talk: Path, settings: Any, pool: RayPool, tmp_path: Path
) -> None:
    archive, started, worker = tmp_path / "0.tar", tmp_path / "started", tmp_path / "worker"
    with tarfile.open(archive, "w") as file:
        for path in sorted(talk.iterdir())[:3]:
            file.add(path, path.name)
    # The first to read this shard says who it is and waits until it is killed; the second reads it.
    wait = f"if mkdir {started} 2>/dev/null; then echo $PPID > {worker}; while kill -0 $PPID; do sleep 0.1; done; fi"
    pipe = Shard(name="pipe", sources=(f"pipe:({wait}) 2>/dev/null; cat {archive}",), is_archive=True)
    shards = [*negative_shards(networks.bundle, talk, shard_bytes=SHARD_BYTES), pipe]
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: worker.exists() and worker.read_text().endswith("\n"))
        killed.append(int(worker.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = ShardCounter(work=tmp_path / "work", pool=pool).each(networks, shards, settings)
    killer.join()
    assert killed[0] != os.getpid()
    assert not Path(f"/proc/{killed[0]}").exists()
    assert found == ShardCounter().each(networks, shards, settings)
    assert len(list((tmp_path / "work").iterdir())) == len(shards) == 5
    assert sum(one.events[INT8][1] for one in found) > 0


def test_what_a_worker_cannot_hear_is_said_in_its_words(
    networks: Networks, settings: Any, pool: RayPool, talk: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF and no more")
    shards = [*negative_shards(networks.bundle, talk), *negative_shards(networks.bundle, tmp_path)]
    with pytest.raises(AudioError, match=r"broken\.wav: "):
        ShardCounter(work=tmp_path / "work", pool=pool).each(networks, shards, settings)


def test_float_and_int8_are_counted_on_workers_as_here_and_the_benchmark_goes_on_from_their_records(
    face: Any, talk: Path, pool: RayPool, small_shards: None, tmp_path: Path
) -> None:
    bundle = open_bundle(face.bundle)
    networks = Networks(bundle=bundle, program=bundle.program("auto"), float_steps=float_steps(bundle))
    counter = ShardCounter(work=tmp_path / "float", pool=pool)
    here, there = (hear_folders(networks, [], [talk], thresholds=[0.1], count=count) for count in (None, counter))
    assert there == here
    assert here.negatives[talk].events.keys() == {"float", "int8"}
    first = evaluate(face.bundle, face.corpus / "chirp", [talk], place=Place(workers=2, work=tmp_path / "work"))
    records = sorted((tmp_path / "work").iterdir())
    assert len(records) == 4
    for path in records:
        values = json.loads(path.read_text())
        values["counts"]["n_samples"] *= 2
        path.write_text(json.dumps(values))
    again = evaluate(face.bundle, face.corpus / "chirp", [talk], place=Place(work=tmp_path / "work"))
    assert again["hours"] == {str(talk): pytest.approx(2 * first["hours"][str(talk)])}
