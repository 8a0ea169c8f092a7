"""Talk to a speech engine that runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from typing import Any

import numpy as np

from edgeaudio_models.audio_files import Int16
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.synthesis import worker

_MMAP_THRESHOLD_BYTES = "65536"


class EngineProcess:
    """A started worker; asks are answered in order. Ends with the object or the interpreter."""

    def __init__(self, engine: str) -> None:
        """Start the worker for ``engine``, a key of ``worker.ENGINES``.

        Raises:
            SynthesisError: The engine does not start.
        """
        self._engine = engine
        # Pico reads memory it never wrote. A block this large then always comes zeroed from the kernel instead of
        # being recycled, and the same text gives the same samples whatever was said before.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": _MMAP_THRESHOLD_BYTES}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__, engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._stderr)
        self._read_line()

    def ask(self, **request: Any) -> tuple[Int16, int]:
        """Send text, voice, rate and pitch; return int16 samples and their rate in Hz.

        Raises:
            SynthesisError: The engine refuses, or died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error
        header = self._read_line()
        if "error" in header:
            raise SynthesisError(f"{self._engine}: {header['error']} for text={request.get('text')!r}")
        return self._read_samples(header["n_samples"]), header["sample_rate"]

    @property
    def alive(self) -> bool:
        """Whether the worker can still be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the worker."""
        self._finalizer()

    def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._died()
        header: dict[str, Any] = json.loads(line)
        return header

    def _read_samples(self, n_samples: int) -> Int16:
        assert self._process.stdout is not None
        data = self._process.stdout.read(2 * n_samples)
        if len(data) < 2 * n_samples:
            raise self._died()
        return np.frombuffer(data, dtype="<i2").astype(np.int16)

    def _died(self) -> SynthesisError:
        status = self._process.wait(timeout=10)
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        return SynthesisError(f"{self._engine}: the speech engine ended with status {status} ({last})")


def _end(process: subprocess.Popen[bytes], stderr: Any) -> None:
    process.kill()
    process.wait(timeout=10)
    for stream in filter(None, (process.stdin, process.stdout, stderr)):
        with suppress(BrokenPipeError):  # a process that died did not read all
            stream.close()
