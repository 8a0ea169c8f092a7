"""Diagnosis held against numbers found another way: the network itself, the engines, and hand arithmetic."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import dequantize, quantize

FLOAT32_DB = 1e-3
"""Two ways of adding up float32 squares in float64 give the same dB to about 1e-5."""
SIMULATION_SHARE = 0.001
"""Share of the logit codes on which layers simulated in float may differ from integers: sums on the border between two
codes may fall either way (measured 0)."""


@pytest.fixture(scope="module")
def probes(networks: Any) -> Any:
    """Six streams ``[6, 60, n_features]`` that did not calibrate."""
    return np.stack([networks.speechlike(60, 500 + i) for i in range(6)])


@pytest.fixture(scope="module")
def step(float_network: Callable[[str], Any]) -> Callable[[str], Any]:
    """The exported step of a network by its class name, made once."""
    from edgeaudio_export.network import frozen_copy
    from edgeaudio_export.step_graph import export_step

    made: dict[str, Any] = {}
    return lambda name: made.setdefault(name, made.get(name) or export_step(frozen_copy(float_network(name))))


def float_answers(network: Any, probes: Any) -> Any:
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(probes), network.initial_state(len(probes)))[0].numpy()


def integer_answers(graph: IntegerGraph, probes: Any) -> Any:
    """By the engine, one stream after the other, in one call each."""
    program = NumpyProgram(graph)
    quant = graph.input_tensor.quant
    assert quant is not None
    assert graph.output_tensor.quant is not None
    codes = [program.session().run(quantize(stream, quant)) for stream in probes]
    return dequantize(np.stack(codes), graph.output_tensor.quant)


def db(reference: Any, candidate: Any) -> float:
    error = np.square(reference.astype(np.float64) - candidate).sum()
    return 10 * math.log10(np.square(reference.astype(np.float64)).sum() / error)


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
@pytest.mark.parametrize("name", ["Keyword", "Ctc"])
def test_every_layer_meets_the_operation_with_its_weights(name: str, backend: str, step: Any, quantized: Any) -> None:
    from edgeaudio_export.diagnosis.layers import float_weight, is_weighted, pair_layers, quantized_weight

    graph = quantized(name, backend).graph
    layers = pair_layers(step(name), graph)
    assert len(layers) == sum(op.kind not in ("concat", "slice", "relu") for op in graph.ops)
    weighted = [layer for layer in layers if is_weighted(layer)]
    assert len(weighted) == sum(op.kind in ("conv", "fully_connected") for op in graph.ops)
    for layer in weighted:
        real = float_weight(step(name), layer)
        half_a_step = np.abs(real).reshape(len(real), -1).max(axis=1) / 127 * 0.51
        error = np.abs(quantized_weight(graph, layer, real.shape) - real).reshape(len(real), -1).max(axis=1)
        assert (error <= half_a_step + 1e-7).all(), layer.name


def test_a_graph_of_another_network_is_refused_by_its_operations(step: Any, quantized: Any) -> None:
    from edgeaudio_export.diagnosis.layers import pair_layers
    from edgeaudio_export.errors import ExportError

    with pytest.raises(ExportError, match=r"has \d+ operations of kind 'add', the network \d+; export the graph from"):
        pair_layers(step("Ctc"), without_last_add(quantized("Ctc", "onnxruntime").graph))


def without_last_add(graph: IntegerGraph) -> IntegerGraph:
    """The same graph with a relu in the place of its last addition."""
    from dataclasses import replace

    from edgeaudio_runtime.graph import Op

    last = max(i for i, op in enumerate(graph.ops) if op.kind == "add")
    old = graph.ops[last]
    relu = Op(kind="relu", inputs=old.inputs[:1], outputs=old.outputs, name=old.name)
    return replace(graph, ops=(*graph.ops[:last], relu, *graph.ops[last + 1 :]))


@pytest.mark.parametrize("name", ["Keyword", "Ctc"])
def test_both_rollouts_give_what_network_and_engine_give(
    name: str, step: Any, quantized: Any, float_network: Any, probes: Any
) -> None:
    from edgeaudio_export.diagnosis.diagnosis import integer_logits
    from edgeaudio_export.diagnosis.rollout import float_logits

    graph = quantized(name, "onnxruntime").graph
    np.testing.assert_allclose(
        float_logits(step(name), probes), float_answers(float_network(name), probes), atol=1e-4
    )  # other lengths take other float kernels
    np.testing.assert_array_equal(integer_logits(graph, probes), integer_answers(graph, probes))


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
def test_the_figures_of_the_logits_are_those_of_engine_and_network(
    backend: str, step: Any, quantized: Any, float_network: Any, probes: Any
) -> None:
    from edgeaudio_export.diagnosis.activations import report_tensors
    from edgeaudio_export.diagnosis.layers import pair_layers

    graph = quantized("Keyword", backend).graph
    reports = report_tensors(step("Keyword"), graph, pair_layers(step("Keyword"), graph), probes)
    real, made = float_answers(float_network("Keyword"), probes), integer_answers(graph, probes)
    last = next(report for report in reports if report.tensor == "logits")
    assert last.sqnr_db == pytest.approx(db(real, made), abs=0.05)  # float logits differ in the fifth digit
    assert (last.minimum, last.maximum) == (pytest.approx(real.min()), pytest.approx(real.max()))
    quant = graph.output_tensor.quant
    assert quant is not None
    low, high = (-128.5 - quant.zero_point) * quant.scale[0], (127.5 - quant.zero_point) * quant.scale[0]
    assert last.saturated_share == pytest.approx(((real < low) | (real > high)).mean(), abs=1 / real.size)
    assert sum(count for _, count in last.histogram) == real.size
    codes = np.rint(made / quant.scale[0]) + quant.zero_point
    assert last.unused_code_share == pytest.approx(1 - (codes.max() - codes.min() + 1) / 256)
    peaks = np.abs(real).max(axis=(0, 1))
    assert last.channel_ratio == pytest.approx(peaks.max() / peaks.min(), rel=1e-3)


def test_the_first_layer_has_no_error_but_its_own(step: Any, quantized: Any, probes: Any) -> None:
    from edgeaudio_export.diagnosis.activations import report_tensors
    from edgeaudio_export.diagnosis.layers import pair_layers

    graph = quantized("Keyword", "onnxruntime").graph
    features, stem, *others = report_tensors(step("Keyword"), graph, pair_layers(step("Keyword"), graph), probes)
    quant = graph.input_tensor.quant
    assert quant is not None
    assert features.sqnr_db == pytest.approx(db(probes, dequantize(quantize(probes, quant), quant)), abs=FLOAT32_DB)
    assert stem.sqnr_db == stem.local_sqnr_db
    for report in others:
        assert report.sqnr_db is None or report.local_sqnr_db is None or report.sqnr_db <= report.local_sqnr_db + 0.5
        assert sum(report.causes.values()) == pytest.approx(1.0)


def test_louder_streams_than_those_of_the_calibration_show_as_clipping(step: Any, quantized: Any, probes: Any) -> None:
    from edgeaudio_export.diagnosis.activations import report_tensors
    from edgeaudio_export.diagnosis.layers import pair_layers

    graph = quantized("Keyword", "onnxruntime").graph
    features, stem, *_ = report_tensors(step("Keyword"), graph, pair_layers(step("Keyword"), graph), 4 * probes)
    assert features.causes["clipping"] > 0.9
    assert stem.causes["clipping"] + stem.causes["input"] > 0.9
    assert features.saturated_share > 0.1
    # A relu lets half of the values through, and a convolution averages: fewer are clipped, but some.
    assert stem.saturated_share > 0.01
    for report in (features, stem):
        assert report.maximum > report.clip_high


def test_distance_of_logits_by_hand() -> None:
    from edgeaudio_export.diagnosis.sensitivity import logit_distance

    reference = np.log(np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.8, 0.2], [0.25, 0.75]]])).astype(np.float32)
    candidate = np.log(np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]]])).astype(np.float32)
    every = logit_distance(reference, candidate, last_only=False)
    # Only the last of four differs: 0.25 log(0.25 / 0.5) + 0.75 log(0.75 / 0.5).
    assert every.kl_nats == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 4, rel=1e-5)
    assert every.agreement == 0.75
    last = logit_distance(reference, candidate, last_only=True)
    assert last.kl_nats == pytest.approx(2 * every.kl_nats, rel=1e-5)
    assert last.agreement == 0.5
    noise = (math.log(0.25) - math.log(0.5)) ** 2 + (math.log(0.75) - math.log(0.5)) ** 2
    signal = 2 * math.log(0.5) ** 2 + math.log(0.25) ** 2 + math.log(0.75) ** 2
    assert last.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-4)
    assert logit_distance(reference, reference, last_only=True).sqnr_db is None


def test_a_layer_alone_is_the_network_with_that_layer_changed_by_hand(
    step: Any, quantized: Any, float_network: Any, probes: Any
) -> None:
    import torch

    from edgeaudio_export.diagnosis.layers import pair_layers
    from edgeaudio_export.diagnosis.sensitivity import report_sensitivity

    graph = quantized("Keyword", "onnxruntime").graph
    found = report_sensitivity(step("Keyword"), graph, pair_layers(step("Keyword"), graph), probes, last_only=False)
    changed = copy.deepcopy(float_network("Keyword"))
    constant = next(op.inputs[1] for op in graph.ops if op.outputs[0] == "logits")
    weight = dequantize(graph.constants[constant], graph.tensors[constant].quant)  # [O, 1, 1, C]
    changed.classifier.weight.data = torch.from_numpy(weight[:, :, 0, :].transpose(0, 2, 1).copy())
    quant = graph.output_tensor.quant
    assert quant is not None
    real = float_answers(float_network("Keyword"), probes)
    made = dequantize(quantize(float_answers(changed, probes), quant), quant)
    last = next(each for each in found if each.layer.startswith("classifier/"))
    assert last.alone.sqnr_db == pytest.approx(db(real, made), abs=0.05)  # a code on a border may fall either way


def test_all_layers_together_are_the_integer_graph(step: Any, quantized: Any, probes: Any) -> None:
    from edgeaudio_export.diagnosis.layers import pair_layers
    from edgeaudio_export.diagnosis.rollout import float_logits
    from edgeaudio_export.diagnosis.sensitivity import layer_changes, merged

    graph = quantized("Ctc", "onnxruntime").graph
    changes = layer_changes(step("Ctc"), graph, pair_layers(step("Ctc"), graph))
    simulated = float_logits(step("Ctc"), probes, merged(changes.values()))
    quant = graph.output_tensor.quant
    assert quant is not None
    steps = np.rint(np.abs(simulated - integer_answers(graph, probes)) / quant.scale[0])
    assert (steps > 0).mean() <= SIMULATION_SHARE
    assert steps.max() <= 1


def test_weights_are_measured_as_numpy_measures_them(step: Any, quantized: Any) -> None:
    from edgeaudio_export.diagnosis.layers import float_weight, pair_layers
    from edgeaudio_export.diagnosis.weights import report_weights

    graph = quantized("Keyword", "onnxruntime").graph
    layers = pair_layers(step("Keyword"), graph)
    report = report_weights(step("Keyword"), graph, layers)[0]
    real = float_weight(step("Keyword"), layers[0])  # [O, C, K]
    peaks = np.abs(real).max(axis=(1, 2))
    made = np.rint(real / (peaks[:, None, None] / 127)) * (peaks[:, None, None] / 127)
    assert report.sqnr_db == pytest.approx(db(real, made), abs=FLOAT32_DB)
    assert report.channel_ratio == pytest.approx(peaks.max() / peaks.min())
    assert report.clip == pytest.approx(peaks.max())
    assert (report.dtype, report.per_channel, report.dead_channels, report.bytes) == ("int8", True, 0, real.size)
    assert sum(report.counts) == real.size


def test_the_whole_diagnosis_ranks_by_share_and_serializes(step: Any, quantized: Any, probes: Any) -> None:
    import json

    from edgeaudio_export.diagnosis.diagnosis import diagnose

    graph = quantized("Keyword", "onnxruntime").graph
    found = diagnose(step("Keyword"), graph, probes, method="mse", last_only=True)
    parts = [layer.noise_share for layer in found.layers]
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) == pytest.approx(1.0)
    assert found.layers[0].suggestion is not None
    assert found.layers[-1].suggestion is None
    assert {layer.name for layer in found.layers} > {"features", "stem/conv1d"}
    assert json.loads(json.dumps(found.to_dict()))["clips"] == 6


def test_probes_that_do_not_fit_are_refused(step: Any, probes: Any) -> None:
    from edgeaudio_export.diagnosis.rollout import check_probes
    from edgeaudio_export.errors import ExportError

    cases = {
        "give at least one clip that did not calibrate": probes[:0],
        "a multiple of step_frames=4": probes[:, :59],
        "compute them with the features of the network": probes[..., :7],
        "hold NaN or infinite features": np.where(probes > 0, np.nan, probes).astype(np.float32),
    }
    for words, wrong in cases.items():
        with pytest.raises(ExportError, match=words):
            check_probes(step("Keyword"), wrong)
