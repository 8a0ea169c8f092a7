"""A microphone, through the package sounddevice and PortAudio."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np

from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.wav import Frames

BLOCK_S = 0.1
"""Seconds of audio the device hands over at a time."""
_MAX_WAITING = 100
"""Blocks that may wait (10 s); a device that falls further behind says so instead of filling its memory."""
_LOST_S = 5.0
"""Without a block for so long, the device is taken for lost."""
_BEHIND, _STOPPED = "behind", "stopped"


class Microphone:
    """Blocks of int16 from a sound card; listens until the stack is closed."""

    def __init__(
        self,
        stack: ExitStack,
        *,
        sample_rate: int,
        fallback: bool = False,
        device: int | str | None = None,
        n_channels: int = 1,
        seconds: float | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open the device.

        Args:
            stack: Closes the device.
            sample_rate: Hz to ask for.
            fallback: Take the device's own rate if it refuses ``sample_rate``.
            device: Number or part of the name, as ``python -m sounddevice`` lists them; None for the default.
            n_channels: Channels to open.
            seconds: How long :meth:`frames` goes on; None for ever.
            warn: Takes one line, at most once, when the device had to drop samples.

        Raises:
            AudioError: sounddevice or PortAudio is missing, there is no such device, or it refuses.
        """
        self._library = import_sounddevice()
        self.n_channels, self._seconds, self._warn = n_channels, seconds, warn
        self._blocks: queue.Queue[Any] = queue.Queue()
        self._overflowed = False
        self.name, own_rate = self._describe(device)
        for rate in dict.fromkeys((sample_rate, own_rate if fallback else sample_rate)):
            self.sample_rate = rate
            try:
                stack.enter_context(self._open(device))
                return
            except (self._library.PortAudioError, ValueError) as error:
                refusal = error
        asked = f"{self.name} refused sample_rate={self.sample_rate} with {n_channels} channels: {refusal}"
        raise AudioError(f"{asked}; try --rate {own_rate} --resample, or another --device") from refusal

    def _describe(self, device: int | str | None) -> tuple[str, int]:
        try:
            found = self._library.query_devices(device, "input")
        except (self._library.PortAudioError, ValueError) as error:
            which = "default microphone" if device is None else f"microphone device={device!r}"
            raise AudioError(f"there is no {which} ({error}); python -m sounddevice lists them") from error
        return f"microphone {found['name']!r}", round(found["default_samplerate"])

    def _open(self, device: int | str | None) -> Any:
        return self._library.RawInputStream(
            samplerate=self.sample_rate, blocksize=round(BLOCK_S * self.sample_rate), device=device,
            channels=self.n_channels, dtype="int16", callback=self._receive, finished_callback=self._finished,
        )  # fmt: skip

    def _receive(self, data: Any, frames: int, time: Any, status: Any) -> None:
        # Runs in PortAudio's thread: copies and leaves.
        if status and status.input_overflow:
            self._overflowed = True
        if self._blocks.qsize() < _MAX_WAITING:
            self._blocks.put_nowait(np.frombuffer(bytes(data), dtype=np.int16).reshape(-1, self.n_channels))
        elif self._blocks.qsize() == _MAX_WAITING:
            self._blocks.put_nowait(_BEHIND)

    def _finished(self) -> None:
        self._blocks.put_nowait(_STOPPED)

    def frames(self) -> Iterator[Frames]:
        """Blocks int16 ``[n, n_channels]`` of 0.1 s.

        Raises:
            AudioError: The device is lost, or listening falls 10 s behind it.
        """
        left = None if self._seconds is None else round(self._seconds / BLOCK_S)
        told = False
        while left is None or left > 0:
            yield self._next_block()
            left = None if left is None else left - 1
            if self._overflowed and not told:
                told = True
                self._warn(f"{self.name} dropped samples (input overflow); is the machine too busy?")

    def _next_block(self) -> Frames:
        try:
            block = self._blocks.get(timeout=_LOST_S)
        except queue.Empty:
            raise AudioError(f"{self.name} has sent nothing for {_LOST_S:g} s; was it unplugged?") from None
        if isinstance(block, str):
            if block == _BEHIND:
                raise AudioError("listening is 10 s behind the microphone; take a faster engine or a smaller bundle")
            raise AudioError(f"{self.name} has stopped; was it unplugged?")
        taken: Frames = block
        return taken


def import_sounddevice() -> Any:
    """The package; raises AudioError where it or PortAudio is missing."""
    try:
        return import_module("sounddevice")
    except ImportError as error:
        raise AudioError("sounddevice is not installed; run: pip install 'edgeaudio-runtime[mic]'") from error
    except OSError as error:  # the wheel for Linux comes without the library
        raise AudioError(f"sounddevice: {error}; on Debian run: apt install libportaudio2") from error
