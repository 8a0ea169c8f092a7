"""The table of planted faults: what is wrong, where, which stage must catch it first and what blame must name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from tests.parity.faults import network as net
from tests.parity.faults.planting import (
    LOADING,
    Altered,
    Fault,
    OffByOne,
    Plant,
    artifact_with,
    code_with,
    damaged_file,
    features_with,
    golden_of,
    manifest_with,
    network_with,
    reseal,
    settings_with,
    write_golden,
    write_json,
    write_onnx,
    write_tflite,
)

NAME = "kws-12-small"
"""The zoo entry the faults are planted in."""
OTHER = "kws-directions"
"""The one that files of another bundle are from."""

SPECIFICATION, CODE, NETWORK, ARTIFACT, STREAM, SETTINGS, FILES = (
    "feature specification", "front end code", "network, every artifact", "artifact", "streaming code", "settings",
    "files",
)  # fmt: skip


def _specified(name: str, **fields: Any) -> Fault:
    (key,) = fields
    return Fault(
        name=name, place=SPECIFICATION, plant=features_with(**fields),
        caught="feature specification", part="front end", names=key,
    )  # fmt: skip


def _other_spec(**fields: Any) -> Callable[[Any], Any]:
    """Takes the specification as the first argument, and computes another one."""
    return lambda made: lambda spec, *rest, **named: made(replace(spec, **fields), *rest, **named)


def _samples_as_they_come(checked: Any) -> Any:
    def scale(samples: Any) -> float:
        checked(samples)
        return 1.0

    return scale


def _late_by(n: int) -> Callable[[Any], Any]:
    def make(reset: Any) -> Any:
        def later(front_end: Any) -> None:
            reset(front_end)
            front_end._fill += n
            front_end._buffer[: front_end._fill] = 0.0

        return later

    return make


def _flush_without_tail(flush: Any) -> Any:
    def end(front_end: Any, multiple_of: int = 1) -> Any:
        return flush(front_end, multiple_of)[:-multiple_of]

    return end


def _loses_short_chunks(process: Any) -> Any:
    return lambda stream, samples: process(stream, samples[:0] if len(samples) == 1 else samples)


def _no_last_step(flush: Any) -> Any:
    def end(stream: Any) -> Any:
        codes, features = flush(stream)
        return codes[:0], features

    return end


def _cut_off(made: Any) -> Any:
    def quantizer(params: Any, *, ndim: int) -> Any:
        rounded = made(params, ndim=ndim)
        return lambda real: rounded(real - np.float32(params.scale[0] / 2))

    return quantizer


def _one_off(made: Any) -> Any:
    return lambda params, *, ndim: made(replace(params, zero_point=params.zero_point + 1), ndim=ndim)


def _stale_states(run_pass: Any) -> Any:
    def run(program: Any, features: Any, states: Any, steps: int) -> Any:
        logits, after = run_pass(program, features, states, steps)
        return logits, {name: np.roll(state, 1, axis=1) for name, state in after.items()}

    return run


def _rule(rule: str) -> Callable[[Any], Any]:
    return lambda requantizer: lambda _, **parameters: requantizer(rule, **parameters)


def _reference_kernels(made: Any) -> Any:
    class Slow(made):  # type: ignore[misc]
        numerics = "fp32"

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{**named, "kernels": "reference"})

    return Slow


def _off_by_one(load: Any) -> Any:
    return lambda bundle: Altered(load(bundle), OffByOne)


def _swapped_labels(manifest: dict[str, Any]) -> None:
    labels = manifest["labels"]
    labels[2], labels[3] = labels[3], labels[2]


def _crossed_states(manifest: dict[str, Any]) -> None:
    manifest["network"]["tensors"] = {"state_2_out": "state_3_out", "state_3_out": "state_2_out"}


def _off_input(manifest: dict[str, Any]) -> None:
    manifest["network"]["input_quant"]["zero_point"] += 1


def _doubled_output(manifest: dict[str, Any]) -> None:
    quant = manifest["network"]["output_quant"]
    quant["scale"] = [2 * value for value in quant["scale"]]


def _off_initial(manifest: dict[str, Any]) -> None:
    manifest["network"]["states"][3]["initial"] += 40


def _off_graph_state(folder: Path, patch: pytest.MonkeyPatch) -> None:
    graph = json.loads((folder / "model.json").read_text("utf-8"))
    graph["states"][2]["initial"] += 9
    (folder / "model.json").write_text(json.dumps(graph), "utf-8")
    reseal(folder)


def _file_of_another(path: str) -> Plant:
    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        (folder / path).write_bytes((entry_folder(OTHER) / BUNDLE / path).read_bytes())
        reseal(folder)

    return plant


def _stale_golden(name: str) -> Plant:
    """Golden data of an earlier state of the bundle."""

    def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
        golden = golden_of(open_bundle(folder))
        earlier = {
            "features": lambda: golden.features + np.float32(0.01),
            "logits": lambda: np.roll(golden.logits, 1, axis=0),
            "events": lambda: [{**event, "score": event["score"] / 2} for event in golden.events],
        }
        write_golden(folder, **{name: earlier[name]()})

    return plant


def _settings_of_another(folder: Path, patch: pytest.MonkeyPatch) -> None:
    other = {"threshold": 0.95, "thresholds": {"go": 0.9}}
    settings = json.loads((folder / "detector.json").read_text("utf-8"))
    (folder / "detector.json").write_text(json.dumps({**settings, **other}), "utf-8")


def _less_smoothing(made: Any) -> Any:
    return lambda config, **named: made(replace(config, smoothing_s=0.04), **named)


def _flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


_FRONT_END = "edgeaudio_runtime.front_end"
_TRANSFORM = "edgeaudio_runtime.frame_transform._weights"
_NATIVE = "edgeaudio_runtime.native"
_TORCH = "edgeaudio_models.torch_front_end.TorchFrontEnd"
_STREAM = "edgeaudio_runtime.stream"
_NUMPY = "edgeaudio_runtime.engines.numpy_engine"


def _front_end(name: str, target: str, make: Callable[[Any], Any], caught: str, names: str = "") -> Fault:
    return Fault(
        name=name, place=CODE, plant=code_with(target, make), caught=caught, part="front end", names=names
    )  # fmt: skip


def _exported(name: str, damage: net.Damage, caught: str, part: str, names: str) -> Fault:
    return Fault(name=name, place=NETWORK, plant=network_with(damage), caught=caught, part=part, names=names)


def _artifact(name: str, plant: Plant, caught: str, names: str, part: str = "runtime") -> Fault:
    return Fault(name=name, place=ARTIFACT, plant=plant, caught=caught, part=part, names=names)


def _streamed(name: str, target: str, make: Callable[[Any], Any], caught: str, part: str, names: str = "") -> Fault:
    return Fault(name=name, place=STREAM, plant=code_with(target, make), caught=caught, part=part, names=names)


def _set(name: str, plant: Plant, caught: str, part: str, names: str) -> Fault:
    return Fault(name=name, place=SETTINGS, plant=plant, caught=caught, part=part, names=names)


def _refused(name: str, plant: Plant, names: str) -> Fault:
    return Fault(name=name, place=FILES, plant=plant, caught=LOADING, part="", names=names)


FAULTS: tuple[Fault, ...] = (
    _specified("Slaney instead of HTK mel", mel_scale="slaney"),
    _specified("symmetric window", window_symmetry="symmetric"),
    _specified("samples not divided by 32768", input_scale=32768.0),
    _specified("log10 for ln", log="log10"),
    _specified("hop off by one", hop_length=161),
    _specified("half a hop early", first_offset=-80),
    _specified("features clipped", clamp_max=0.0),
    _specified("highest mel frequency of another model", f_max=8000.0),
    _specified("lowest mel frequency of another model", f_min=125.0),
    _specified("pre-emphasis", preemphasis=0.97),
    _specified("another log floor", log_floor=1e-10),
    _specified("amplitude for power", power=1),
    _specified("normalization of another model", affine_offset=4.0),
    _front_end("Slaney mel in the numpy transform", _TRANSFORM, _other_spec(mel_scale="slaney"), "front end"),
    _front_end("symmetric window in the numpy transform", _TRANSFORM, _other_spec(window_symmetry="symmetric"),
               "front end"),
    _front_end("int16 not brought to -1..1", f"{_FRONT_END}.checked_scale", _samples_as_they_come, "front end"),
    _front_end("half a hop late", f"{_FRONT_END}.FrontEnd.reset", _late_by(80), "front end"),
    _front_end("last frames dropped at flush", f"{_FRONT_END}.FrontEnd.flush", _flush_without_tail, "frame count"),
    _front_end("another log floor in the C transform", f"{_NATIVE}._struct", _other_spec(log_floor=1e-8),
               "native front end"),
    _front_end("symmetric window in the C transform", f"{_NATIVE}._tables",
               _other_spec(window_symmetry="symmetric"), "native front end"),
    _front_end("Slaney area norm in the torch transform", _TORCH, _other_spec(mel_norm="slaney"),
               "training front end"),
    _exported("transposed weights", net.transposed(2), "stored weights", "weights", "pointwise"),
    _exported("one scale for a depthwise layer", net.one_scale, "stored weights", "weights", "depthwise"),
    _exported("one layer's scale doubled", net.doubled_scale("pointwise", 1), "stored weights", "weights",
              "blocks.1.pointwise"),
    _exported("weights of one channel negated", net.negated_channel, "stored weights", "weights", "blocks.1.pointwise"),
    _exported("weights of one channel lost", net.dead_channel, "stored weights", "weights", "blocks.2.depthwise"),
    _exported("float bias through 8 bits", net.coarse_bias, "stored weights", "weights", "blocks.0.pointwise"),
    _exported("relu lost", net.lost_relu, "layers", "activations", "blocks.1.depthwise"),
    _exported("range of one activation much too wide", net.wide_range, "layers", "activations", "blocks.1.depthwise"),
    _exported("a state one frame late", net.late_state(2), "states", "streaming", "block_1"),
    _exported("the average one frame late", net.late_state(5), "states", "streaming", "average"),
    _artifact("wrong zero point of a state in the manifest", manifest_with(_off_initial), "promises",
              "state block_2"),
    _artifact("wrong requantization rule", artifact_with(write_json, net.other_rule), "promises", "requantization"),
    _artifact("tflite of another network", artifact_with(write_tflite, net.all_transposed), "engine litert",
              "model.tflite"),
    _artifact("onnx with its output scale doubled", artifact_with(write_onnx, net.doubled_output),
              "engine onnxruntime", "model.onnx"),
    _artifact("onnx of another network", artifact_with(write_onnx, net.one_bias_code), "engine onnxruntime",
              "model.onnx"),
    _artifact("one state swapped with another", manifest_with(_crossed_states), "engine litert", "model.tflite"),
    _artifact("kernels of another rounding under an exact promise",
              code_with("edgeaudio_runtime.engines.litert_engine.LiteRtProgram", _reference_kernels),
              "engine litert", "model.tflite"),
    _artifact("another rounding in the numpy engine",
              code_with("edgeaudio_runtime.conv_kernels.requantizer", _rule("tflm")), "engine native", "numpy engine"),
    _artifact("C core off by one code", code_with("edgeaudio.parity.ladder.load_native", _off_by_one),
              "engine native", "C core"),
    _streamed("states of a step mixed up", f"{_NUMPY}.NumpyProgram.run_pass", _stale_states, "engine numpy",
              "runtime", "numpy engine"),
    _streamed("state not reset", f"{_NUMPY}.NumpySession.reset", lambda reset: lambda session: None, "reset numpy",
              "streaming"),
    _streamed("last chunk dropped", f"{_STREAM}.LogitStream.flush", _no_last_step, "streaming native", "streaming",
              "length"),
    _streamed("chunks of one sample lost", f"{_FRONT_END}.FrontEnd.process", _loses_short_chunks, "frame count",
              "front end"),
    _streamed("codes cut off instead of rounded", f"{_STREAM}.Quantizer", _cut_off, "streaming native", "streaming"),
    _streamed("input zero point off by one", f"{_STREAM}.Quantizer", _one_off, "streaming native", "streaming"),
    _set("swapped labels", manifest_with(_swapped_labels), "labels", "labels", "2, 3"),
    _set("threshold of another bundle", _settings_of_another, "detector settings", "threshold",
         "threshold, thresholds"),
    _set("smoothing of another bundle", settings_with(smoothing_s=1.0), "detector settings", "threshold",
         "smoothing_s"),
    _set("detector that smooths less than it should", code_with("edgeaudio_runtime.detector.KeywordDetector",
         _less_smoothing), "golden events", "threshold", "golden events"),
    _set("stale golden features", _stale_golden("features"), "golden features", "front end", "golden features"),
    _set("stale golden logits", _stale_golden("logits"), "golden logits", "runtime", "golden logits"),
    _set("stale golden events", _stale_golden("events"), "golden events", "threshold", "golden events"),
    _refused("wrong zero point of a state in the graph", _off_graph_state,
             "state 'block_1': initial=17 must be the zero point 8"),
    _refused("corrupted artifact", damaged_file("model.tflite", _flipped), "'model.tflite' was altered"),
    _refused("truncated artifact", damaged_file("model.bin", lambda data: data[:-100]), "'model.bin' has"),
    _refused("tflite of another task", _file_of_another("model.tflite"), "engine 'litert'"),
    _refused("input zero point of another model in the manifest", manifest_with(_off_input), "has input_quant="),
    _refused("output scale doubled in the manifest", manifest_with(_doubled_output), "has output_quant="),
)  # fmt: skip
"""Every planted fault."""


def table() -> str:
    """The faults as Markdown, as ``docs/parity.md`` has them."""
    rows = [
        f"| {fault.name} | {fault.place} | `{fault.caught}` | {fault.part or 'refused, exit 2'} |"
        for fault in sorted(FAULTS, key=lambda fault: fault.place)
    ]
    return "\n".join(["| planted | in | caught by | part |", "|---|---|---|---|", *rows])
