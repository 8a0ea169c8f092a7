"""What an installation takes on disk: the runtime alone, and what each engine brings beside it."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTIONS = ("edgeaudio-runtime", "numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime")


def installed_bytes() -> dict[str, int]:
    """Bytes of each distribution that is installed here, byte code left out (it is written when modules are loaded)."""
    sizes = {name: _bytes_of(name) for name in DISTRIBUTIONS}
    return {name: size for name, size in sizes.items() if size is not None}


def _bytes_of(name: str) -> int | None:
    if name == "edgeaudio-runtime":  # may be an editable installation, whose files are listed nowhere
        spec = find_spec("edgeaudio_runtime")
        places = (spec.submodule_search_locations if spec is not None else None) or ()
        return _total([path for place in places for path in Path(place).rglob("*")])
    try:
        files = metadata.files(name)
    except metadata.PackageNotFoundError:
        return None
    return _total([Path(str(path.locate())) for path in files or ()])


def _total(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")
