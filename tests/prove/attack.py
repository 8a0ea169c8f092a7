"""One worker of the hostile inputs: runs mutants one after the other under limits, and says where it stands.

Run by :mod:`tests.prove.hostile`, which outlives it:

    python -m tests.prove.attack KIND FIRST LAST STATUS BASES [CPU_S]

The seed in hand stands in the file STATUS before the mutant runs, so that a death has a name. Limits: address space,
processor time of a mutant, files it may open.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from edgeaudio_runtime.bundle import PREFERENCE
from edgeaudio_runtime.bundle_files import open_files
from edgeaudio_runtime.errors import BundleError, EdgeAudioError
from tests.prove import mutated_bundle, mutated_wav, mutated_zip

MEMORY_BYTES = 2**30
"""Address space a mutant may take beyond what the process had when all libraries were loaded and had worked once."""
CPU_S = 10.0
"""Processor time a mutant may take; twice what the largest bundle that is allowed needs to be read."""
MAX_MESSAGE = 1000
"""Characters of an error."""
REPORT_EVERY = 200

LARGE = "zoo"
"""The base that is a network of the zoo: it costs more, and only readers of networks see more in it."""
LARGE_KINDS = ("graph", "onnx", "tflite")


class Attack:
    """The mutants of one kind, by seed."""

    def __init__(self, kind: str, bases: Path, sandbox: Path) -> None:
        self._kind, self._sandbox = kind, sandbox
        folders = [folder for folder in sorted(bases.iterdir()) if kind in LARGE_KINDS or folder.name != LARGE]
        self._bases = [mutated_bundle.read_files(folder) for folder in folders]
        (sandbox / "canary").write_bytes(b"not for the bundle's eyes")
        self._place = sandbox / "inner"
        self._place.mkdir()

    def warm_up(self) -> None:
        """Load every library that these mutants may need, and work once."""
        for seed in range(20 if self._kind == "wav" else 0):
            outcome(lambda seed=seed: mutated_wav.read_mutant(random.Random(seed)))
        for files in () if self._kind in ("wav", "watch") else self._bases:
            memory = mutated_bundle.MemoryFiles(files)
            engines = ENGINES.get(self._kind, OWN_ENGINES)
            mutated_bundle.run_bundle(memory, self._place, engines=engines, with_selftest=True)
            entries = [mutated_zip.entry_of(*item, deflated=True) for item in files.items()]
            self._run_path(self._zip(mutated_zip.archive(entries)))

    def mutant(self, seed: int) -> Callable[[], None]:
        """Make a mutant; the result runs it, and an error of ours then means that it was refused."""
        if self._kind == "watch":
            return _MISDEEDS[seed % len(_MISDEEDS)]
        rng = random.Random(f"{self._kind} {seed}")
        if self._kind == "wav":
            return lambda: mutated_wav.read_mutant(rng)
        files = rng.choice(self._bases)
        if self._kind == "zip":
            path = self._zip(mutated_zip.mutated_zip(files, rng))
            return lambda: self._run_path(path)
        if self._kind == "folder":
            path = mutated_zip.write_mutated_folder(files, self._place / "bundle", rng)
            return lambda: self._run_path(path)
        memory = mutated_bundle.MemoryFiles(_IN_MEMORY[self._kind](files, rng))
        engines = ENGINES.get(self._kind, OWN_ENGINES)
        proves = self._kind == "golden" or rng.random() < 0.1
        return lambda: mutated_bundle.run_bundle(memory, self._place, engines=engines, with_selftest=proves)

    def _zip(self, data: bytes) -> Path:
        path = self._place / "bundle.zip"
        path.write_bytes(data)
        return path

    def _run_path(self, path: Path) -> None:
        mutated_bundle.run_bundle(open_files(path), path, engines=OWN_ENGINES, with_selftest=False)

    def strays(self) -> list[str]:
        """What lies in the sandbox and should not."""
        allowed = {"canary", "inner", "inner/bundle", "inner/bundle.zip"}
        found = {path.relative_to(self._sandbox).as_posix() for path in self._sandbox.iterdir()}
        found |= {path.relative_to(self._sandbox).as_posix() for path in self._place.iterdir()}
        return sorted(found - allowed)


_IN_MEMORY: dict[str, Callable[[mutated_bundle.Files, random.Random], mutated_bundle.Files]] = {
    "manifest": mutated_bundle.mutated_manifest,
    "settings": mutated_bundle.mutated_settings,
    "graph": mutated_bundle.mutated_graph,
    "golden": mutated_bundle.mutated_golden,
    "onnx": lambda files, rng: mutated_bundle.mutated_model(files, rng, "model.onnx"),
    "tflite": lambda files, rng: mutated_bundle.mutated_model(files, rng, "model.tflite"),
}
ENGINES = {"onnx": ("onnxruntime",), "tflite": ("litert",)}
"""Engines of the kinds that others read."""
OWN_ENGINES = ("numpy", *(name for name in PREFERENCE if name not in ("numpy", "litert", "onnxruntime")))
"""Engines that read the integer graph with code of ours; numpy says what is right."""


def _crash() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    while True:
        pass


def _gorge() -> None:
    bytes(2 * MEMORY_BYTES)


def _escape() -> None:
    with contextlib.suppress(OSError):
        Path("/etc/hostname").read_bytes()


def _babble() -> None:
    raise ValueError("no error of ours")


def _behave() -> None:
    raise BundleError("refused, as it should be")


_MISDEEDS = (_behave, _crash, _hang, _gorge, _escape, _babble, _behave)
"""What kind "watch" does, to see whether it is seen."""

KINDS = ("wav", "zip", "folder", *_IN_MEMORY)


def outcome(run: Callable[[], None]) -> tuple[str, str | None]:
    """How a mutant ended, and what is wrong with that, if anything."""
    try:
        run()
    except EdgeAudioError as error:
        return type(error).__name__, _fault_of(str(error))
    except MemoryError as error:
        return "MemoryError", f"more than {MEMORY_BYTES} bytes of memory: {_where(error)}"
    except AssertionError as error:
        return "wrong", str(error)
    except Exception as error:
        return type(error).__name__, f"{type(error).__name__}: {error} {_where(error)}"
    return "runs", None


def _fault_of(message: str) -> str | None:
    if not message or not message.isprintable():
        return f"the message is not one printable line: {message[:200]!r}"
    if len(message) > MAX_MESSAGE:
        return f"the message has {len(message)} characters: {message[:200]!r}"
    return None


def _where(error: BaseException) -> str:
    trace, last = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "edgeaudio_runtime" in code.co_filename:
            last = f"at {Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return last


def watch_files(sandbox: Path) -> list[str]:
    """From now on, remember every path that is opened, made or removed and is not the bundle's own or Python's."""
    strays: list[str] = []
    homes = (str(sandbox / "inner"), *sys.path[1:], sys.prefix, sys.base_prefix, "/proc/self", "/sys/devices")
    homes = tuple(home for home in homes if len(home) > 1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(homes):
                strays.append(f"{event} {path}")
        elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork")):
            strays.append(event)

    sys.addaudithook(hook)
    return strays


_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"})


def limit_memory() -> None:
    """The address space in use, and :data:`MEMORY_BYTES` more; no core files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    """Run the mutants FIRST to LAST - 1 of a kind; findings and counts go to stdout, a JSON object a line."""
    kind, first, last = arguments[0], int(arguments[1]), int(arguments[2])
    cpu_s = float(arguments[5]) if len(arguments) > 5 else CPU_S
    # What a library prints must not stand between the lines of the report.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    with open(arguments[3], "r+b") as file, tempfile.TemporaryDirectory() as folder:
        status, sandbox = mmap.mmap(file.fileno(), 8), Path(folder).resolve()
        attack = Attack(kind, Path(arguments[4]), sandbox)
        attack.warm_up()
        strays = watch_files(sandbox)
        limit_memory()
        warnings.simplefilter("error")  # a warning on a user's screen is a finding
        counts: collections.Counter[str] = collections.Counter()
        for seed in range(first, last):
            status[:8] = struct.pack("<q", seed)
            finding = _one(attack, seed, strays, counts, cpu_s)
            if finding is not None:
                _say(report, finding)
            if (seed + 1 - first) % REPORT_EVERY == 0 or seed + 1 == last:
                _say(report, {"next": seed + 1, "counts": dict(counts)})
                counts.clear()
    return 0


def _one(
    attack: Attack, seed: int, strays: list[str], counts: collections.Counter[str], cpu_s: float
) -> dict[str, Any] | None:
    """Run one mutant under its limit of time; return what is wrong, if anything."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    run = attack.mutant(seed)
    strays.clear()  # making the mutant touches files too
    name, fault = outcome(run)
    signal.setitimer(signal.ITIMER_PROF, 0)
    escapes = [*strays, *attack.strays()]
    if escapes:
        fault = f"reached out of the bundle: {escapes[:3]}"
    counts[name] += 1
    if fault is not None:
        return {"seed": seed, "fault": fault}
    return None


def _say(report: TextIO, values: dict[str, Any]) -> None:
    report.write(json.dumps(values) + "\n")
    report.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
