"""100,000 mutated bundles and WAV files: one worker at a time, watched from outside, resumed where it stopped."""

from __future__ import annotations

import collections
import json
import mmap
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeaudio_runtime.errors import EdgeAudioError
from tests.prove.attack import CPU_S, LARGE, Attack
from tests.prove.environments import ROOT
from tests.runtime.conftest import write_test_bundle

SHARES = {
    "wav": 40_000, "manifest": 16_000, "graph": 16_000, "zip": 14_000, "settings": 4_000, "golden": 4_000,
    "folder": 2_000, "onnx": 2_000, "tflite": 2_000,
}  # fmt: skip
"""Mutants of each kind in a run of 100,000."""
FOREIGN = frozenset({"onnx", "tflite"})
"""Kinds that a library of others reads: their crashes are counted, not held against us."""
STUCK_S = 120.0
"""Seconds by the clock without a new mutant; the worker's own limit of processor time is far lower."""
WORKER_SPAN = 10_000
"""Mutants a worker lives for, so that a leak is none of the next one's."""


@dataclass(kw_only=True)
class Tally:
    """What became of the mutants of one kind."""

    next_seed: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    """Outcomes by name: "runs", or the error."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    """Seed and fault of those that ended as none may."""
    deaths: int = 0
    """Workers that died of a mutant."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "next_seed": self.next_seed,
            "counts": dict(self.counts),
            "findings": self.findings,
            "deaths": self.deaths,
        }

    @classmethod
    def read(cls, path: Path) -> Tally:
        """Of an earlier run, or a new one."""
        if not path.is_file():
            return cls()
        values = json.loads(path.read_text())
        return cls(**{**values, "counts": collections.Counter(values["counts"])})


def write_bases(place: Path) -> Path:
    """The bundles that are mutated: a keyword bundle with all engines, a ctc bundle, and one of the zoo."""
    engines = ("numpy", "onnxruntime", "litert")
    for task in ("ctc", "keyword"):
        if not (place / task / "manifest.json").is_file():
            write_test_bundle(place / task, task=task, engines=engines)
    if not (place / LARGE).is_dir():
        shutil.copytree(ROOT / "models/edgeaudio_models/zoo/kws-12-small/bundle", place / LARGE)
    return place


def run_kind(kind: str, n_cases: int, place: Path, *, progress: Any = None, cpu_s: float = CPU_S) -> Tally:
    """Run the mutants of ``kind`` that are still to do, up to ``n_cases``; write the tally after every worker."""
    bases, record = write_bases(place / "bases"), place / f"{kind}.json"
    tally = Tally.read(record)
    while tally.next_seed < n_cases:
        last = min(tally.next_seed + WORKER_SPAN, n_cases)
        words = [kind, tally.next_seed, last, place / f"{kind}.status", bases, cpu_s]
        _run_worker([sys.executable, "-m", "tests.prove.attack", *map(str, words)], tally, progress)
        record.write_text(json.dumps(tally.to_dict(), indent=1))
    return tally


def run_again(kind: str, seed: int, place: Path) -> int:
    """One mutant in this process, without limits: its traceback, or how it ended."""
    bases = write_bases(place / "bases")
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(kind, bases, Path(folder).resolve())
        try:
            attack.mutant(seed)()
        except EdgeAudioError as error:
            sys.stdout.write(f"refused: {error}\n")
            return 0
    sys.stdout.write("runs\n")
    return 0


def describe(kind: str, tally: Tally) -> str:
    """One line of figures."""
    outcomes = ", ".join(f"{name} {count}" for name, count in tally.counts.most_common())
    return f"{kind}: {tally.next_seed} mutants, {len(tally.findings)} findings, {tally.deaths} deaths ({outcomes})"


def _run_worker(words: list[str], tally: Tally, progress: Any) -> None:
    kind, status = words[3], Path(words[6])
    status.write_bytes(struct.pack("<q", tally.next_seed - 1))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        stop = threading.Event()
        complaints: list[str] = []
        threads = [
            threading.Thread(target=_kill_when_stuck, args=(worker, status, stop)),
            threading.Thread(target=lambda: complaints.extend(worker.stderr or ())),
        ]
        for thread in threads:
            thread.start()
        for line in worker.stdout or ():
            _take(json.loads(line), tally, kind, progress)
        code = worker.wait()
        stop.set()
        for thread in threads:
            thread.join()
    if code != 0:
        _take_death(code, kind, _seed_in(status), complaints, tally)


def _take(values: dict[str, Any], tally: Tally, kind: str, progress: Any) -> None:
    if "fault" in values:
        tally.findings.append(values)
        sys.stderr.write(f"{kind} {values['seed']}: {values['fault'][:300]}\n")
        return
    tally.next_seed = values["next"]
    tally.counts.update(values["counts"])
    if progress is not None:
        progress(kind, tally)


def _take_death(code: int, kind: str, seed: int, complaints: list[str], tally: Tally) -> None:
    if seed < tally.next_seed:
        raise RuntimeError(f"the worker ended with {code} before its first mutant:\n{''.join(complaints)}")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    name = {"SIGPROF": "hang", "SIGKILL": "hang"}.get(name, name)
    again = f"python -m tests.prove hostile --kind {kind} --seed {seed}"
    tally.findings.append({"seed": seed, "fault": name, "again": again, "stderr": "".join(complaints)[-1500:]})
    sys.stderr.write(f"{kind} {seed}: {name}; again: {again}\n")
    tally.deaths += 1
    # The counts since the last report went with the worker; the seeds before this one had no fault.
    tally.counts["unreported"] += seed - tally.next_seed
    tally.counts[name] += 1
    tally.next_seed = seed + 1


def _seed_in(status: Path) -> int:
    seed: int = struct.unpack("<q", status.read_bytes()[:8])[0]
    return seed


def _kill_when_stuck(worker: subprocess.Popen[str], status: Path, stop: threading.Event) -> None:
    with status.open("rb") as file:
        view = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
        seed, since = view[:8], time.monotonic()
        while not stop.wait(0.5):
            if view[:8] != seed:
                seed, since = view[:8], time.monotonic()
            elif time.monotonic() - since > STUCK_S:
                worker.kill()
                return
