"""Open a bundle: check it from end to end first, then hand out its programs, labels, settings and golden data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from edgeaudio_runtime.bounds import check_artifacts, check_boundary
from edgeaudio_runtime.bundle_files import MAX_FILE_BYTES, BundleFiles, open_files
from edgeaudio_runtime.errors import BundleError, EdgeAudioError, EngineError, SpecError
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.manifest import Artifact, Manifest

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from edgeaudio_runtime.ctc_decoder import DecoderConfig
    from edgeaudio_runtime.detector_config import DetectorConfig
    from edgeaudio_runtime.engines.base import Program
    from edgeaudio_runtime.features import FeatureSpec
    from edgeaudio_runtime.golden import Golden

_Settings = TypeVar("_Settings")

MAX_JSON_BYTES = 4 * 1024 * 1024
"""manifest.json, detector.json and the like are a few kB."""
_SPARE_BYTES = 2**16
"""Bytes read beyond what the manifest says, so that the message can tell how many there are."""
PREFERENCE = ("native", "litert", "onnxruntime", "numpy")
"""Engines from fast to always there; "auto" takes the first that can run. "native" is the C core of this package; it
runs what "numpy" runs, if the core computes all of it."""


class Bundle:
    """A model with everything a device needs, checked against its manifest. Made by :func:`open_bundle`."""

    def __init__(self, files: BundleFiles, *, path: str | os.PathLike[str]) -> None:
        """Read the manifest and verify the size and SHA-256 of every artifact it names.

        Raises:
            BundleError: Missing or altered files, a newer schema, or a manifest that contradicts itself.
        """
        self._path = path
        self._files = files
        self.manifest = Manifest.from_dict(read_json(files, "manifest.json"))
        check_artifacts([artifact.size for artifact in self.manifest.artifacts])
        for artifact in self.manifest.artifacts:
            self._verified(artifact)
        self._check_features()

    def _verified(self, artifact: Artifact) -> bytes:
        data = self._files.read(artifact.path, limit=min(MAX_FILE_BYTES, artifact.size + _SPARE_BYTES))
        if len(data) != artifact.size:
            sizes = f"has {len(data)} bytes, the manifest says {artifact.size}"
            raise BundleError(f"{artifact.path!r} {sizes}; copy the bundle again")
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise BundleError(f"{artifact.path!r} was altered: its sha256 is not the manifest's; copy the bundle again")
        return data

    def _check_features(self) -> None:
        spec, manifest = self.features, self.manifest
        if spec.hash != manifest.features_hash:
            raise BundleError(f"features_hash={manifest.features_hash!r} must be {spec.hash!r}, that of its features")
        if spec.n_features != manifest.network.n_features:
            raise BundleError(f"n_features={manifest.network.n_features} must be the features' {spec.n_features}")
        if not spec.streamable and manifest.mode == "streaming":
            raise BundleError("mode='streaming', but the features need the whole recording; export it as 'windowed'")
        check_boundary(manifest, spec)

    @cached_property
    def path(self) -> Path:
        """Where it lies."""
        from pathlib import Path

        return Path(self._path)

    @cached_property
    def features(self) -> FeatureSpec:
        """What the network hears."""
        from edgeaudio_runtime.features import FeatureSpec

        try:
            return FeatureSpec.from_dict(self.manifest.features)
        except (SpecError, TypeError) as error:
            raise BundleError(f"features in manifest.json: {error}") from error

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def task(self) -> str:
        """Either "keyword" or "ctc"."""
        return self.manifest.task

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.manifest.labels

    @property
    def background_labels(self) -> tuple[str, ...]:
        """Labels that are never reported."""
        return self.manifest.background_labels

    @cached_property
    def clock(self) -> StreamClock:
        """Frame grid, step and averaging window in one."""
        spec, network = self.features, self.manifest.network
        return StreamClock(
            sample_rate=spec.sample_rate,
            hop_length=spec.hop_length,
            win_length=spec.win_length,
            first_offset=spec.first_offset,
            step_frames=network.step_frames,
            outputs_per_step=network.outputs_per_step,
            window_frames=network.window_frames or network.receptive_field_frames,
        )

    @cached_property
    def detector_config(self) -> DetectorConfig:
        """``detector.json`` of a keyword bundle; raises BundleError for another task or a broken file."""
        from edgeaudio_runtime.detector_config import DetectorConfig

        self._check_task("keyword")
        return _parsed(DetectorConfig.from_dict, self._files, "detector.json")

    @cached_property
    def decoder_config(self) -> DecoderConfig:
        """``decoder.json`` of a ctc bundle; raises BundleError for another task or a broken file."""
        from edgeaudio_runtime.ctc_decoder import DecoderConfig

        self._check_task("ctc")
        return _parsed(DecoderConfig.from_dict, self._files, "decoder.json")

    def _check_task(self, task: str) -> None:
        if self.task != task:
            raise BundleError(f"task={self.task!r}; only a bundle for {task!r} has these settings")

    @property
    def has_golden(self) -> bool:
        """Whether golden data travel with the bundle."""
        return any(artifact.role == "golden" for artifact in self.manifest.artifacts)

    @cached_property
    def golden(self) -> Golden:
        """Golden data; raises BundleError if the bundle has none."""
        from edgeaudio_runtime.golden import Golden

        return Golden.read(self)

    @cached_property
    def parity(self) -> dict[str, Any] | None:
        """``parity.json`` as it is, or None."""
        if not self._files.has("parity.json"):
            return None
        return read_json(self._files, "parity.json")

    def read(self, path: str) -> bytes:
        """Bytes of an artifact, verified once more.

        Raises:
            BundleError: The manifest does not name ``path``, or the bytes are not those it describes.
        """
        return self._verified(self.manifest.artifact(path))

    def read_unlisted(self, path: str) -> bytes:
        """Bytes of a file the manifest does not name: itself, the settings, the certificate."""
        return self._files.read(path, limit=MAX_JSON_BYTES)

    def engines(self) -> tuple[str, ...]:
        """Engines that are installed and have an artifact here, in order of preference."""
        from edgeaudio_runtime.engines import available_engines

        installed = available_engines()
        return tuple(name for name in PREFERENCE if name in installed and name in self.manifest.engines)

    def usable_engines(self) -> tuple[str, ...]:
        """What can run here: :meth:`engines`, behind "native" where the C core computes all of the network."""
        from edgeaudio_runtime.programs import load_native

        try:
            load_native(self)
        except EdgeAudioError:
            return self.engines()
        return ("native", *self.engines())

    def program(self, engine: str = "auto") -> Program:
        """Load the artifact of an engine.

        Args:
            engine: "native", "numpy", "onnxruntime", "litert", or "auto" for the first of :data:`PREFERENCE` that can.

        Raises:
            EngineError: No such engine, not installed, or it cannot run the artifact.
            BundleError: No artifact for it, or one that contradicts the manifest.
        """
        from edgeaudio_runtime.programs import load_native, load_program

        if engine == "native":
            return load_native(self)
        if engine == "auto" and "numpy" in self.manifest.engines:
            with suppress(EngineError):
                return load_native(self)
        return load_program(self, self._chosen(engine))

    def _chosen(self, engine: str) -> str:
        if engine == "auto":
            present = self.engines()
            if not present:
                raise EngineError(f"no engine of the bundle's {list(self.manifest.engines)} is installed")
            return present[0]
        if engine not in PREFERENCE:
            raise EngineError(f"engine={engine!r} must be one of {['auto', *PREFERENCE]}")
        if engine not in self.manifest.engines:
            raise BundleError(f"the bundle has no artifact for engine={engine!r}; it has {list(self.manifest.engines)}")
        return engine


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle directory, or the same packed into a ``.zip`` (never unpacked), and verify all of it.

    Args:
        path: Directory or zip file.

    Raises:
        BundleError: Missing, incomplete, altered, newer than this runtime, or leading out of itself.
    """
    return Bundle(open_files(path), path=path)


def read_json(files: BundleFiles, path: str) -> dict[str, Any]:
    """Parse a JSON object of the bundle; raises BundleError for anything else."""
    data = files.read(path, limit=MAX_JSON_BYTES)
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}; copy the bundle again") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a JSON {type(values).__name__}, it must hold an object")
    return values


def _parsed(parse: Callable[[object], _Settings], files: BundleFiles, path: str) -> _Settings:
    try:
        return parse(read_json(files, path))
    except SpecError as error:
        raise BundleError(f"{path}: {error}") from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
