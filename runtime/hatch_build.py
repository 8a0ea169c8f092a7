"""Compiles the native core for a wheel or the source tree; without a compiler the wheel is pure and works too."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = tuple(Path("native") / name for name in ("front_end.c", "network.c", "stream.c", "microfrontend.c"))
TARGET = Path("edgeaudio_runtime") / "native_front_end.so"
# Contraction would fuse products and sums on CPUs that can; without errno the square root is one instruction. The
# vectors are written out, so -O3 would make the library twice as large and no faster.
FLAGS = ("-std=c99", "-O2", "-fpeel-loops", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")


def compile_library(root: Path, target: Path) -> str | None:
    """Compile the C sources to ``target``, whole or not at all; return None, or why there is no library."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    strip = ["-Wl,-s"] if sys.platform == "linux" else []
    place = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [*compiler, *FLAGS, *strip, "-o", str(place), *(str(root / source) for source in SOURCES)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return (
                f"{compiler[0]} ended with {done.returncode}: {(done.stderr.strip() or 'no message').splitlines()[0]}"
            )
        os.replace(place, target)
    except OSError as error:
        return f"{compiler[0]}: {error.strerror}"
    finally:
        place.unlink(missing_ok=True)
    return None


def platform_tag() -> str:
    """The library is called through ctypes, so any Python 3 of this platform will do."""
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


class NativeFrontEndHook(BuildHookInterface[Any]):
    """Adds the library to what is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source tree for an editable installation, else into the wheel alone."""
        root = Path(self.root)
        if version == "editable":
            self._report(compile_library(root, root / TARGET))
            return
        self._place = tempfile.TemporaryDirectory(prefix="edgeaudio-native-")
        library = Path(self._place.name) / TARGET.name
        if self._report(compile_library(root, library)):
            build_data["pure_python"] = False
            build_data["tag"] = platform_tag()
            build_data["force_include"][str(library)] = TARGET.as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for the wheel."""
        if version != "editable":
            self._place.cleanup()

    def _report(self, obstacle: str | None) -> bool:
        if obstacle:
            sys.stderr.write(f"no native front end, numpy will do its work: {obstacle}\n")
        return obstacle is None
