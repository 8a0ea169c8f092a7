"""The Wyoming server, spoken to by the real ``wyoming`` client over a local port."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient, AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.wake import Detect, Detection, NotDetected

from edgeaudio_runtime import wyoming_server
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.cli import main
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.wyoming_catalogue import Catalogue
from edgeaudio_runtime.wyoming_server import serve


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)


@contextlib.asynccontextmanager
async def serving(*bundles: Path, channel: int | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """A server of ``bundles`` on a free port: the port, and what it tells."""
    log: list[str] = []
    catalogue = Catalogue([open_bundle(path) for path in bundles], languages=("en",))
    task = asyncio.create_task(serve(catalogue, "tcp://127.0.0.1:0", channel=channel, tell=log.append))
    while not log:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    try:
        yield int(log[0].rsplit(":", 1)[1]), log
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # A server that leaves threads behind would keep its process from ending.
        assert [t for t in threading.enumerate() if t.name.startswith("edgeaudio")] == []


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


async def say(
    client: AsyncClient,
    pcm: np.ndarray,
    *,
    rate: int = 16000,
    width: int = 2,
    channels: int = 1,
    timestamps: bool = True,
) -> None:
    """What Home Assistant sends: a start and chunks of 30 ms."""
    form = {"rate": rate, "width": width, "channels": channels}
    await client.write_event(AudioStart(**form).event())
    data, size = pcm.tobytes(), rate * 3 // 100 * width * channels
    for index, start in enumerate(range(0, len(data), size)):
        stamp = 5000 + 30 * index if timestamps else None
        await client.write_event(AudioChunk(**form, audio=data[start : start + size], timestamp=stamp).event())


async def stop_and_read(client: AsyncClient) -> list[Event]:
    """The answers up to the one that ends the audio; the ping is answered after them."""
    await client.write_event(AudioStop().event())
    await client.write_event(Ping(text="done").event())
    events = []
    while (event := await client.read_event()) is not None and not Pong.is_type(event.type):
        events.append(event)
    return events


async def detections(client: AsyncClient) -> list[tuple[str | None, int | None]]:
    found = [Detection.from_event(e) for e in await stop_and_read(client) if Detection.is_type(e.type)]
    return [(d.name, d.timestamp) for d in found]


async def next_error(client: AsyncClient) -> str:
    event = await client.read_event()
    assert event is not None
    assert Error.is_type(event.type)
    assert await client.read_event() is None
    return Error.from_event(event).text


def test_describe_names_the_words_their_sources_and_versions(keyword_bundle: Path, ctc_bundle: Path) -> None:
    catalogue = Catalogue([open_bundle(keyword_bundle)], languages=("en",))
    (program,) = catalogue.info().wake
    assert (program.name, program.installed) == ("edgeaudio", True)
    assert [(m.name, m.phrase, m.languages) for m in program.models] == [
        ("low", "low", ["en"]),
        ("high", "high", ["en"]),
    ]
    assert all(len(model.version or "") == 12 for model in program.models)
    assert catalogue.info().asr == []
    (program,) = Catalogue([open_bundle(ctc_bundle)]).info().asr
    assert [(model.name, model.languages) for model in program.models] == [("bands", [])]


def test_the_sources_of_the_data_are_its_attribution(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    manifest["provenance"] = {"sources": [{"name": "Words", "licence": "CC BY 4.0"}, "?", {"name": "More"}]}
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    (program,) = Catalogue([open_bundle(own_bundle)]).info().wake
    assert program.models[0].attribution.name == "Words (CC BY 4.0), More (licence unknown)"


def test_a_label_of_two_bundles_is_named_with_its_bundle(keyword_bundle: Path, own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    (own_bundle / "manifest.json").write_text(json.dumps({**manifest, "name": "others"}))
    catalogue = Catalogue([open_bundle(keyword_bundle), open_bundle(own_bundle)])
    assert catalogue.wake_words == ("bands/low", "bands/high", "others/low", "others/high")
    with pytest.raises(SpecError, match=r"bundles=\['bands', 'bands'\] must be at least one, each of another name"):
        Catalogue([open_bundle(keyword_bundle)] * 2)


def test_a_keyword_bundle_that_needs_the_end_of_a_recording_is_refused(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    spec = replace(preset("log_mel"), utterance="signed_peak")
    values = {"features": spec.to_dict(), "features_hash": spec.hash, "mode": "windowed"}
    (own_bundle / "manifest.json").write_text(json.dumps({**manifest, **values}))
    with pytest.raises(
        SpecError, match="bands hears whole recordings, and a room never ends; serve a streaming bundle"
    ):
        Catalogue([open_bundle(own_bundle)])


def test_home_assistant_gets_its_detections(keyword_bundle: Path, pcm: np.ndarray) -> None:
    async def talk() -> None:
        async with serving(keyword_bundle) as (port, _):
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await client.write_event(Describe().event())
                event = await client.read_event()
                assert event is not None
                assert [model.name for model in Info.from_event(event).wake[0].models] == ["low", "high"]
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await client.write_event(Detect(names=["low"]).event())
                await say(client, pcm)
                # It comes while the audio is under way, with the time of a chunk after the word, which ends at 1 s.
                event = await client.read_event()
                assert event is not None
                found = Detection.from_event(event)
                assert found.name == "low"
                assert found.timestamp is not None
                assert 5900 <= found.timestamp <= 6600
                assert await detections(client) == []

    run(talk())


def test_any_word_is_detected_where_none_is_asked_for_and_the_end_says_if_none_was(
    keyword_bundle: Path, pcm: np.ndarray
) -> None:
    async def talk() -> None:
        async with serving(keyword_bundle) as (port, _), AsyncTcpClient("127.0.0.1", port) as client:
            await say(client, pcm, timestamps=False)
            found = await detections(client)
            assert [name for name, _ in found] == ["low", "high"]
            # Milliseconds of audio where the client has no clock.
            assert 900 <= (found[0][1] or 0) <= 1600
            await say(client, np.zeros(16000, np.int16))
            assert [event.type for event in await stop_and_read(client)] == [NotDetected().event().type]

    run(talk())


def test_several_clients_are_heard_apart(keyword_bundle: Path, pcm: np.ndarray) -> None:
    async def one(port: int, names: list[str] | None, samples: np.ndarray) -> list[str | None]:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Detect(names=names).event())
            await say(client, samples)
            return [name for name, _ in await detections(client)]

    async def talk() -> None:
        async with serving(keyword_bundle) as (port, _):
            quiet = np.zeros_like(pcm)
            asked = (one(port, None, pcm), one(port, ["high"], pcm), one(port, None, quiet), one(port, None, pcm))
            assert await asyncio.gather(*asked) == [["low", "high"], ["high"], [], ["low", "high"]]

    run(talk())


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(48000, 2, 1), (16000, 1, 1), (16000, 3, 1), (16000, 4, 1), (44100, 4, 2)]
)
def test_other_formats_are_converted(
    keyword_bundle: Path, pcm: np.ndarray, rate: int, width: int, channels: int
) -> None:
    soxr = pytest.importorskip("soxr")
    samples = soxr.resample(pcm.astype(np.float64), 16000, rate).clip(-32768, 32767)
    wide = (samples * 65536).astype("<i4")
    mono = {
        1: (samples / 256 + 128).astype(np.uint8),
        2: samples.astype("<i2"),
        3: np.ascontiguousarray(wide.view(np.uint8).reshape(-1, 4)[:, 1:]),
        4: wide,
    }[width]
    sent = mono if channels == 1 else np.stack([np.zeros_like(mono), mono], axis=1)

    async def talk() -> None:
        server = serving(keyword_bundle, channel=channels - 1)
        async with server as (port, _), AsyncTcpClient("127.0.0.1", port) as client:
            await say(client, sent, rate=rate, width=width, channels=channels)
            assert [name for name, _ in await detections(client)] == ["low", "high"]

    run(talk())


def test_a_ctc_bundle_transcribes(ctc_bundle: Path, keyword_bundle: Path, pcm: np.ndarray) -> None:
    async def talk(bundles: tuple[Path, ...], request: Transcribe | None) -> None:
        async with serving(*bundles) as (port, _), AsyncTcpClient("127.0.0.1", port) as client:
            if request is not None:
                await client.write_event(request.event())
            await say(client, pcm)
            (event,) = await stop_and_read(client)
            assert Transcript.from_event(event).text == "lh"

    run(talk((ctc_bundle,), Transcribe(language="en")))
    run(talk((ctc_bundle,), None))


async def send(port: int, data: bytes, *, reset: bool = False) -> bytes:
    """Bytes to a port by a plain socket that then ends, or breaks off; what comes back."""

    def talk() -> bytes:
        answer = b""
        # A server that closes with bytes unread resets the connection, and its last words may be lost.
        with socket.create_connection(("127.0.0.1", port)) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(data)
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return b""
            peer.shutdown(socket.SHUT_WR)
            while part := peer.recv(4096):
                answer += part
        return answer

    return await asyncio.to_thread(talk)


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


CHUNK = {"rate": 16000, "width": 2, "channels": 1}
GARBAGE = {
    "no JSON": (b"GET / HTTP/1.1\r\n\r\n", "a message must be JSON, this one begins with b'GET / HTTP/1.1"),
    "not UTF-8": (b"\xff\xfe\x00\n", "a message must be JSON"),
    "no object": (b"[1, 2]\n", "a message must be a JSON object, not a list"),
    "no type": (b"{}\n", "type=None of a message must be a string"),
    "endless line": (b"x" * 200_000, "a message begins with more than 65536 bytes in a line"),
    "deep": (b"[" * 60_000 + b"\n", "a message must be JSON"),
    "huge payload": (
        line(type="audio-chunk", payload_length=10**12),
        "payload_length=1000000000000 must be an integer",
    ),
    "negative": (line(type="audio-chunk", payload_length=-1), "payload_length=-1 must be an integer in 0..1048576"),
    "odd length": (line(type="audio-chunk", data_length="7"), "data_length='7' must be an integer in 0..65536"),
    "no format": (line(type="audio-start"), "audio-start: rate=None width=None channels=None must be integers"),
    "odd rate": (
        line(type="audio-start", data={**CHUNK, "rate": 0}),
        "audio-start: rate=0 width=2 channels=1 must be in",
    ),
    "data no object": (line(type="audio-start", data=[1]), "a message must be a JSON object, not a list"),
    "half a sample": (
        line(type="audio-chunk", data=CHUNK, payload_length=3) + b"abc",
        "audio-chunk of 3 bytes must be whole frames of 2",
    ),
    "stop first": (line(type="audio-stop"), "audio-stop before audio-start; send them in order"),
    "odd names": (line(type="detect", data={"names": "low"}), "detect: names='low' must be a list of strings"),
    "unknown names": (
        line(type="detect", data={"names": ["alexa"]}),
        "detect: unknown names ['alexa']; served here are ['low', 'high']",
    ),
    "no such transcriber": (line(type="transcribe"), "transcribe: unknown name None; served here are []"),
    "two channels": (
        line(type="audio-start", data={**CHUNK, "channels": 2}),
        "audio has 2 channels; send one, or start the server with --channel 0",
    ),
    "another format": (
        line(type="audio-start", data=CHUNK) + line(type="audio-chunk", data={**CHUNK, "rate": 8000}),
        "send audio-stop and audio-start in between",
    ),
}


def test_garbage_costs_one_line_and_nobody_else_anything(keyword_bundle: Path, pcm: np.ndarray) -> None:
    async def talk() -> None:
        async with serving(keyword_bundle) as (port, log), AsyncTcpClient("127.0.0.1", port) as client:
            await say(client, pcm[: len(pcm) // 2])
            for name, (data, words) in GARBAGE.items():
                before = len(log)
                answer = (await send(port, data)).decode()
                assert words.split("'")[0] in answer or not answer, name
                assert len(log) == before + 1, name
                assert words in log[-1], name
                assert log[-1].startswith("client ('127.0.0.1', "), name
                assert log[-1].endswith("; disconnected"), name
            await client.write_event(AudioChunk(**CHUNK, audio=pcm[len(pcm) // 2 :].tobytes()).event())
            assert [name for name, _ in await detections(client)] == ["low", "high"]

    run(talk())


def test_whoever_leaves_in_the_middle_costs_nothing(keyword_bundle: Path, pcm: np.ndarray) -> None:
    async def talk() -> None:
        async with serving(keyword_bundle) as (port, log):
            for data in (b"", b'{"type": "audio', line(type="audio-chunk", data=CHUNK, payload_length=9999) + b"abc"):
                assert await send(port, data) == b""
            sound = line(type="audio-chunk", data=CHUNK, payload_length=2 * len(pcm)) + pcm.tobytes()
            await send(port, sound, reset=True)
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await client.write_event(Event(type="unheard-of"))
                await say(client, pcm)
                assert [name for name, _ in await detections(client)] == ["low", "high"]
            assert len(log) == 1

    run(talk())


def test_more_clients_than_it_serves_are_refused(keyword_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming_server, "MAX_CLIENTS", 1)

    async def talk() -> None:
        async with serving(keyword_bundle) as (port, _), AsyncTcpClient("127.0.0.1", port) as first:
            await first.write_event(Ping(text="here").event())
            await first.read_event()
            async with AsyncTcpClient("127.0.0.1", port) as second:
                assert await next_error(second) == "clients=2 must be <= 1; disconnect one"

    run(talk())


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("10400", "uri='10400' must be tcp://HOST:PORT or unix://PATH"),
        ("tcp://localhost", "uri='tcp://localhost' must be tcp://HOST:PORT or unix://PATH"),
        (
            "tcp://localhost:99999",
            "uri='tcp://localhost:99999' must be tcp://HOST:PORT or unix://PATH: Port out of range",
        ),
        ("unix:///no/such/folder/socket", "cannot listen at unix:///no/such/folder/socket: No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(
    keyword_bundle: Path, uri: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(keyword_bundle), "--wyoming", uri]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_wrong_usage_is_one_line(
    keyword_bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(keyword_bundle), "--wyoming", "tcp://127.0.0.1:0", "--mic"]) == 2
    assert "--wyoming takes its audio from clients and has no gate; leave --mic and --gate out" in (
        capfd.readouterr().err
    )
    assert main(["--wyoming", "tcp://127.0.0.1:0"]) == 2
    assert "bundles=[] must be at least one" in capfd.readouterr().err
    for name in [name for name in sys.modules if name.partition(".")[0] == "wyoming"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main([str(keyword_bundle), "--wyoming", "tcp://127.0.0.1:0"]) == 2
    assert "wyoming is not installed; run: pip install 'edgeaudio-runtime[wyoming]'" in capfd.readouterr().err


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_serves_until_it_is_told_to_stop(keyword_bundle: Path, sign: int, code: int) -> None:
    # Whoever runs the tests in the background has them ignore SIGINT, and what they start inherits that.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    serve = "from edgeaudio_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", f"{heed}; {serve}", str(keyword_bundle), "--wyoming", "tcp://127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        words = process.stderr.readline()
        assert words.startswith("edgeaudio-run: serving low, high at tcp://127.0.0.1:")

        async def talk() -> None:
            async with AsyncTcpClient("127.0.0.1", int(words.rsplit(":", 1)[1])) as client:
                await client.write_event(Ping(text="there?").event())
                event = await client.read_event()
                assert event is not None
                assert Pong.from_event(event).text == "there?"
                os.kill(process.pid, sign)
                # The server lets a client that is still there go.
                assert await client.read_event() is None

        try:
            run(talk())
            assert process.wait(10) == code
            assert process.stderr.read() == ""
        finally:
            process.kill()  # else a server that does not stop would be waited for without end
