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

from edgeaudio_export.deployment import Deployment, Entry, deployment_of
from edgeaudio_export.windows import Windows
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.manifest import Artifact, Manifest, Network, Quantization
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
    graph: IntegerGraph | Deployment
    """What the network computes: a graph for every engine that can, or a model for one engine alone."""
    float_onnx: bytes | None
    """Float reference with the same explicit state; None leaves it out, and the network it is of must prove it."""
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
    windows: Windows | None = None
    """Where the windows of a network lie that looks at one of its ``input_frames`` in each step and has no state; their
    latency then stands for ``latency_frames``, and their reach for ``window_frames`` of a keyword network."""
    whole: bool = False
    """Whether the network looks at a recording as a whole."""
    output: str = "logits"
    """"logits", or "probabilities" where softmax or sigmoid are part of the network."""

    @property
    def mode(self) -> str:
        """The manifest's "streaming", "windowed" or "whole"."""
        if self.whole:
            return "whole"
        return "windowed" if self.windows is not None or not self.features.streamable else "streaming"


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
    signature = deployment_of(contents.graph).signature
    if contents.features.n_features != signature.n_features:
        raise SpecError(
            f"n_features={contents.features.n_features} must be the {signature.n_features} that the graph reads"
        )
    if not contents.features.streamable and contents.windows is None and not contents.whole:
        raise SpecError(
            "the feature specification needs the whole utterance; a streaming bundle takes its streamable preset"
        )
    if signature.n_labels != len(contents.labels):
        raise SpecError(f"{len(contents.labels)} labels given; the graph has {signature.n_labels} outputs")


def _write_models(directory: Path, contents: BundleContents, say: Callable[[str], None]) -> list[Entry]:
    entries = deployment_of(contents.graph).write(directory, say)
    if contents.float_onnx is None:
        return entries
    (directory / "model.float.onnx").write_bytes(contents.float_onnx)
    return [*entries, ("model.float.onnx", None, "reference")]


def _write_golden(directory: Path, contents: BundleContents) -> list[str]:
    engine, pcm, bundle = (
        deployment_of(contents.graph).program().engine,
        contents.golden_samples,
        open_bundle(directory),
    )
    reference = bundle.program(engine)
    signature = reference.signature
    features = compute_features(contents.features, pcm, multiple_of=signature.step_frames)
    codes = quantize(features, signature.input_quant)
    logits = reference.session().run(codes)
    stream = AudioStream(bundle, program=reference)
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
        mode=contents.mode,
        labels=contents.labels,
        background_labels=contents.background_labels,
        features=contents.features.to_dict(),
        features_hash=contents.features.hash,
        network=_network(contents),
        quantization=replace(contents.quantization, exact_engines=deployment_of(contents.graph).exact_engines),
        provenance=contents.provenance,
        artifacts=tuple(_artifact(directory, path, engine, role) for path, engine, role in entries),
    )
    _write_json(directory / "manifest.json", manifest.to_dict())
    return manifest


def _network(contents: BundleContents) -> Network:
    deployment = deployment_of(contents.graph)
    signature, windows = deployment.signature, contents.windows
    if windows is not None and windows.input_frames != signature.step_frames:
        raise SpecError(f"input_frames={windows.input_frames} must be the {signature.step_frames} the network takes")
    reach = 0 if windows is None else windows.input_frames + windows.latency_frames
    return Network(
        step_frames=signature.step_frames if windows is None else windows.hop_frames,
        outputs_per_step=signature.outputs_per_step,
        n_features=signature.n_features,
        n_labels=signature.n_labels,
        latency_frames=contents.latency_frames if windows is None else windows.latency_frames,
        window_frames=reach if windows is not None and contents.task == "keyword" else contents.window_frames,
        receptive_field_frames=contents.receptive_field_frames,
        input_quant=signature.input_quant,
        output_quant=signature.output_quant,
        states=deployment.states,
        input_frames=None if windows is None else windows.input_frames,
        output=contents.output,
        tensors=deployment.tensors,
        hidden_state=deployment.hidden_state,
    )


def _artifact(directory: Path, path: str, engine: str | None, role: str) -> Artifact:
    data = (directory / path).read_bytes()
    return Artifact(path=path, engine=engine, role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _decoding_name(task: str) -> str:
    return "detector.json" if task == "keyword" else "decoder.json"


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=False, ensure_ascii=False) + "\n", encoding="utf-8")
