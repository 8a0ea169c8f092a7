"""Bundle writer: one integer graph into every container, with golden data and the digest of each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.arithmetic import computes_in, exact_engines
from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import save_graph
from edgeaudio_runtime.manifest import Artifact, Manifest, Network, NetworkState, Quantization
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import AudioStream


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """Everything a bundle says and holds."""

    name: str
    """Short name, for people."""
    task: str
    """"keyword" or "ctc"."""
    labels: tuple[str, ...]
    """In the order of the logits."""
    background_labels: tuple[str, ...]
    """Labels that are never reported."""
    features: FeatureSpec
    """What the network hears."""
    graph: IntegerGraph
    """What the network computes."""
    float_onnx: bytes
    """Float reference with the same explicit state."""
    latency_frames: int
    """Feature frames by which a logit vector lags."""
    receptive_field_frames: int
    """Feature frames one logit vector depends on."""
    window_frames: int | None
    """Averaging window of a keyword network."""
    quantization: Quantization
    """How the codes came about; which engines are exact is found from the graph."""
    decoding: Mapping[str, Any]
    """``detector.json`` of a keyword bundle, ``decoder.json`` of a ctc bundle."""
    provenance: Mapping[str, Any]
    """Data sources, licences, recipe, versions."""
    golden_samples: npt.NDArray[np.int16]
    """PCM ``[n]`` that the self-test replays; a second or a few."""


Entry = tuple[str, str | None, str]
"""File name, engine, role."""

_TARGETS: tuple[tuple[str, str, Callable[[IntegerGraph], bytes]], ...] = (
    ("model.onnx", "onnxruntime", to_onnx),
    ("model.tflite", "litert", to_tflite),
)


def write_bundle(directory: Path, contents: BundleContents, *, say: Callable[[str], None] | None = None) -> Manifest:
    """Fill an empty directory (see ``edgeaudio_runtime.staging``) and return the manifest that stands in it.

    Args:
        directory: Where to write.
        contents: What to write.
        say: Called with one line for each engine that has no artifact, and for each that computes some of the graph in
            float32.

    Raises:
        SpecError: The features do not fit the graph, or cannot stream.
    """
    _check(contents)
    entries = _write_models(directory, contents, say or (lambda line: None))
    _write_json(directory / _decoding_name(contents.task), contents.decoding)
    # The events of the golden data come from the bundle itself, so it must open once without them.
    _write_manifest(directory, contents, entries)
    entries += [(path, None, "golden") for path in _write_golden(directory, contents)]
    return _write_manifest(directory, contents, entries)


def _check(contents: BundleContents) -> None:
    frame = contents.graph.input_tensor.shape[2] * contents.graph.input_tensor.shape[3]
    if contents.features.n_features != frame:
        raise SpecError(f"n_features={contents.features.n_features} must be the {frame} that the graph reads")
    if not contents.features.streamable:
        raise SpecError(
            "the feature specification needs the whole utterance; a streaming bundle takes its streamable preset"
        )
    if contents.graph.output_tensor.shape[3] != len(contents.labels):
        raise SpecError(
            f"{len(contents.labels)} labels given; the graph has {contents.graph.output_tensor.shape[3]} outputs"
        )


def _write_models(directory: Path, contents: BundleContents, say: Callable[[str], None]) -> list[Entry]:
    save_graph(contents.graph, directory / "model.json", directory / "model.bin")
    entries: list[Entry] = [("model.json", "numpy", "model"), ("model.bin", "numpy", "weights")]
    for path, engine, to_target in _TARGETS:
        try:
            (directory / path).write_bytes(to_target(contents.graph))
        except ExportError as error:
            say(f"no {path}: {error}")
            continue
        entries.append((path, engine, "model"))
        _say_what_widens(contents.graph, engine, say)
    (directory / "model.float.onnx").write_bytes(contents.float_onnx)
    return [*entries, ("model.float.onnx", None, "reference")]


def _say_what_widens(graph: IntegerGraph, engine: str, say: Callable[[str], None]) -> None:
    own, there = computes_in(graph, "numpy"), computes_in(graph, engine)
    widened = [name for name, kind in there.items() if kind != own[name]]
    if widened:
        say(
            f"{engine} computes {len(widened)} of {len(own)} operations in float32, having no int16 kernels for them; "
            "its codes are close, not equal"
        )


def _write_golden(directory: Path, contents: BundleContents) -> list[str]:
    graph, pcm = contents.graph, contents.golden_samples
    features = compute_features(contents.features, pcm, multiple_of=graph.step_frames)
    assert graph.input_tensor.quant is not None
    codes = quantize(features, graph.input_tensor.quant)
    logits = NumpyProgram(graph).session().run(codes)
    stream = AudioStream(open_bundle(directory), engine="numpy")
    events = [event.to_dict() for event in (*stream.process(pcm), *stream.flush())]
    golden = Golden(
        pcm=pcm, features=features, codes=codes, logits=logits, config=dict(contents.decoding), events=events
    )
    files = golden.to_files()
    (directory / "golden").mkdir()
    for path, data in files.items():
        (directory / path).write_bytes(data)
    return list(files)


def _write_manifest(directory: Path, contents: BundleContents, entries: list[Entry]) -> Manifest:
    manifest = Manifest(
        name=contents.name,
        task=contents.task,
        mode="streaming",
        labels=contents.labels,
        background_labels=contents.background_labels,
        features=contents.features.to_dict(),
        features_hash=contents.features.hash,
        network=_network(contents),
        quantization=replace(contents.quantization, exact_engines=exact_engines(contents.graph)),
        provenance=contents.provenance,
        artifacts=tuple(_artifact(directory, path, engine, role) for path, engine, role in entries),
    )
    _write_json(directory / "manifest.json", manifest.to_dict())
    return manifest


def _network(contents: BundleContents) -> Network:
    graph = contents.graph
    before, after = graph.input_tensor, graph.output_tensor
    assert before.quant is not None
    assert after.quant is not None
    states = tuple(
        NetworkState(
            name=state.name,
            shape=graph.tensors[state.input].shape,
            dtype=graph.tensors[state.input].dtype,
            initial=state.initial,
        )
        for state in graph.states
    )
    return Network(
        step_frames=graph.step_frames,
        outputs_per_step=graph.outputs_per_step,
        n_features=contents.features.n_features,
        n_labels=len(contents.labels),
        latency_frames=contents.latency_frames,
        window_frames=contents.window_frames,
        receptive_field_frames=contents.receptive_field_frames,
        input_quant=before.quant,
        output_quant=after.quant,
        states=states,
    )


def _artifact(directory: Path, path: str, engine: str | None, role: str) -> Artifact:
    data = (directory / path).read_bytes()
    return Artifact(path=path, engine=engine, role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _decoding_name(task: str) -> str:
    return "detector.json" if task == "keyword" else "decoder.json"


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=False, ensure_ascii=False) + "\n", encoding="utf-8")
