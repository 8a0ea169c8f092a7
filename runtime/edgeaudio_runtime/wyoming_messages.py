"""Messages of the Wyoming protocol as a stranger sends them: read with bounds, and nothing in them believed.

A message is a line of JSON, then ``data_length`` bytes of JSON, then ``payload_length`` bytes. The package wyoming
reads them too, but takes any length.
"""

from __future__ import annotations

import json
from asyncio import StreamReader
from collections.abc import Mapping
from typing import Any

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.record import Record
from edgeaudio_runtime.wav import WavFormat

MAX_LINE_BYTES = 1 << 16
"""Of a message's first line, and of its data."""
MAX_PAYLOAD_BYTES = 1 << 20
"""Of audio in one message, 32 s at 16 kHz and 16 bits."""
_RATES, _WIDTHS, _CHANNELS = range(1000, 768_001), (1, 2, 3, 4), range(1, 65)


class Message(Record):
    """One message."""

    type: str
    """Such as "audio-chunk"."""
    data: Mapping[str, Any]
    """What the JSON says."""
    payload: bytes
    """Samples."""

    @property
    def timestamp(self) -> int | None:
        """The client's time, in its own unit."""
        value = self.data.get("timestamp")
        return value if type(value) is int else None

    def names(self, key: str) -> list[str] | None:
        """A list of names, or None; raises SpecError for anything else."""
        values = self.data.get(key)
        if values is not None and (not isinstance(values, list) or not all(isinstance(name, str) for name in values)):
            raise SpecError(f"{self.type}: {key}={values!r} must be a list of strings")
        return values

    def audio_format(self) -> WavFormat:
        """Rate, width and channels; raises SpecError where one is missing or out of range."""
        rate, width, channels = (self.data.get(key) for key in ("rate", "width", "channels"))
        if type(rate) is not int or type(width) is not int or type(channels) is not int:
            raise SpecError(f"{self.type}: rate={rate!r} width={width!r} channels={channels!r} must be integers")
        if rate not in _RATES or width not in _WIDTHS or channels not in _CHANNELS:
            ranges = f"{_RATES[0]}-{_RATES[-1]}, {_WIDTHS[0]}-{_WIDTHS[-1]} and {_CHANNELS[0]}-{_CHANNELS[-1]}"
            raise SpecError(f"{self.type}: rate={rate} width={width} channels={channels} must be in {ranges}")
        return WavFormat(sample_rate=rate, n_channels=channels, bits=8 * width, is_float=False)


async def read_message(reader: StreamReader) -> Message | None:
    """The next message, or None where the client has ended.

    Args:
        reader: With a ``limit`` of :data:`MAX_LINE_BYTES`.

    Raises:
        SpecError: Something that is no message, or a larger one than is taken.
        IncompleteReadError: The client left in the middle of one.
    """
    try:
        line = await reader.readline()
    except ValueError as error:
        raise SpecError(f"a message begins with more than {MAX_LINE_BYTES} bytes in a line") from error
    if not line.endswith(b"\n"):  # the end, or the end in the middle of a line
        return None
    head = _parsed(line)
    n_data, n_payload = _length(head, "data_length", MAX_LINE_BYTES), _length(head, "payload_length", MAX_PAYLOAD_BYTES)
    data = head.get("data") or {}
    if n_data:
        data = {**_checked(data), **_parsed(await reader.readexactly(n_data))}
    kind = head.get("type")
    if not isinstance(kind, str):
        raise SpecError(f"type={kind!r} of a message must be a string")
    payload = await reader.readexactly(n_payload) if n_payload else b""
    return Message(type=kind, data=_checked(data), payload=payload)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        return _checked(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"a message must be JSON, this one begins with {text[:16]!r}") from error


def _checked(values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SpecError(f"a message must be a JSON object, not a {type(values).__name__}")
    return values


def _length(head: Mapping[str, Any], key: str, largest: int) -> int:
    value = head.get(key) or 0
    if type(value) is not int or not 0 <= value <= largest:
        raise SpecError(f"{key}={value!r} must be an integer in 0..{largest}; send less at a time")
    return value
