"""What a worker makes its networks of: the files themselves, so that it need not see the disk they came from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeaudio.parity.float_reference import float_steps, has_float_file
from edgeaudio.parity.streams import Networks
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import ParityError


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A bundle, the engine it is heard with and, where the float network listens too, what that is made of."""

    bundle: Mapping[str, bytes]
    """Content by name, of a directory or of one packed file."""
    engine: str
    """Which of its engines, by name."""
    checkpoint: Mapping[str, bytes] | None = None
    """Of the checkpoint of the float network, where it does not travel in the bundle."""
    with_float: bool = False
    """Whether the float network listens too."""
    digest: str
    """SHA-256 over all of this."""


def origin_of(networks: Networks, checkpoint: Path | None = None) -> Origin:
    """Where these networks come from.

    Args:
        networks: What listens.
        checkpoint: What the float network was loaded from, where it is not the bundle's own.

    Raises:
        ParityError: The float network travels in no file.
    """
    bundle, with_float, trained = networks.bundle, networks.float_steps is not None, None
    files = _files(bundle.path)
    if with_float and not has_float_file(bundle):
        if checkpoint is None:
            raise ParityError(f"bundle={bundle.name!r} has no model.float.onnx to send to workers; give --checkpoint")
        trained = _files(checkpoint)
    told = [_sums(files), _sums(trained or {}), networks.program.engine, networks.program.version, with_float]
    return Origin(
        bundle=files,
        engine=networks.program.engine,
        checkpoint=trained,
        with_float=with_float,
        digest=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
    )


def open_networks(origin: Origin) -> Networks:
    """The networks of an origin; they are all in memory, nothing stays on the disk.

    Raises:
        EngineError: The engine is not installed here.
    """
    with tempfile.TemporaryDirectory(prefix="edgeaudio-") as folder:
        bundle = open_bundle(_written(origin.bundle, Path(folder) / "bundle"))
        steps = None
        if origin.with_float:
            module = None
            if origin.checkpoint is not None:
                from edgeaudio_models.checkpoint import load_checkpoint

                module = load_checkpoint(_written(origin.checkpoint, Path(folder) / "checkpoint")).module
            steps = float_steps(bundle, module)
        return Networks(bundle=bundle, program=bundle.program(origin.engine), float_steps=steps)


def _sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def _files(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _written(files: Mapping[str, bytes], folder: Path) -> Path:
    """Files in a folder; a packed bundle is the one file in it."""
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    packed = len(files) == 1 and next(iter(files)).endswith(".zip")
    return folder / next(iter(files)) if packed else folder
