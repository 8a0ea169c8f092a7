"""Mutated bundles: one of their files damaged, every digest made right again, so that nothing stops it at the door."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.bundle_files import MAX_FILE_BYTES, BundleFiles, limited
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.engines.boundary import signature_of
from edgeaudio_runtime.errors import BundleError, EdgeAudioError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.graph_file import load_graph
from edgeaudio_runtime.manifest import check_path
from edgeaudio_runtime.selftest import self_test
from edgeaudio_runtime.stream import AudioStream
from tests.prove.mutation import at, json_bytes, leaves, mutate_bytes, mutate_json, replace_number
from tests.runtime.conftest import golden_scene

Files = dict[str, bytes]

PCM = golden_scene()[8_000 : 8_000 + 7_777]
"""Half a second in which the first word sounds."""


class MemoryFiles:
    """A bundle that lies in memory; takes what :class:`~edgeaudio_runtime.bundle_files.DirectoryFiles` takes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def has(self, path: str) -> bool:
        return check_path(path) in self._files

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        if not self.has(path):
            raise BundleError(f"bundle lacks {path!r}; copy the whole bundle again")
        return limited(self._files[path][: limit + 1], path, limit)


def read_files(folder: Path) -> Files:
    """All files of a bundle directory by their relative paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_digests(files: Files, manifest: Any) -> None:
    """Give ``manifest`` the sizes and digests of ``files``, wherever it still names them."""
    for entry in manifest.get("artifacts", ()) if isinstance(manifest, dict) else ():
        data = files.get(entry["path"])
        if data is not None:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def mutated_manifest(files: Files, rng: random.Random) -> Files:
    """Any field of the manifest; a feature specification usually with its own hash."""
    manifest = json.loads(files["manifest.json"])
    if rng.random() < 0.4:
        manifest["features"] = mutate_json(manifest["features"], rng)
        if rng.random() < 0.9:
            manifest["features_hash"] = _hash_of(manifest["features"])
    elif rng.random() < 0.5:
        manifest["network"] = mutate_json(manifest["network"], rng)
    else:
        manifest = mutate_json(manifest, rng)
    return {**files, "manifest.json": json_bytes(manifest, rng)}


def _hash_of(features: Any) -> str:
    try:
        return FeatureSpec.from_dict(features).hash
    except (EdgeAudioError, TypeError, AttributeError):
        return "sha256:" + "0" * 64


def mutated_settings(files: Files, rng: random.Random) -> Files:
    """``detector.json`` or ``decoder.json``, which have no digest."""
    name = next(name for name in ("detector.json", "decoder.json") if name in files)
    return {**files, name: json_bytes(mutate_json(json.loads(files[name]), rng), rng)}


def mutated_graph(files: Files, rng: random.Random) -> Files:
    """The integer graph or its weights, and a manifest that promises what the mutant would be."""
    model, weights = files["model.json"], files["model.bin"]
    manifest, document = json.loads(files["manifest.json"]), json.loads(model)
    choice = rng.random()
    if choice < 0.15:
        weights = mutate_bytes(weights, rng)
        document["blob_bytes"] = len(weights)
    elif choice < 0.45:
        document, manifest = _resized(document, manifest, rng)
    else:
        document = mutate_json(document, rng)
    model = json_bytes(document, rng)
    _promise(manifest, model, weights)
    return _signed({**files, "model.json": model, "model.bin": weights}, manifest)


def _resized(document: Any, manifest: Any, rng: random.Random) -> tuple[Any, Any]:
    """One number made another wherever it stands in the graph and in the manifest's network."""
    sizes = sorted({value for path in leaves(document) if type(value := at(document, path)) is int})
    number = rng.choice(sizes)
    other = rng.choice((number + 1, number * 2, number * 100, 2**10, 2**16, 2**20, 2**26, 2**31, 2**62))
    network = replace_number(manifest["network"], number, other)
    return replace_number(document, number, other), {**manifest, "network": network}


def _promise(manifest: Any, model: bytes, weights: bytes) -> None:
    try:
        graph = load_graph(model, weights)
        signature = signature_of(graph)
    except EdgeAudioError:
        return
    own = {name: getattr(signature, name) for name in ("step_frames", "outputs_per_step", "n_features", "n_labels")}
    quants = {"input_quant": signature.input_quant.to_dict(), "output_quant": signature.output_quant.to_dict()}
    states = [
        {
            "name": state.name,
            "shape": list(graph.tensors[state.input].shape),
            "dtype": graph.tensors[state.input].dtype,
            "initial": state.initial,
        }
        for state in graph.states
    ]
    manifest["network"].update(**own, **quants, states=states)
    if own["n_labels"] < 10_000:
        manifest["labels"] = (manifest["labels"] + [f"label {i}" for i in range(own["n_labels"])])[: own["n_labels"]]
    manifest["background_labels"] = [label for label in manifest["background_labels"] if label in manifest["labels"]]


def mutated_golden(files: Files, rng: random.Random) -> Files:
    """Golden arrays (their headers most of all) or golden events."""
    name = rng.choice([name for name in sorted(files) if name.startswith("golden/")])
    if name.endswith(".json"):
        data = json_bytes(mutate_json(json.loads(files[name]), rng), rng)
    else:
        head = mutate_bytes(files[name][:128], rng)
        data = head + files[name][128:] if rng.random() < 0.7 else mutate_bytes(files[name], rng)
    return _signed({**files, name: data}, json.loads(files["manifest.json"]))


def mutated_model(files: Files, rng: random.Random, name: str) -> Files:
    """``model.onnx`` or ``model.tflite``, which the engine's own library reads."""
    data = mutate_bytes(files[name], rng)
    return _signed({**files, name: data}, json.loads(files["manifest.json"]))


def _signed(files: Files, manifest: Any) -> Files:
    with_digests(files, manifest)
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def run_bundle(files: BundleFiles, path: Path, *, engines: Sequence[str], with_selftest: bool) -> None:
    """Open, listen in two ways, and prove itself: both ways must hear the same, and say it in sense.

    Engines after the first may refuse what the first runs; where they do not, they must hear what it heard.

    Raises:
        EdgeAudioError: The bundle was refused.
        AssertionError: It was not, and the result is wrong.
    """
    bundle = Bundle(files, path=path)
    heard = _heard(bundle, bundle.program(engines[0]))
    for event in heard:
        _check_event(event.to_dict(), bundle)
    for engine in engines[1:]:
        with contextlib.suppress(EdgeAudioError):
            if _heard(bundle, bundle.program(engine)) != heard:
                raise AssertionError(f"{engine} hears something else than {engines[0]}")
    if with_selftest and bundle.has_golden:
        self_test(bundle, engine=engines[0])


def _heard(bundle: Bundle, program: Program) -> list[Event]:
    pcm = PCM if bundle.features.sample_rate <= 48_000 else PCM[:2000]
    stream = AudioStream(bundle, program=program)
    whole = stream.process(pcm) + stream.flush()
    stream = AudioStream(bundle, program=program)
    parts = [event for part in np.array_split(pcm, 3) for event in stream.process(part)]
    if parts + stream.flush() != whole:
        raise AssertionError(f"the events of {program.engine} depend on the chunks")
    return whole


def _check_event(event: dict[str, Any], bundle: Bundle) -> None:
    json.dumps(event, allow_nan=False)
    if event["event"] == "keyword":
        if event["label"] not in set(bundle.labels) - set(bundle.background_labels):
            raise AssertionError(f"event {event} names no label of the bundle")
        if not 0.0 <= event["score"] <= 1.0:
            raise AssertionError(f"event {event} has a score outside 0 to 1")
    if not event["start_s"] <= event["end_s"]:
        raise AssertionError(f"event {event} ends before it starts")
