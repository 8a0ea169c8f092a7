"""The runtime on emulated aarch64 (qemu-user): its tests, the C front end, and the same codes, events and features.

Emulation proves numbers, never speed. Everything is fetched by ordinary clients: a Debian root file system by
mmdebstrap, wheels by pip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.prove.environments import ROOT
from tests.runtime.conftest import write_test_bundle

TOOLS = {
    "qemu-aarch64": "qemu-user",
    "mmdebstrap": "mmdebstrap",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}
"""Program to the Debian packages it comes in."""
CPU = "cortex-a72"
"""Not "max": under it XNNPACK computes wrong results in qemu 7.2."""
PYTHON_VERSION = "3.11"
PACKAGES = "python3.11-minimal,libpython3.11-stdlib,libstdc++6,libgomp1,zlib1g"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert", "pytest", "hypothesis")
FEATURE_ATOL = 1e-3
"""The self-test's own: libraries of two machines differ in the last bits, which a logarithm magnifies at its floor."""
CPUINFO = """\
processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
TESTS = (
    "test_kernels.py", "test_requantization.py", "test_quantization.py", "test_engines.py", "test_graph.py",
    "test_front_end.py", "test_front_end_native.py", "test_detector.py", "test_ctc_decoder.py", "test_stream.py",
    "test_selftest.py", "test_bundle.py", "test_wav.py",
)  # fmt: skip
"""Files of the runtime's tests that neither start processes nor need the build side."""

Say = Callable[[str], None]


def missing_tools() -> list[str]:
    """What is not installed here, each with the packages that bring it."""
    return [f"{name} (apt-get install {packages})" for name, packages in TOOLS.items() if not shutil.which(name)]


def prepare(place: Path, say: Say) -> None:
    """Root file system, wheels, and the runtime with its C library for aarch64; what is there stays."""
    place.mkdir(parents=True, exist_ok=True)
    root, site = place / "rootfs", place / "site"
    if not (root / "usr/bin/python3.11").exists():
        say("arm: fetching a root file system")
        options = ["--mode=root", "--variant=extract", "--arch=arm64", f"--include={PACKAGES}"]
        _run(["mmdebstrap", *options, "bookworm", str(root)])
    # onnxruntime and LiteRT read it, and die where they find the host's.
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text("".join(CPUINFO.format(i) for i in range(2)))
    if not (site / "numpy").exists():
        say("arm: fetching wheels")
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON_VERSION]
        _run([sys.executable, "-m", "pip", "install", "-q", *options, *platforms, "--target", str(site), *WHEELS])
    shutil.rmtree(place / "runtime", ignore_errors=True)
    shutil.copytree(ROOT / "runtime/edgeaudio_runtime", place / "runtime/edgeaudio_runtime", ignore=_IGNORED)
    compile_for_arm(place / "runtime/edgeaudio_runtime/native_front_end.so")


_IGNORED = shutil.ignore_patterns("__pycache__", "*.so")


def compile_for_arm(target: Path) -> None:
    """Build the native front end with the flags of the wheel."""
    before = os.environ.get("CC")
    os.environ["CC"] = "aarch64-linux-gnu-gcc"
    try:
        obstacle = _hatch_build().compile_library(ROOT / "runtime", target)
    finally:
        os.environ.pop("CC")
        if before is not None:
            os.environ["CC"] = before
    if obstacle:
        raise RuntimeError(f"the C front end does not compile for aarch64: {obstacle}")


def _hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "runtime/hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emulated(place: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python for aarch64 with ``words``."""
    root = place.resolve() / "rootfs"
    paths = [place.resolve() / "site", place.resolve() / "runtime", ROOT]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = ["qemu-aarch64", "-cpu", CPU, "-L", str(root), str(root / "usr/bin/python3.11"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def prove(place: Path, say: Say) -> list[str]:
    """Run the probe here and there and compare; return what differs and may not."""
    bundles = [str(path) for path in _bundles(place)]
    script = str(Path(__file__).with_name("arm_probe.py"))
    reports = []
    for side in ("host", "arm"):
        output = place / side
        output.mkdir(exist_ok=True)
        say(f"arm: probing on {side}")
        words = [script, str(output.resolve()), *bundles]
        done = emulated(place, words) if side == "arm" else _run([sys.executable, *words])
        if done.returncode:
            return [f"the probe ended with {done.returncode} on {side}: {done.stderr.strip()[-2000:]}"]
        reports.append(json.loads(done.stdout.splitlines()[-1]))
        (output / "report.json").write_text(json.dumps(reports[-1], indent=1))
    found = [*compare(*reports), *_compare_features(place, reports[1], say)]
    versions = {name: engine["version"] for name, engine in _engines(reports[1])}
    say(f"arm: {reports[1]['machine']}, numpy {reports[1]['numpy']}, {versions}")
    return found


def _bundles(place: Path) -> Iterator[Path]:
    for task in ("keyword", "ctc"):
        path = place / "bundles" / task
        if not (path / "manifest.json").is_file():
            write_test_bundle(path, task=task, engines=("numpy", "onnxruntime", "litert"))
        yield path.resolve()
    for path in sorted((ROOT / "models/edgeaudio_models/zoo").glob("*/bundle")):
        link = place.resolve() / "bundles" / path.parent.name
        if not link.exists():
            link.symlink_to(path)
        yield link


def _engines(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for bundle, entry in report["bundles"].items():
        for name, engine in entry["engines"].items():
            yield f"{bundle} on {name}", engine


def compare(host: dict[str, Any], arm: dict[str, Any]) -> list[str]:
    """Codes to logits to events must be the same in every bit, PCM to events the same decisions."""
    found = []
    there = dict(_engines(arm))
    for bundle, entry in host["bundles"].items():
        lost = set(entry["front_ends"]) - set(arm["bundles"].get(bundle, {"front_ends": ()})["front_ends"])
        found += [f"{bundle}: the {name} front end did not run" for name in sorted(lost)]
    for name, here in _engines(host):
        if name not in there:
            found.append(f"{name} did not run")
            continue
        other = there[name]
        if here["logits"] != other["logits"]:
            found.append(f"{name}: logits differ, {other['logits_off']} of them from the golden ones")
        if here["codes_to_events"] != other["codes_to_events"]:
            found.append(f"{name}: the events of the same codes differ")
        for front_end, events in here["pcm_to_events"].items():
            if _decisions(events) != _decisions(other["pcm_to_events"].get(front_end, [])):
                found.append(f"{name}: the {front_end} front end leads to other decisions")
        if not other["selftest"]:
            found.append(f"{name}: the self-test failed: {other['failed_stages']}")
    return found


def _decisions(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(event.get(name) for name in ("event", "label", "text", "final")) for event in events]


def _compare_features(place: Path, arm: dict[str, Any], say: Say) -> Iterator[str]:
    for bundle, entry in arm["bundles"].items():
        for front_end in entry["front_ends"]:
            here, there = (np.load(place / side / f"{bundle}.{front_end}.npy") for side in ("host", "arm"))
            worst = float(np.max(np.abs(here - there), initial=0.0)) if here.shape == there.shape else np.inf
            say(
                f"arm: {bundle}, {front_end} front end: {np.mean(here == there):.2%} of features equal, off {worst:.1e}"
            )
            if worst > FEATURE_ATOL:
                yield f"{bundle}: features of the {front_end} front end are {worst} off"


def run_tests(place: Path, say: Say) -> tuple[int, str]:
    """The runtime's own tests under emulation: exit code and last line."""
    say("arm: running the runtime's tests; emulated, they take minutes")
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnknownMarkWarning"]
    done = emulated(place, ["-m", "pytest", *options, *(f"tests/runtime/{name}" for name in TESTS)])
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-1000:]]
    for line in lines:
        if line.startswith(("FAILED", "ERROR", "SKIPPED")):
            say(f"arm: {line}")
    return done.returncode, lines[-1]


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return done
