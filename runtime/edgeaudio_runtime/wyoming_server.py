"""A server of the Wyoming protocol, by which Home Assistant hears wake words and transcripts of bundles."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgeaudio_runtime.errors import AudioError, EdgeAudioError, EngineError, SpecError
from edgeaudio_runtime.events import Event, KeywordEvent, TranscriptEvent
from edgeaudio_runtime.listening import Ear
from edgeaudio_runtime.stream import AudioStream
from edgeaudio_runtime.wav import WavFormat, decode
from edgeaudio_runtime.wyoming_catalogue import Catalogue, Service
from edgeaudio_runtime.wyoming_messages import MAX_LINE_BYTES, Message, read_message

if TYPE_CHECKING:
    from wyoming.event import Eventable

MAX_CLIENTS = 32
"""More are refused; a client holds a network state and at most a megabyte of what it sends."""
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""A client that vanished without a word is let go after two minutes."""
Tell = Callable[[str], None]


def check_wyoming() -> None:
    """Raise EngineError unless the package wyoming is installed."""
    try:
        import wyoming.info  # noqa: F401
    except ImportError as error:
        raise EngineError("wyoming is not installed; run: pip install 'edgeaudio-runtime[wyoming]'") from error


async def serve(catalogue: Catalogue, uri: str, *, channel: int | None = None, tell: Tell = lambda line: None) -> None:
    """Serve until cancelled or told to terminate (SIGTERM).

    Args:
        catalogue: What is on offer.
        uri: ``tcp://HOST:PORT`` (port 0 for any) or ``unix://PATH``.
        channel: The one to hear where a client sends several, from 0; such clients are refused without.
        tell: Takes lines for the log; the first says where the server listens.

    Raises:
        SpecError: Another kind of address.
        AudioError: The address cannot be listened at.
    """
    stop = asyncio.Event()
    with suppress(NotImplementedError, RuntimeError, ValueError):  # not on Windows, not beside the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="edgeaudio") as threads:
        clients = _Clients(catalogue, channel, threads, tell)
        server = await _open(uri, clients)
        tell(f"serving {', '.join(_offers(catalogue))} at {_address(server)}")
        try:
            await stop.wait()
        finally:
            server.close()
            await clients.close()


def _offers(catalogue: Catalogue) -> list[str]:
    return [*catalogue.wake_words, *(service.bundle.name for service in catalogue.asr)]


async def _open(uri: str, clients: _Clients) -> asyncio.AbstractServer:
    parts = urlsplit(uri)
    try:
        if parts.scheme == "unix" and parts.path:
            return await asyncio.start_unix_server(clients.meet, parts.path, limit=MAX_LINE_BYTES)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None:
            return await asyncio.start_server(clients.meet, parts.hostname, parts.port, limit=MAX_LINE_BYTES)
    except OSError as error:
        raise AudioError(f"cannot listen at {uri}: {error.strerror or error}; choose another address") from error
    except ValueError as error:  # a port that is no number, or beyond 65535
        raise SpecError(f"uri={uri!r} must be tcp://HOST:PORT or unix://PATH: {error}") from error
    raise SpecError(f"uri={uri!r} must be tcp://HOST:PORT or unix://PATH")


def _address(server: Any) -> str:
    name = server.sockets[0].getsockname()
    return f"unix://{name}" if isinstance(name, str) else f"tcp://{name[0]}:{name[1]}"


class _Clients:
    """Everybody who is connected."""

    def __init__(self, catalogue: Catalogue, channel: int | None, threads: ThreadPoolExecutor, tell: Tell) -> None:
        self.catalogue, self.channel, self.threads, self.tell = catalogue, channel, threads, tell
        self.info = catalogue.info()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end; whatever it does costs one line."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = _Client(self, writer)
        try:
            await self._converse(client, reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # it left in the middle of a word, which is its right
        except asyncio.CancelledError:
            pass  # the server stops; asyncio would print the cancellation of a client as an error
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, client: _Client, reader: asyncio.StreamReader) -> None:
        try:
            if len(self._tasks) > MAX_CLIENTS:
                raise SpecError(f"clients={len(self._tasks)} must be <= {MAX_CLIENTS}; disconnect one")
            _keep_alive(client.writer)
            while (message := await read_message(reader)) is not None:
                await client.answer(message)
        except (ConnectionError, asyncio.IncompleteReadError):
            raise
        except EdgeAudioError as error:
            await self._refuse(client, str(error))
        except Exception as error:  # what a stranger sends must not end the server
            await self._refuse(client, f"cannot go on: {type(error).__name__}: {error}")

    async def _refuse(self, client: _Client, words: str) -> None:
        from wyoming.error import Error

        self.tell(f"client {client.address}: {words}; disconnected")
        await client.send(Error(text=words))

    async def close(self) -> None:
        """Disconnect everybody."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is None or peer.family == getattr(socket, "AF_UNIX", None):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Client:
    """One connection: what it asked for, and the streams of the audio it is sending."""

    def __init__(self, clients: _Clients, writer: asyncio.StreamWriter) -> None:
        self._clients, self.writer = clients, writer
        self.address = str(writer.get_extra_info("peername") or "on the socket")
        self._wanted: set[str] | None = None
        self._transcriber: Service | None = None if clients.catalogue.wake else clients.catalogue.asr[0]
        self._hearing: _Hearing | None = None

    async def send(self, event: Eventable) -> None:
        """Write an event; raises ConnectionError where nobody reads any more."""
        from wyoming.event import async_write_event

        if self.writer.is_closing():  # Python 3.12 and later fail on such a write with an AttributeError
            raise ConnectionResetError("the client has gone")
        await async_write_event(event.event(), self.writer)

    async def answer(self, message: Message) -> None:
        """Do what a message asks for; kinds that are not known are passed over, as the protocol wants it."""
        kinds: dict[str, Callable[[Message], Any]] = {
            "describe": self._describe, "ping": self._pong, "detect": self._detect, "transcribe": self._transcribe,
            "audio-start": self._start, "audio-chunk": self._chunk, "audio-stop": self._stop,
        }  # fmt: skip
        if message.type in kinds:
            await kinds[message.type](message)

    async def _describe(self, message: Message) -> None:
        await self.send(self._clients.info)

    async def _pong(self, message: Message) -> None:
        from wyoming.ping import Pong

        text = message.data.get("text")
        await self.send(Pong(text=text if isinstance(text, str) else None))

    async def _detect(self, message: Message) -> None:
        catalogue = self._clients.catalogue
        if not catalogue.wake:
            raise SpecError("detect: no keyword bundle is served here; serve one beside")
        names = message.names("names")
        unknown = sorted(set(names or ()) - set(catalogue.wake_words))
        if unknown:
            raise SpecError(f"detect: unknown names {unknown}; served here are {list(catalogue.wake_words)}")
        self._wanted, self._transcriber = set(names) if names else None, None

    async def _transcribe(self, message: Message) -> None:
        services = {service.bundle.name: service for service in self._clients.catalogue.asr}
        name = message.data.get("name") or next(iter(services), None)
        if name not in services:
            raise SpecError(f"transcribe: unknown name {name!r}; served here are {list(services)}")
        self._transcriber = services[name]

    async def _start(self, message: Message) -> None:
        await self._open(message.audio_format())

    async def _open(self, form: WavFormat) -> _Hearing:
        wanted = self._wanted
        if self._transcriber is not None:
            services = [self._transcriber]
        else:
            wake = self._clients.catalogue.wake
            services = [s for s in wake if wanted is None or not wanted.isdisjoint(s.names.values())]
        self._hearing = await self._in_thread(_Hearing, services, form, self._clients.channel)
        return self._hearing

    async def _chunk(self, message: Message) -> None:
        form = message.audio_format()
        hearing = self._hearing or await self._open(form)
        if form != hearing.form:
            raise SpecError(f"audio-chunk of {form} after {hearing.form}; send audio-stop and audio-start in between")
        await self._report(hearing, await self._in_thread(hearing.hear, message.payload), message.timestamp)

    async def _stop(self, message: Message) -> None:
        from wyoming.asr import Transcript
        from wyoming.wake import NotDetected

        if self._hearing is None:
            raise SpecError("audio-stop before audio-start; send them in order")
        hearing, self._hearing = self._hearing, None
        await self._report(hearing, await self._in_thread(hearing.finish), message.timestamp)
        if self._transcriber is not None:
            await self.send(Transcript(text=" ".join(hearing.texts)))
        elif not hearing.detected:
            await self.send(NotDetected())

    async def _report(self, hearing: _Hearing, heard: list[tuple[Service, Event]], timestamp: int | None) -> None:
        from wyoming.wake import Detection

        for service, event in heard:
            if isinstance(event, TranscriptEvent):
                hearing.texts += [event.text] if event.final and event.text else []
            elif isinstance(event, KeywordEvent):
                name = service.names[event.label]
                if self._wanted is None or name in self._wanted:
                    hearing.detected = True
                    # The client's own clock, whatever its unit; without one, milliseconds of audio.
                    when = round(1000 * event.detected_s) if timestamp is None else timestamp
                    await self.send(Detection(name=name, timestamp=when))

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._clients.threads, function, *arguments)


class _Hearing:
    """The streams from one ``audio-start`` to its ``audio-stop``."""

    def __init__(self, services: list[Service], form: WavFormat, channel: int | None) -> None:
        if form.n_channels > 1 and channel is None:
            raise AudioError(f"audio has {form.n_channels} channels; send one, or start the server with --channel 0")
        self.form, self.detected, self.texts = form, False, list[str]()
        self._ears = [
            (
                service,
                Ear(
                    AudioStream(service.bundle, program=service.program), sample_rate=form.sample_rate, channel=channel
                ),
            )
            for service in services
        ]

    def hear(self, payload: bytes) -> list[tuple[Service, Event]]:
        if len(payload) % self.form.frame_bytes:
            raise SpecError(f"audio-chunk of {len(payload)} bytes must be whole frames of {self.form.frame_bytes}")
        frames = decode(payload, self.form).reshape(-1, self.form.n_channels)
        return [(service, event) for service, ear in self._ears for event in ear.hear(frames)]

    def finish(self) -> list[tuple[Service, Event]]:
        return [(service, event) for service, ear in self._ears for event in ear.finish()]
