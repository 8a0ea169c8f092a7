"""Downloads against a local server: whole, resumed, cut, refused, and unpacked without leaving the folder."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_models import download
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.corpora import open_speech_commands
from edgeaudio_models.download import SPEECH_COMMANDS_V2, Archive, fetch, fetch_speech_commands, unpack
from edgeaudio_models.errors import DownloadError
from edgeaudio_runtime.staging import OutputError

BODY = np.random.default_rng(5).bytes(300_000)


@dataclass
class Site:
    """A server, how it misbehaves, and what it was asked."""

    url: str = ""
    body: bytes = BODY
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)
    """Bytes after which the first, second, ... answer breaks off."""
    status: list[int] = field(default_factory=list)
    """Errors that the first, second, ... answer consists of."""
    asked: list[str] = field(default_factory=list)
    """Range header of every request, empty if none."""

    def archive(self, **changes: str) -> Archive:
        known = {"url": self.url, "sha256": hashlib.sha256(self.body).hexdigest()}
        return Archive(**(known | changes), size=len(self.body))


def serve(site: Site, handler: BaseHTTPRequestHandler) -> None:
    site.asked.append(handler.headers.get("Range", ""))
    if site.status:
        handler.send_error(site.status.pop(0))
        return
    start = int(site.asked[-1].removeprefix("bytes=").rstrip("-") or 0) if site.ranges else 0
    if start >= len(site.body):
        handler.send_error(416)
        return
    rest = site.body[start:]
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(rest)))
    handler.end_headers()
    handler.wfile.write(rest[: site.drop_after.pop(0)] if site.drop_after else rest)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            serve(state, self)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/files/archive.tar.gz"
        yield state
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_whole_with_progress(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 100_000)
    seen: list[tuple[int, int | None]] = []
    target = fetch(site.archive(), tmp_path / "new" / "file", progress=lambda *counts: seen.append(counts))
    assert target.read_bytes() == BODY
    assert seen == [(100_000, 300_000), (200_000, 300_000), (300_000, 300_000)]
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_file_that_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    fetch(site.archive(), tmp_path / "file")
    assert site.asked == []


def test_a_wrong_file_that_is_there_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    assert fetch(site.archive(), tmp_path / "file").read_bytes() == BODY


def test_what_a_kill_left_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:123_456])
    assert fetch(site.archive(), tmp_path / "file").read_bytes() == BODY
    assert site.asked == ["bytes=123456-"]


def test_a_complete_part_is_only_verified(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    assert fetch(site.archive(), tmp_path / "file").read_bytes() == BODY
    assert site.asked == ["bytes=300000-"]


def test_connections_cut_in_the_middle_are_resumed(site: Site, tmp_path: Path) -> None:
    site.drop_after = [100_000, 50_000, 0]
    assert fetch(site.archive(), tmp_path / "file", pause_s=0.0).read_bytes() == BODY
    assert site.asked == ["", "bytes=100000-", "bytes=150000-", "bytes=150000-"]


def test_a_server_without_ranges_is_started_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    assert fetch(site.archive(), tmp_path / "file").read_bytes() == BODY


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site: Site, tmp_path: Path) -> None:
    site.status = [503, 429]
    assert fetch(site.archive(), tmp_path / "file", pause_s=0.0).read_bytes() == BODY
    site.status = [404]
    with pytest.raises(DownloadError, match=r"archive\.tar\.gz: the server answered 404 Not Found"):
        fetch(site.archive(), tmp_path / "other", pause_s=0.0)
    assert len(site.asked) == 4


def test_retries_that_bring_nothing_are_bounded_and_keep_what_came(site: Site, tmp_path: Path) -> None:
    site.drop_after = [1000] + [0] * 10
    with pytest.raises(
        DownloadError, match=r"the connection ended after 1000 of 300000 bytes; call again to go on from"
    ):
        fetch(site.archive(), tmp_path / "file", retries=2, pause_s=0.0)
    assert len(site.asked) == 4
    assert (tmp_path / "file.part").read_bytes() == BODY[:1000]
    assert not (tmp_path / "file").exists()


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    archive = Archive(url="http://127.0.0.1:9/none", sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9/none: .*[Rr]efused; call again to go on from 0 bytes"):
        fetch(archive, tmp_path / "file", retries=0)


def test_a_wrong_checksum_leaves_nothing(site: Site, tmp_path: Path) -> None:
    wrong = "1" * 64
    with pytest.raises(DownloadError, match=rf"sha256=[0-9a-f]{{64}} must be {wrong} \(300000 of 300000 bytes came\)"):
        fetch(site.archive(sha256=wrong), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_found_out_and_removed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="it was removed, fetch it again"):
        fetch(site.archive(), tmp_path / "file")
    assert fetch(site.archive(), tmp_path / "file").read_bytes() == BODY


def test_a_full_disk_is_one_line(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(DownloadError, match=r"file: cannot be written \(No space left on device\); free the disk"):
        fetch(site.archive(), tmp_path / "file")


def packed(**members: bytes | tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_an_archive_is_unpacked_whole(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed(**{"./yes/a.wav": b"1", "LICENSE": b"2"}))
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "yes" / "a.wav").read_bytes() == b"1"
    with pytest.raises(OutputError, match="exists and nothing is overwritten"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def symlink(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "members", [{"../evil": b"1"}, {"good": b"1", "a/../../evil": b"2"}, {"link": symlink("link", "../../evil")}]
)
def test_members_that_leave_the_folder_are_refused_and_nothing_stays(
    tmp_path: Path, members: dict[str, bytes | tarfile.TarInfo]
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed(**members))
    with pytest.raises(DownloadError, match=r"a\.tar\.gz: unsafe archive \(.*\); nothing was unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_cut_or_foreign_archive_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    whole = packed(**{"a.wav": BODY})
    for damaged in (whole[: len(whole) // 2], b"no archive"):
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        with pytest.raises(DownloadError, match=r"a\.tar\.gz: cannot be unpacked \(.*\); fetch it again"):
            unpack(tmp_path / "a.tar.gz", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_archive_that_grows_beyond_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 1000)
    (tmp_path / "a.tar.gz").write_bytes(packed(a=b"0" * 600, b=b"0" * 600))
    with pytest.raises(DownloadError, match="unpacks to more than 1000 bytes; is it the right file"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_speech_commands_arrive_as_a_tree_that_opens(site: Site, tmp_path: Path) -> None:
    write_wav(tmp_path / "clip.wav", np.arange(160, dtype=np.int16), 16_000)
    clip = (tmp_path / "clip.wav").read_bytes()
    names = {f"./{word}/0a7c2a8d_nohash_0.wav": clip for word in ("yes", "cat")}
    site.body = packed(**names, **{"./testing_list.txt": b"", "./validation_list.txt": b"yes/0a7c2a8d_nohash_0.wav\n"})
    folder = fetch_speech_commands(tmp_path / "speech_commands", archive=site.archive())
    corpus = open_speech_commands(folder, keywords=["yes"])
    assert [(clip.word, clip.split) for clip in corpus.clips] == [("cat", "train"), ("yes", "validation")]
    assert not (tmp_path / "archive.tar.gz").exists()
    with pytest.raises(OutputError, match="exists and nothing is overwritten"):
        fetch_speech_commands(folder, archive=site.archive())
    assert len(site.asked) == 1  # refused before a byte was fetched


def test_the_published_archive_is_named_with_its_checksum() -> None:
    assert SPEECH_COMMANDS_V2.file_name == "speech_commands_v0.02.tar.gz"
    assert SPEECH_COMMANDS_V2.size == 2_428_923_189
    assert len(bytes.fromhex(SPEECH_COMMANDS_V2.sha256)) == 32
