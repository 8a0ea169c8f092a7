"""The program that runs a speech engine in a process of its own: ``python worker.py pico|espeak-ng``.

Requests come as JSON lines on stdin, answers go to stdout as one JSON line, followed by ``n_samples`` int16
little-endian samples where the line has no ``error``. It imports the engine and the standard library only: a crash or a
licence of the engine stays in its process, and it starts fast.

espeak-ng carries phases and filters over from one text to the next, so each text is said by a child of a process that
has said nothing: it gives the same samples whatever was said before.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

Speak = Callable[[Mapping[str, Any]], tuple[bytes, int]]
"""Takes text, voice, rate and pitch; returns int16 samples as bytes in the machine's order, and their rate in Hz."""

PICO_SAMPLE_RATE = 16_000
PICO_VOLUME = 0.5
"""At its own volume the engine clips loud vowels."""

ESPEAK_WORDS_PER_MINUTE = 175
ESPEAK_PITCH = 50
"""The engine's own speaking rate, and the middle of its pitch scale 0 to 100."""

_ESPEAK_SYNCHRONOUS = 2
_ESPEAK_DONT_EXIT = 0x8000
_ESPEAK_UTF8 = 1
_ESPEAK_RATE = 1
_ESPEAK_PITCH_PARAMETER = 3


def open_pico() -> Speak:
    """Open SVOX Pico; rate and pitch are percentages of the voice's own."""
    import py_nanotts

    engine = py_nanotts.NanoTTS()

    def speak(request: Mapping[str, Any]) -> tuple[bytes, int]:
        pcm = engine.speak(
            request["text"],
            voice=request["voice"],
            speed=request["rate"],
            pitch=request["pitch"],
            volume=PICO_VOLUME,
        )
        return bytes(pcm), PICO_SAMPLE_RATE

    return speak


def open_espeak() -> Speak:
    """Open espeak-ng through the shared library that espeakng-loader ships."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    sample_rate = library.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, data, _ESPEAK_DONT_EXIT)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak_Initialize returned {sample_rate}; is espeak-ng-data complete?")
    pieces: list[bytes] = []

    def collect(samples: int | None, n_samples: int, _events: int | None) -> int:
        if samples and n_samples > 0:
            pieces.append(ctypes.string_at(samples, 2 * n_samples))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(collect)
    library.espeak_SetSynthCallback(callback)

    def speak(request: Mapping[str, Any]) -> tuple[bytes, int]:
        _ = callback  # the library keeps only a pointer, which must not dangle
        pieces.clear()
        library.espeak_ng_SetRandSeed(ctypes.c_long(zlib.crc32(repr(sorted(request.items())).encode())))  # of breath
        if library.espeak_SetVoiceByName(str(request["voice"]).encode()):
            raise ValueError(f"unknown voice {request['voice']!r}")
        library.espeak_SetParameter(_ESPEAK_RATE, round(ESPEAK_WORDS_PER_MINUTE * request["rate"]), 0)
        library.espeak_SetParameter(_ESPEAK_PITCH_PARAMETER, max(0, min(99, round(ESPEAK_PITCH * request["pitch"]))), 0)
        text = str(request["text"]).encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _ESPEAK_UTF8, None, None)
        return b"".join(pieces), sample_rate

    return speak


ENGINES: Mapping[str, Callable[[], Speak]] = {"pico": open_pico, "espeak-ng": open_espeak}
FORGETFUL = {"espeak-ng"} if hasattr(os, "fork") else set[str]()
"""Engines that say each text in a process of its own."""


def answer(speak: Speak, line: bytes, out: BinaryIO) -> None:
    """Answer one request; an engine's error becomes the answer's ``error``."""
    try:
        pcm, sample_rate = speak(json.loads(line))
    except (ValueError, RuntimeError, OSError) as error:
        out.write(json.dumps({"error": " ".join(str(error).split())}).encode() + b"\n")
    else:
        samples = array.array("h", pcm)
        if sys.byteorder == "big":
            samples.byteswap()
        out.write(json.dumps({"n_samples": len(samples), "sample_rate": sample_rate}).encode() + b"\n")
        out.write(samples.tobytes())
    out.flush()


def answer_in_a_child(speak: Speak, line: bytes, out: BinaryIO) -> None:
    """The same in a child process, so that this one never speaks; end with an error where the child dies."""
    child = os.fork()
    if child == 0:
        answer(speak, line, out)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise SystemExit(f"the child that spoke ended with status {status}")


def main(engine: str) -> int:
    """Serve requests until stdin ends."""
    out = sys.stdout.buffer
    speak = ENGINES[engine]()
    out.write(b"{}\n")
    out.flush()
    for line in sys.stdin.buffer:
        (answer_in_a_child if engine in FORGETFUL else answer)(speak, line, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
