"""How a fault gets into a bundle: files changed and sealed again, or code that runs exchanged for other code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import load_graph, save_graph
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import AudioStream

Manifest = dict[str, Any]
Plant = Callable[[Path, pytest.MonkeyPatch], None]
"""Puts a fault into the bundle in a folder, or into code through the patch."""
Damage = Callable[[IntegerGraph], IntegerGraph]

LOADING = "loading"
"""Where a fault is caught whose bundle does not open or whose artifact does not load."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One small real fault, and what must come of it."""

    name: str
    """What is wrong."""
    place: str
    """Where a user would have it."""
    plant: Plant
    """Makes it."""
    caught: str
    """First stage that fails, or :data:`LOADING`."""
    part: str
    """Part of the pipeline that blame names; of what does not load, empty."""
    names: str
    """What the stage, or the message, names."""


def reseal(folder: Path, change: Callable[[Manifest], None] = lambda manifest: None) -> None:
    """Write ``change`` and the present digests into the manifest, as someone who means it would."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    change(manifest)
    manifest["features_hash"] = FeatureSpec.from_dict(manifest["features"]).hash
    for entry in manifest["artifacts"]:
        data = (folder / entry["path"]).read_bytes()
        entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def graph_of(folder: Path) -> IntegerGraph:
    """The integer graph of a bundle."""
    return load_graph((folder / "model.json").read_bytes(), (folder / "model.bin").read_bytes())


def manifest_with(change: Callable[[Manifest], None]) -> Plant:
    """A fault in the manifest."""
    return lambda folder, patch: reseal(folder, change)


def features_with(**fields: Any) -> Plant:
    """A bundle whose front end is specified otherwise than it was trained."""

    def change(manifest: Manifest) -> None:
        assert {key: manifest["features"][key] for key in fields} != fields
        manifest["features"].update(fields)

    return manifest_with(change)


def settings_with(**fields: Any) -> Plant:
    """A bundle with other settings of the detector."""

    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        settings = json.loads((folder / "detector.json").read_text("utf-8"))
        (folder / "detector.json").write_text(json.dumps({**settings, **fields}), "utf-8")

    return plant


def network_with(damage: Damage, change: Callable[[Manifest, IntegerGraph], None] | None = None) -> Plant:
    """A bundle that was exported wrong: every artifact and the golden data are of the damaged graph."""

    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        graph = damage(graph_of(folder))
        save_graph(graph, folder / "model.json", folder / "model.bin")
        write_onnx(folder, graph)
        write_tflite(folder, graph)
        reseal(folder, lambda manifest: promise(manifest, graph) if change is None else change(manifest, graph))
        write_golden(folder)

    return plant


def promise(manifest: Manifest, graph: IntegerGraph) -> None:
    """The boundary and the states of a graph, as a manifest has them."""
    for name, tensor in (("input_quant", graph.input_tensor), ("output_quant", graph.output_tensor)):
        assert tensor.quant is not None
        manifest["network"][name] = tensor.quant.to_dict()
    for entry, state in zip(manifest["network"]["states"], graph.states, strict=True):
        entry["initial"] = state.initial


def artifact_with(write: Callable[[Path, IntegerGraph], None], damage: Damage) -> Plant:
    """A bundle one of whose files is of another network."""

    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        write(folder, damage(graph_of(folder)))
        reseal(folder)

    return plant


def write_onnx(folder: Path, graph: IntegerGraph) -> None:
    """``model.onnx`` of a graph."""
    from edgeaudio_export.targets.onnx_target import to_onnx

    (folder / "model.onnx").write_bytes(to_onnx(graph))


def write_tflite(folder: Path, graph: IntegerGraph) -> None:
    """``model.tflite`` of a graph."""
    from edgeaudio_export.targets.tflite_target import to_tflite

    (folder / "model.tflite").write_bytes(to_tflite(graph))


def write_json(folder: Path, graph: IntegerGraph) -> None:
    """``model.json`` and ``model.bin`` of a graph."""
    save_graph(graph, folder / "model.json", folder / "model.bin")


def write_golden(folder: Path, **changed: Any) -> None:
    """Golden data that fit the bundle as it lies there, but for what is ``changed``."""
    bundle = open_bundle(folder)
    files = replace(golden_of(bundle), **changed).to_files()
    for path, data in files.items():
        (folder / path).write_bytes(data)
    reseal(folder)


def golden_of(bundle: Bundle) -> Golden:
    """What the bundle's recording yields on the numpy engine."""
    pcm, program = bundle.golden.pcm, bundle.program("numpy")
    features = compute_features(bundle.features, pcm, multiple_of=program.signature.step_frames)
    codes = quantize(features, program.signature.input_quant)
    stream = AudioStream(bundle, program=program)
    events = [event.to_dict() for event in (*stream.process(pcm), *stream.flush())]
    return Golden(
        pcm=pcm, features=features, codes=codes, logits=program.session().run(codes),
        config=bundle.detector_config.to_dict(), events=events,
    )  # fmt: skip


def damaged_file(path: str, change: Callable[[bytes], bytes]) -> Plant:
    """A file that differs from what the manifest says of it."""
    return lambda folder, patch: _rewrite(folder / path, change)


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def code_with(target: str, make: Callable[[Any], Any]) -> Plant:
    """Code that runs wrong: what stands at ``target`` ("package.module.name") exchanged for ``make`` of it."""

    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        module, _, name = target.rpartition(".")
        patch.setattr(target, make(_resolve(module, name)))

    return plant


def _resolve(module: str, name: str) -> Any:
    import importlib

    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:  # a class's own
        owner, _, class_name = module.rpartition(".")
        return getattr(getattr(importlib.import_module(owner), class_name), name)


class Altered:
    """A program whose sessions are altered."""

    def __init__(self, program: Any, alter: Callable[[Any], Any]) -> None:
        self._program, self._alter = program, alter
        self.engine, self.numerics, self.version = program.engine, program.numerics, program.version
        self.signature = program.signature

    def session(self) -> Any:
        return self._alter(self._program.session())


class OffByOne:
    """A session whose first label is one code too high, where there is room."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.reset = session.reset

    def run(self, codes: Any, /) -> Any:
        logits = self._session.run(codes)
        logits[:, 0] = np.minimum(logits[:, 0].astype(int) + 1, 127)
        return logits
