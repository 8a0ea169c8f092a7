"""Faults that cost accuracy: blame finds the part, by the answers alone. ``test_faults`` has the stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.exporting import torch_side
from edgeaudio.parity.as_trained import compare_settings, compare_with_training
from edgeaudio.parity.blame import PARTS, Part, Trained, blamed, find_blame, suspects
from edgeaudio.parity.float_view import FloatView
from edgeaudio.parity.task import LabelledClips
from edgeaudio_models.checkpoint import Checkpoint, load_checkpoint
from edgeaudio_models.corpora import load_waveforms, open_corpus
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import load_graph, save_graph
from edgeaudio_runtime.programs import load_integer_graph
from tests.parity.faults.network import all_transposed
from tests.parity.faults.planting import reseal

NAME = "kws-12-small"
N_CLIPS = 36


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    pytest.importorskip("torch", reason="the float network runs in torch: pip install 'edgeaudio[torch]'")
    return load_checkpoint(NAME)


@pytest.fixture(scope="module")
def trained(checkpoint: Checkpoint) -> Trained:
    detector = DetectorConfig.from_dict({"schema_version": 1, **checkpoint.recipe.detector})
    return Trained(
        features=checkpoint.features,
        network=torch_side(checkpoint).offline,
        detector=detector,
        labels=checkpoint.labels,
    )


@pytest.fixture(scope="module")
def clips(checkpoint: Checkpoint, real_data: Path) -> LabelledClips:
    """Clips of validation speakers, three of each label, spread over the split."""
    corpus = open_corpus(real_data / "speech_commands", labels=checkpoint.labels).select("validation")
    chosen = []
    for label in checkpoint.labels:
        of_label = [i for i, clip in enumerate(corpus.clips) if clip.label == label]
        chosen += of_label[:: max(1, len(of_label) // 3)][:3]
    corpus = replace(corpus, clips=tuple(corpus.clips[i] for i in chosen[:N_CLIPS]))
    waveforms = load_waveforms(corpus, sample_rate=16_000, n_samples=16_000, cache_folder=None)
    return LabelledClips(
        waveforms=waveforms, labels=tuple(clip.label for clip in corpus.clips), speakers=("",) * len(corpus.clips)
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return Path(shutil.copytree(entry_folder(NAME) / BUNDLE, tmp_path / "bundle"))


def sealed(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> Bundle:
    reseal(folder, change)
    return open_bundle(folder)


def other_features(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["features"].update(fields)


def swapped_labels(manifest: dict[str, Any]) -> None:
    """Neighbours exchanged, all that are reported."""
    labels = manifest["labels"]
    labels[2::2], labels[3::2] = labels[3::2], labels[2::2]


def coarse_input(manifest: dict[str, Any]) -> None:
    quant = manifest["network"]["input_quant"]
    quant["scale"] = [24 * value for value in quant["scale"]]


def with_graph(
    folder: Path,
    change: Callable[[IntegerGraph], IntegerGraph],
    promise: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Bundle:
    """The bundle with another integer graph; other engines keep the old one."""
    graph = load_graph((folder / "model.json").read_bytes(), (folder / "model.bin").read_bytes())
    save_graph(change(graph), folder / "model.json", folder / "model.bin")
    return sealed(folder, promise)


def weights_of(graph: IntegerGraph) -> list[str]:
    return [op.inputs[1] for op in graph.ops if op.kind == "conv"]


def one_scale_for_all(graph: IntegerGraph) -> IntegerGraph:
    """Depthwise weights whose channels lost their own scale for the first one's."""
    tensors = dict(graph.tensors)
    for name in weights_of(graph):
        quant = tensors[name].quant
        if graph.constants[name].shape[3] == 1 and quant is not None:
            scale = (max(quant.scale),) * len(quant.scale)
            tensors[name] = replace(tensors[name], quant=replace(quant, scale=scale))
    return replace(graph, tensors=tensors)


def coarse_activations(graph: IntegerGraph) -> IntegerGraph:
    """Activations with 24 times the scale they need: a few codes are left to each."""
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        if tensor.dtype == "int8" and name not in graph.constants and name != graph.output:
            assert tensor.quant is not None
            scale = tuple(value * 24 for value in tensor.quant.scale)
            tensors[name] = replace(tensor, quant=replace(tensor.quant, scale=scale))
    biases = {op.inputs[2]: (op.inputs[0], op.inputs[1]) for op in graph.ops if op.kind == "conv"}
    data = dict(graph.constants)
    for name, (source, _) in biases.items():
        before, after = graph.tensors[source].quant, tensors[source].quant
        assert before is not None
        assert after is not None
        ratio = after.scale[0] / before.scale[0]
        quant = tensors[name].quant
        assert quant is not None
        tensors[name] = replace(
            tensors[name], quant=replace(quant, scale=tuple(value * ratio for value in quant.scale))
        )
        data[name] = np.rint(data[name] / ratio).astype(np.int32)
    return replace(graph, tensors=tensors, constants=data)


@pytest.mark.real_speech
def test_a_good_bundle_is_as_trained_and_nobody_is_to_blame(
    checkpoint: Checkpoint, trained: Trained, clips: LabelledClips
) -> None:
    bundle = open_bundle(entry_folder(NAME) / BUNDLE)
    assert all(stage.passed for stage in compare_with_training(bundle, checkpoint))
    parts = find_blame(bundle, trained, clips, program=bundle.program("auto"))
    assert [part.name for part in parts] == list(PARTS)
    assert parts[0].before > 0.8  # clips that the network mostly knows, else no fault would show
    assert blamed(parts) == []


FEATURES: dict[str, dict[str, Any]] = {
    "log10 for ln": {"log": "log10"},
    "hop of another model": {"hop_length": 320},
}


class Forgetful:
    """A program whose states are zero codes at every step: what a runtime does that resets too often."""

    def __init__(self, program: Program) -> None:
        self._program, self.engine, self.signature = program, program.engine, program.signature
        self.numerics, self.version = program.numerics, program.version

    def session(self) -> Any:
        return _ForgetfulSession(self._program.session(), self.signature.step_frames)


class _ForgetfulSession:
    def __init__(self, session: Any, step: int) -> None:
        self._session, self._step = session, step

    def run(self, codes: Any, /) -> Any:
        if len(codes) > 50:  # the whole clip in one call is right; only pieces forget
            return self._session.run(codes)
        self._session.reset()
        return self._session.run(codes)

    def reset(self) -> None:
        self._session.reset()


def planted(folder: Path, fault: str) -> tuple[Bundle, Any]:
    """The bundle with a fault, and the program that runs on the device."""
    if fault in FEATURES:
        bundle = sealed(folder, other_features(**FEATURES[fault]))
    elif fault == "swapped labels":
        bundle = sealed(folder, swapped_labels)
    elif fault == "transposed weights":
        bundle = with_graph(folder, all_transposed)
    elif fault == "one scale for all channels":
        bundle = with_graph(folder, one_scale_for_all)
    elif fault == "ranges much too wide":
        bundle = with_graph(folder, coarse_activations, coarse_input)
    else:
        bundle = open_bundle(folder)
    program: Any = bundle.program("numpy")
    if fault == "an engine with another network":
        program = NumpyProgram(all_transposed(load_integer_graph(bundle)))
    if fault == "state lost between chunks":
        program = Forgetful(program)
    if fault == "threshold out of reach":
        detector = json.loads((folder / "detector.json").read_text("utf-8"))
        (folder / "detector.json").write_text(json.dumps({**detector, "threshold": 0.9999}), "utf-8")
        bundle = open_bundle(folder)
    return bundle, program


@pytest.mark.real_speech
@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("log10 for ln", "front end"),
        ("hop of another model", "front end"),
        ("transposed weights", "weights"),
        ("one scale for all channels", "weights"),
        ("ranges much too wide", "activations"),
        ("an engine with another network", "runtime"),
        ("state lost between chunks", "streaming"),
        ("swapped labels", "labels"),
        ("threshold out of reach", "threshold"),
    ],
)
def test_blame_falls_on_the_part_with_the_fault(
    fault: str, part: str, trained: Trained, clips: LabelledClips, own: Path
) -> None:
    bundle, program = planted(own, fault)
    parts = find_blame(bundle, trained, clips, program=program)
    assert blamed(parts)[:1] == [part], [(each.name, each.before, each.after, each.verdict) for each in parts]


def part(name: str, verdict: str, loss: float, *evidence: str) -> Part:
    return Part(
        name=name, swapped="", before=0.9, after=0.9 - loss, ci95=(-loss, -loss), agreement=1.0, verdict=verdict,
        evidence=evidence,
    )  # fmt: skip


def test_the_first_stage_that_failed_says_where_to_look_first() -> None:
    parts = [
        part("front end", "non-inferior", 0.0, "feature specification: input_scale"),
        part("weights", "non-inferior", 0.0),
        part("activations", "inferior", 0.5, "quantization"),
        part("runtime", "inferior", 0.6),
    ]
    failed = compare_settings("feature specification", {"input_scale": 1.0}, {"input_scale": 32768.0})
    assert suspects(parts, [failed]) == ["front end", "runtime", "activations"]
    assert suspects(parts) == ["runtime", "activations", "front end"]
    assert suspects(parts[1:2]) == []
    assert parts[0].to_dict()["evidence"] == ["feature specification: input_scale"]
    assert "evidence" not in parts[1].to_dict()


def test_the_float_view_of_a_graph_is_the_float_network_with_rounded_weights(
    checkpoint: Checkpoint, trained: Trained
) -> None:
    bundle = open_bundle(entry_folder(NAME) / BUNDLE)
    features = np.array(bundle.golden.features[: 40 * bundle.manifest.network.step_frames])
    wanted, given = trained.network(features), FloatView(load_integer_graph(bundle))(features)
    assert given.shape == wanted.shape
    error = np.square(given - wanted).sum() / np.square(wanted).sum()
    assert 0 < 10 * np.log10(1 / error) < 60
    assert 10 * np.log10(1 / error) > 20  # weights of 8 bits
