"""The manifest of a bundle: what the model is, what it hears, what it answers, and the digest of every artifact."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar

from edgeaudio_runtime.engines.base import NetworkSignature
from edgeaudio_runtime.errors import BundleError, EdgeAudioError
from edgeaudio_runtime.quantization import REQUANTIZATIONS, QuantParams
from edgeaudio_runtime.record import Record

SCHEMA_VERSION = 3
"""The newest manifest this runtime reads, and the one it writes. Version 1 knew int8 networks only; version 2 says how
a network was quantized in full (``recipe``) and where it is exact (``exact_engines``). Version 3 knows networks that
run in windows or on whole recordings, and artifacts that were not written by this toolchain."""

TASKS = ("keyword", "ctc")
MODES = ("streaming", "windowed", "whole")
OUTPUTS = ("logits", "probabilities")
ENGINES = ("numpy", "onnxruntime", "litert")
ROLES = ("model", "weights", "reference", "golden", "card")


def _with_recipe(manifest: dict[str, Any]) -> dict[str, Any]:
    quantization = manifest.get("quantization")
    if not isinstance(quantization, Mapping):
        return manifest
    # All graphs of version 1 are int8, which the three engines share.
    return {**manifest, "quantization": {**quantization, "recipe": {}, "exact_engines": list(ENGINES)}}


def _with_window(manifest: dict[str, Any]) -> dict[str, Any]:
    network = manifest.get("network")
    if not isinstance(network, Mapping):
        return manifest
    own: dict[str, Any] = {"input_frames": None, "output": "logits", "tensors": {}, "hidden_state": False}
    return {**manifest, "network": {**network, **own}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_recipe, 2: _with_window}
"""Schema version to the function that makes such a manifest one of the next version."""

_LARGEST_COUNT = 2**31 - 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256_PREFIXED = re.compile(r"sha256:[0-9a-f]{64}")


def checked_fields(cls: type, values: object, *, what: str, optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return ``values`` as a dict that has exactly the fields of dataclass ``cls``.

    Raises:
        BundleError: ``values`` is not a JSON object, or has an unknown or a missing field; each is named.
    """
    if not isinstance(values, Mapping):
        raise BundleError(f"{what} is a JSON {type(values).__name__}, it must be an object")
    known = {entry.name for entry in fields(cls)}
    unknown, missing = sorted(set(values) - known), sorted(known - optional - set(values))
    if unknown:
        raise BundleError(f"unknown {what} fields {unknown}; this runtime knows {sorted(known)}")
    if missing:
        raise BundleError(f"{what} lacks the fields {missing}; write the bundle again")
    return dict(values)


def check_path(path: object) -> str:
    """Return a path of a bundle's file if it is relative, plain and stays inside the bundle; else raise BundleError."""
    parts = path.split("/") if isinstance(path, str) else []
    plain = isinstance(path, str) and not any(c in path for c in "\\:\0") and path.isprintable()
    if not isinstance(path, str) or not plain or any(part in ("", ".", "..") for part in parts):
        raise BundleError(f"path={path!r} must be relative, without '..' or '\\\\'; no bundle leads out of itself")
    return path


def _check_count(name: str, value: object, *, minimum: int) -> None:
    if type(value) is not int or value < minimum:
        raise BundleError(f"{name}={value!r} must be an integer >= {minimum}")
    if value > _LARGEST_COUNT:
        raise BundleError(f"{name}={value!r} must be an integer <= {_LARGEST_COUNT}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BundleError(f"{name}={value!r} must be one of {list(choices)}")


def _check_strings(name: str, values: object) -> None:
    if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
        raise BundleError(f"{name}={values!r} must be a list of strings")
    twice = _twice(values)
    if twice:
        raise BundleError(f"{name} has {twice} more than once; every entry must be unique")


def _twice(values: Sequence[str]) -> list[str]:
    # In one pass: a million labels must not take a million times a million comparisons.
    return sorted(value for value, count in Counter(values).items() if count > 1)


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _quant_params(values: object, *, what: str) -> QuantParams:
    try:
        return QuantParams.from_dict(values)  # type: ignore[arg-type]
    except (EdgeAudioError, TypeError, KeyError, ValueError) as error:
        raise BundleError(f"{what}: {error}") from error


class NetworkState(Record):
    """A tensor the network carries from step to step."""

    name: str
    shape: tuple[int, ...]
    """``(N, T, F, C)`` of the integer graph; N is 1."""
    dtype: str
    """"int8", "int16" or "float32"."""
    initial: int | float
    """Code (or value) that fills it after a reset."""

    def __post_init__(self) -> None:
        _check_choice(f"dtype of state {self.name!r}", self.dtype, ("int8", "int16", "float32"))
        if not isinstance(self.shape, tuple) or not self.shape:
            raise BundleError(f"shape={self.shape!r} of state {self.name!r} must be a list of integers >= 1")
        for size in self.shape:
            _check_count(f"shape of state {self.name!r}", size, minimum=1)
        kinds = (int, float) if self.dtype == "float32" else (int,)
        if type(self.initial) not in kinds:
            raise BundleError(f"initial={self.initial!r} of state {self.name!r} must be a number of type {self.dtype}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "initial": self.initial}

    @classmethod
    def from_dict(cls, values: object) -> NetworkState:
        """Inverse of :meth:`to_dict`; raises BundleError by name for unknown and missing fields."""
        checked = checked_fields(cls, values, what="state")
        return cls(**{**checked, "shape": _tuple(checked["shape"])})


class Network(Record):
    """The boundary of the network: step, times, quantization and state."""

    step_frames: int
    """Feature frames one step consumes."""
    outputs_per_step: int
    """Logit vectors one step yields."""
    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Values in a logit vector."""
    latency_frames: int
    """Feature frames by which a logit vector lags what it speaks of."""
    receptive_field_frames: int
    """Feature frames one logit vector depends on."""
    window_frames: int | None
    """Feature frames of the averaging window; None where the network has none (ctc)."""
    input_quant: QuantParams
    """Quantization of the feature codes."""
    output_quant: QuantParams
    """Quantization of the logit codes."""
    states: tuple[NetworkState, ...] = ()
    """In the order of the artifacts' ``state_<i>_in``."""
    input_frames: int | None = None
    """Feature frames of the window that the artifact looks at anew every step; None where it takes one step, and its
    states are all it remembers. The window ends ``latency_frames`` before the end of the step."""
    output: str = "logits"
    """"logits", or "probabilities" where softmax or sigmoid are part of the network."""
    tensors: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Names in the artifact for "features", "logits", "state_<i>_in" and "state_<i>_out", where they are others."""
    hidden_state: bool = False
    """Whether the artifact keeps state that no tensor shows, so that a reset must load it anew."""

    def __post_init__(self) -> None:
        for name in ("step_frames", "outputs_per_step", "n_features", "n_labels", "receptive_field_frames"):
            _check_count(name, getattr(self, name), minimum=1)
        _check_count("latency_frames", self.latency_frames, minimum=0)
        if self.window_frames is not None:
            _check_count("window_frames", self.window_frames, minimum=1)
        if self.input_frames is not None:
            _check_count("input_frames", self.input_frames, minimum=1)
            if self.input_frames + self.latency_frames < self.step_frames:
                raise BundleError(
                    f"step_frames={self.step_frames} must be <= input_frames + latency_frames; no frame may be left out"
                )
        _check_choice("output", self.output, OUTPUTS)
        if not isinstance(self.tensors, Mapping) or not all(isinstance(name, str) for name in self.tensors.values()):
            raise BundleError(f"tensors={self.tensors!r} must map names to names")
        if type(self.hidden_state) is not bool:
            raise BundleError(f"hidden_state={self.hidden_state!r} must be true or false")

    @property
    def artifact_signature(self) -> NetworkSignature:
        """What the artifact takes and gives: :attr:`signature`, or that of one window."""
        return replace(self.signature, step_frames=self.input_frames or self.step_frames)

    @property
    def signature(self) -> NetworkSignature:
        """The part an engine needs."""
        return NetworkSignature(
            step_frames=self.step_frames,
            n_features=self.n_features,
            outputs_per_step=self.outputs_per_step,
            n_labels=self.n_labels,
            input_quant=self.input_quant,
            output_quant=self.output_quant,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        quants = {"input_quant": self.input_quant.to_dict(), "output_quant": self.output_quant.to_dict()}
        own = {"states": [state.to_dict() for state in self.states], "tensors": dict(self.tensors)}
        return {**plain, **quants, **own}

    @classmethod
    def from_dict(cls, values: object) -> Network:
        """Inverse of :meth:`to_dict`; raises BundleError by name for unknown and missing fields."""
        checked = checked_fields(cls, values, what="network")
        if not isinstance(checked["states"], list):
            raise BundleError(f"states={checked['states']!r} must be a list")
        checked["states"] = tuple(NetworkState.from_dict(state) for state in checked["states"])
        for name in ("input_quant", "output_quant"):
            checked[name] = _quant_params(checked[name], what=name)
        return cls(**checked)


class Quantization(Record):
    """How the codes came about."""

    backend: str
    """"pt2e" or "onnxruntime"."""
    method: str
    """For example "static_w8a8"."""
    calibration: Mapping[str, Any]
    """What the ranges were measured on, for the reader."""
    requantization: str = "fp32"
    """Rule by which accumulators become codes; an engine that declares the same must agree bit for bit."""
    recipe: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The whole quantization recipe and what its recovery steps did, for the reader."""
    exact_engines: tuple[str, ...] = ENGINES
    """Engines that were measured to agree bit for bit on operations of these types; the others are held to a named
    number of codes."""

    def __post_init__(self) -> None:
        _check_choice("requantization", self.requantization, REQUANTIZATIONS)
        _check_strings("exact_engines", self.exact_engines)
        for engine in self.exact_engines:
            _check_choice("exact_engines", engine, ENGINES)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "backend": self.backend,
            "method": self.method,
            "calibration": dict(self.calibration),
            "requantization": self.requantization,
            "recipe": dict(self.recipe),
            "exact_engines": list(self.exact_engines),
        }

    @classmethod
    def from_dict(cls, values: object) -> Quantization:
        """Inverse of :meth:`to_dict`; raises BundleError by name for unknown and missing fields."""
        checked = checked_fields(cls, values, what="quantization")
        for name in ("calibration", "recipe"):
            if not isinstance(checked[name], Mapping):
                raise BundleError(f"{name}={checked[name]!r} must be an object")
        return cls(**{**checked, "exact_engines": _tuple(checked["exact_engines"])})


class Artifact(Record):
    """One file of the bundle whose bytes are fixed."""

    path: str
    """Relative to the bundle, with "/"."""
    engine: str | None
    """Engine that runs it ("numpy", "onnxruntime", "litert"), or None."""
    role: str
    """"model", "weights", "reference", "golden" or "card"."""
    sha256: str
    """64 lower-case hexadecimal digits."""
    size: int
    """Bytes."""

    def __post_init__(self) -> None:
        check_path(self.path)
        _check_choice(f"role of {self.path!r}", self.role, ROLES)
        _check_count(f"size of {self.path!r}", self.size, minimum=0)
        if self.engine is not None:
            _check_choice(f"engine of {self.path!r}", self.engine, ENGINES)
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise BundleError(f"sha256={self.sha256!r} of {self.path!r} must be 64 lower-case hexadecimal digits")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: object) -> Artifact:
        """Inverse of :meth:`to_dict`; raises BundleError by name for unknown and missing fields."""
        return cls(**checked_fields(cls, values, what="artifact"))


class Manifest(Record):
    """Everything a runtime must know before it opens an artifact; written once, never changed."""

    RESERVED: ClassVar[frozenset[str]] = frozenset({"manifest.json", "detector.json", "decoder.json", "parity.json"})
    """Files that are not artifacts: the manifest itself and those that ``tune`` and ``parity`` write later."""

    schema_version: int = SCHEMA_VERSION
    name: str
    task: str
    """"keyword" or "ctc"."""
    mode: str
    """"streaming": every frame is looked at once. "windowed": the network looks at overlapping windows, or the features
    need the whole recording. "whole": the network looks at all of a recording at its end (ONNX Runtime only)."""
    labels: tuple[str, ...]
    """In the order of the logits; for ctc the first is the blank."""
    background_labels: tuple[str, ...] = ()
    """Labels that are never reported."""
    features: Mapping[str, Any]
    """``FeatureSpec.to_dict()``."""
    features_hash: str
    """``FeatureSpec.hash``."""
    network: Network
    quantization: Quantization
    artifacts: tuple[Artifact, ...]
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Data sources, licences, recipe, tool versions."""

    def __post_init__(self) -> None:
        _check_choice("task", self.task, TASKS)
        _check_choice("mode", self.mode, MODES)
        _check_strings("labels", self.labels)
        _check_strings("background_labels", self.background_labels)
        self._check_labels()
        self._check_artifacts()
        if not isinstance(self.features_hash, str) or not _SHA256_PREFIXED.fullmatch(self.features_hash):
            raise BundleError(f"features_hash={self.features_hash!r} must be 'sha256:' and 64 hexadecimal digits")

    def _check_labels(self) -> None:
        if len(self.labels) != self.network.n_labels:
            raise BundleError(f"n_labels={self.network.n_labels} must equal the number of labels, {len(self.labels)}")
        strangers = sorted(set(self.background_labels) - set(self.labels))
        if strangers:
            raise BundleError(f"background_labels {strangers} are not in labels {list(self.labels)}")
        if self.network.input_frames is not None and self.mode != "windowed":
            raise BundleError(f"mode={self.mode!r} must be 'windowed' for a network with input_frames")
        if self.mode == "whole" and (self.network.states or self.network.hidden_state):
            raise BundleError("mode='whole' must go without states; what keeps state streams")
        if self.task == "keyword" and self.network.window_frames is None:
            raise BundleError("window_frames=null; a keyword network must say how many frames it averages")

    def _check_artifacts(self) -> None:
        paths = [artifact.path for artifact in self.artifacts]
        twice = _twice(paths)
        if twice:
            raise BundleError(f"artifacts names {twice} more than once; every path must be unique")
        reserved = sorted(self.RESERVED.intersection(paths))
        if reserved:
            raise BundleError(f"artifacts names {reserved}; these may be replaced later and have no digest in it")

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines with an artifact in the bundle, in the order of :data:`ENGINES`."""
        present = {artifact.engine for artifact in self.artifacts}
        return tuple(engine for engine in ENGINES if engine in present)

    def artifact(self, path: str) -> Artifact:
        """The entry of ``path``; raises BundleError if the manifest has none."""
        for artifact in self.artifacts:
            if artifact.path == path:
                return artifact
        raise BundleError(f"the bundle has no artifact {path!r}; it has {[entry.path for entry in self.artifacts]}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "schema_version": self.schema_version,
            "name": self.name,
            "task": self.task,
            "mode": self.mode,
            "labels": list(self.labels),
            "background_labels": list(self.background_labels),
            "features": dict(self.features),
            "features_hash": self.features_hash,
            "network": self.network.to_dict(),
            "quantization": self.quantization.to_dict(),
            "artifacts": [artifact.to_dict() for artifact in self.artifacts],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, values: object) -> Manifest:
        """Inverse of :meth:`to_dict`; reads older schema versions too.

        Raises:
            BundleError: A newer schema, an unknown or missing field, or a value that breaks its rule; each is named.
        """
        checked = checked_fields(cls, upgraded(values), what="manifest")
        if not isinstance(checked["artifacts"], list):
            raise BundleError(f"artifacts={checked['artifacts']!r} must be a list")
        for name in ("features", "provenance"):
            if not isinstance(checked[name], Mapping):
                raise BundleError(f"{name}={checked[name]!r} must be an object")
        checked["network"] = Network.from_dict(checked["network"])
        checked["quantization"] = Quantization.from_dict(checked["quantization"])
        checked["artifacts"] = tuple(Artifact.from_dict(artifact) for artifact in checked["artifacts"])
        for name in ("labels", "background_labels"):
            checked[name] = _tuple(checked[name])
        return cls(**checked)


def upgraded(values: object) -> dict[str, Any]:
    """Bring a manifest of an older schema up to :data:`SCHEMA_VERSION` step by step; refuse a newer one by name."""
    if not isinstance(values, Mapping):
        raise BundleError(f"manifest is a JSON {type(values).__name__}, it must be an object")
    manifest, version = dict(values), values.get("schema_version")
    _check_count("schema_version", version, minimum=1)
    assert isinstance(version, int)
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"schema_version={version} is newer than {SCHEMA_VERSION}, the newest this runtime reads; "
            "run: pip install --upgrade edgeaudio-runtime"
        )
    while version < SCHEMA_VERSION:
        manifest = _UPGRADES[version](manifest)
        version += 1
        manifest["schema_version"] = version
    return manifest
