"""Networks over time and frequency: every way through export, held against float and against every engine."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor, nn

from edgeaudio_export.axis_names import reshaped, squeezed, unsqueezed
from edgeaudio_export.calibration.calibrate import calibrate
from edgeaudio_export.diagnosis.activations import report_tensors
from edgeaudio_export.diagnosis.layers import pair_layers
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.quantize import quantize_foreign
from edgeaudio_export.foreign.reader import read_step_model
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import QuantizedNetwork, quantize_network
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.recovery.bias_correction import correct_biases
from edgeaudio_export.recovery.channel_groups import channel_groups
from edgeaudio_export.recovery.equalization import equalize
from edgeaudio_export.recovery.layers import layers_of
from edgeaudio_export.recovery.qat import TrainingSpec
from edgeaudio_export.recovery.ranges import refine_ranges
from edgeaudio_export.recovery.recover import recover
from edgeaudio_export.recovery.rounding import RoundingSpec
from edgeaudio_export.recovery.simulation import Simulation
from edgeaudio_export.step_graph import StepGraph, export_step, run_stream
from edgeaudio_export.targets.arithmetic import exact_engines
from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import dequantize, quantize
from edgeaudio_runtime.tolerances import code_tolerance

STEPS = 2500
"""Times 5 labels, 2 engines and 2 paths: 50,000 logit codes."""
FLOAT_ATOL = 2e-5
"""Float32 sums in another order, on logits of about 3."""
INT8_DB = 20.0
"""Random weights in int8 were measured at 30 dB; a wrong scale, padding or state is below 10."""
WIDE_DB = 30.0
"""int8 weights with wider activations."""

Codes = npt.NDArray[Any]


def onnxruntime_program(graph: IntegerGraph) -> OnnxRuntimeProgram:
    return OnnxRuntimeProgram(to_onnx(graph), NumpyProgram(graph).signature, initial(graph))


def litert_program(graph: IntegerGraph) -> LiteRtProgram:
    return LiteRtProgram(to_tflite(graph), NumpyProgram(graph).signature, initial(graph))


def initial(graph: IntegerGraph) -> tuple[int | float, ...]:
    return tuple(state.initial for state in graph.states)


ENGINES: dict[str, Callable[[IntegerGraph], Any]] = {"onnxruntime": onnxruntime_program, "litert": litert_program}


@pytest.fixture(scope="module")
def step(float_network: Callable[[str], Any]) -> StepGraph:
    return export_step(frozen_copy(float_network("Spectral")))


@pytest.fixture(scope="module")
def made(float_network: Callable[[str], Any], streams: list[Any], quantized: Any) -> Callable[[str], QuantizedNetwork]:
    """The network by the name of a method, each made once on one calibration."""
    done: dict[str, QuantizedNetwork] = {"static_w8a8": quantized("Spectral", "pt2e")}

    def make(method: str) -> QuantizedNetwork:
        if method not in done:
            network: Any = float_network("Spectral")
            recipe = QuantizationRecipe(method=method)
            calibration = done["static_w8a8"].calibration
            done[method] = quantize_network(network, streams, recipe=recipe, calibration=calibration, name="net")
        return done[method]

    return make


def features(networks: ModuleType, steps: int = STEPS) -> Codes:
    return np.concatenate([networks.speechlike(400, seed) for seed in range(100, 100 + steps // 100)])


def sqnr_db(reference: Codes, candidate: Codes) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - candidate).sum()))


def float_logits(network: Any, streams: list[Any]) -> Codes:
    """Of all streams, each from reset and in one call."""
    with torch.no_grad():
        logits = [network(torch.from_numpy(each)[None], network.initial_state(1))[0][0].numpy() for each in streams]
    return np.concatenate(logits)


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
def test_every_engine_computes_the_same_codes_however_a_stream_is_cut(
    backend: str, quantized: Any, networks: ModuleType
) -> None:
    graph = quantized("Spectral", backend).graph
    program = NumpyProgram(graph)
    assert program.steps_per_pass > 1
    codes = quantize(features(networks), graph.input_tensor.quant)
    whole = program.session().run(codes)
    assert len(np.unique(whole)) > 100
    cuts = 4 * np.cumsum(np.random.default_rng(0).integers(0, 12, len(codes) // 16))
    edges = [0, *cuts[cuts < len(codes)].tolist(), len(codes)]
    for other in (program, *(make(graph) for make in ENGINES.values())):
        assert other.numerics == "fp32"
        session = other.session()
        parts = np.concatenate([session.run(codes[a:b]) for a, b in pairwise(edges)])
        assert np.count_nonzero(parts != whole) == 0, other.engine


def test_both_paths_write_the_same_weights_and_scales(quantized: Any) -> None:
    graphs = [quantized("Spectral", backend).graph for backend in ("pt2e", "onnxruntime")]
    first, second = ([op for op in graph.ops if op.kind in ("conv", "fully_connected")] for graph in graphs)
    for one, other in zip(first, second, strict=True):
        ours, theirs = (graph.constants[op.inputs[1]] for graph, op in zip(graphs, (one, other), strict=True))
        np.testing.assert_array_equal(ours.ravel(), theirs.ravel(), err_msg=one.name)
        quants = [graph.tensors[op.outputs[0]].quant for graph, op in zip(graphs, (one, other), strict=True)]
        assert quants[0] == quants[1], one.name


def test_the_graph_computes_what_the_network_computes(
    made: Callable[[str], QuantizedNetwork], float_network: Any, streams: list[Any]
) -> None:
    graph = made("static_w8a8").graph
    codes = [NumpyProgram(graph).session().run(quantize(each, graph.input_tensor.quant)) for each in streams]
    expected = float_logits(float_network("Spectral"), streams)
    assert sqnr_db(expected, dequantize(np.concatenate(codes), graph.output_tensor.quant)) > INT8_DB


def test_features_states_and_bins_have_their_place_in_the_graph(made: Callable[[str], QuantizedNetwork]) -> None:
    graph = made("static_w8a8").graph
    assert graph.input_tensor.shape == (1, 4, 10, 1)
    assert [graph.tensors[state.input].shape for state in graph.states] == [(1, 3, 10, 1), (1, 2, 5, 8), (1, 10, 1, 5)]
    kinds = [op.kind for op in graph.ops]
    assert kinds.count("merge_frequency") == 1
    assert [op.attrs["axis"] for op in graph.ops if op.kind in ("slice", "concat")].count(2) == 3
    stem = next(op for op in graph.ops if op.kind == "conv")
    assert graph.tensors[stem.inputs[1]].shape == (8, 5, 4, 1)
    assert (stem.attrs["stride"], stem.attrs["pad_f"]) == ((2, 2), (1, 1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["static_w8a16", "weight_only_w8", "float16"])
def test_wider_methods_hold_on_every_engine(
    method: str, engine: str, made: Callable[[str], QuantizedNetwork], float_network: Any, streams: list[Any]
) -> None:
    graph = made(method).graph
    quant = graph.output_tensor.quant
    assert quant is not None
    codes = quantize(streams[0], graph.input_tensor.quant)
    reference = NumpyProgram(graph).session().run(codes)
    off = np.abs(ENGINES[engine](graph).session().run(codes).astype(int) - reference)
    tolerance = code_tolerance(quant, exact=engine in exact_engines(graph))
    assert off.max() <= tolerance.lsb
    assert np.count_nonzero(off) <= tolerance.share * off.size
    expected = float_logits(float_network("Spectral"), streams[:1])
    assert sqnr_db(expected, dequantize(reference, quant)) > WIDE_DB


def test_the_float_onnx_model_is_the_network(made: Callable[[str], QuantizedNetwork], networks: ModuleType) -> None:
    import onnxruntime

    quantized = made("static_w8a8")
    session = onnxruntime.InferenceSession(quantized.float_onnx, providers=["CPUExecutionProvider"])
    network, unseen = quantized.step.network, networks.speechlike(40, 5)
    states, parts = [state.numpy() for state in network.initial_state(1)], []
    for begin in range(0, 40, 4):
        feed = dict(
            zip((i.name for i in session.get_inputs()), (unseen[None, begin : begin + 4], *states), strict=True)
        )
        logits, *states = session.run(None, feed)
        parts.append(logits[0])
    expected = run_stream(quantized.step.module, network, unseen)
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=FLOAT_ATOL)


def test_channels_that_share_a_factor_are_found_over_bins_and_means(step: StepGraph) -> None:
    # conv2d: stem, two bands, depthwise, mean, pointwise, mean, pool, gate. A product reads the sum, and channels that
    # were bins go into the classifier.
    assert [(group.producers, group.consumers) for group in channel_groups(step)] == [
        (("conv2d",), ("conv2d_1", "conv2d_2")),
        (("conv2d_1", "conv2d_2"), ("conv2d_3",)),
        (("conv2d_4",), ("conv2d_5",)),
        (("conv2d_6",), ("conv2d_7",)),
        (("conv2d_7",), ("conv2d_8",)),
        (("linear",), ("conv1d",)),
    ]


def test_equalization_leaves_every_bit_of_the_float_logits(step: StepGraph, streams: list[Any], unseen: Any) -> None:
    equalized, facts = equalize(step, streams[:4])
    assert any(group.rule != "none" for group in facts.groups)
    before, after = (run_stream(each.module, step.network, unseen[:200]) for each in (step, equalized))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("method", ["empirical", "analytic"])
def test_bias_correction_brings_means_back(method: Any, step: StepGraph, streams: list[Any]) -> None:
    _, facts = correct_biases(step, streams[:2], method=method)
    before, after = (
        np.array([getattr(layer, name) for layer in facts.layers]) for name in ("shift_before", "shift_after")
    )
    assert np.square(after).sum() < np.square(before).sum() * (0.01 if method == "empirical" else 1.0)


def test_every_step_of_recovery_takes_convolutions_over_both_axes(step: StepGraph, streams: list[Any]) -> None:
    recipe = QuantizationRecipe(recovery=("adaround", "qat"))
    rounding, training = RoundingSpec(iterations=5, batch=1), TrainingSpec(epochs=1)
    done, facts = recover(step, streams[:1], recipe, rounding=rounding, training=training)
    rounded = facts.to_dict()["steps"][0]["layers"]
    assert [layer["name"] for layer in rounded] == list(layers_of(step))
    assert all(layer["error_after"] <= layer["error_nearest"] for layer in rounded)
    averages = {"conv2d_4", "conv2d_6", "conv2d_7", "conv1d"}
    assert set(facts.to_dict()["steps"][1]["layers"]) == set(layers_of(step)) - averages
    before, after = layers_of(step), layers_of(done)
    for name in averages - {"conv1d"}:
        np.testing.assert_allclose(after[name].weight, before[name].weight, rtol=1e-6)


def test_refined_ranges_bring_the_logits_nearer(step: StepGraph, networks: ModuleType) -> None:
    recipe, stream = QuantizationRecipe(recovery=("ranges",)), networks.speechlike(12, 3)
    calibration = calibrate(step, [stream], recipe.calibration)
    _, facts = refine_ranges(step, calibration, [stream], reference=step, recipe=recipe)
    assert facts.error_after < facts.error_before


def test_diagnosis_holds_every_layer_against_float(
    made: Callable[[str], QuantizedNetwork], step: StepGraph, networks: ModuleType
) -> None:
    graph = made("static_w8a8").graph
    probes = np.stack([networks.speechlike(40, 700 + i) for i in range(4)])
    layers = pair_layers(step, graph)
    assert len(layers) == len(layers_of(step)) + 3  # add, sigmoid, mul
    reports = {report.layer: report for report in report_tensors(step, graph, layers, probes)}
    seen: list[Tensor] = []
    with torch.no_grad():
        Simulation(step).logits(torch.from_numpy(probes), lambda node, value, _: keep(node, value, seen))
    stem = next(report for name, report in reports.items() if name.startswith("stem/"))
    assert stem.maximum == pytest.approx(float(torch.cat([value.flatten() for value in seen]).max()), rel=1e-5)
    # A wrong layout of weights or values would leave an error as large as the signal.
    assert all(report.local_sqnr_db is None or report.local_sqnr_db > INT8_DB for report in reports.values())


def keep(node: Any, value: Tensor, seen: list[Tensor]) -> None:
    if node.name == "relu":
        seen.append(value)


def test_an_onnx_model_from_elsewhere_takes_the_same_way(
    tmp_path: Path, float_network: Any, streams: list[Any], made: Callable[[str], QuantizedNetwork]
) -> None:
    network, path = copy.deepcopy(float_network("Spectral")), tmp_path / "spectral.onnx"
    network.held = lambda gate: gate  # a single step needs no repetition
    with quiet_torch(), contextlib.redirect_stdout(io.StringIO()):
        example = (torch.zeros(1, 4, 10), network.initial_state(1))
        torch.onnx.export(network, example, path, dynamo=True, opset_version=20, verbose=False, external_data=False)
    model = read_step_model(path, n_features=10, n_labels=5)
    quantized = quantize_foreign(model, streams, recipe=QuantizationRecipe(), backend="pt2e", name="net")
    assert isinstance(quantized, QuantizedNetwork)
    kinds = [op.kind for op in quantized.graph.ops]
    assert sorted(kinds) == sorted(op.kind for op in made("static_w8a8").graph.ops)


class Refused(nn.Module):
    """A stem over both axes and what a test makes of its result ``[N, 3, T, 4]``."""

    step_frames, n_features, n_labels, outputs_per_step, state_names = 2, 4, 12, 2, ("past",)

    def __init__(self, after: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.after = after
        self.conv = nn.Conv2d(1, 3, 3, **{"padding": (0, 1), **options})

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 1, 2, 4),)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.unsqueeze(1)], dim=2)
        return self.after(self.conv(fifo)), (fifo[:, :, -2:],)


class FlatState(Refused):
    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 8),)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0].reshape(-1, 1, 2, 4), features.unsqueeze(1)], dim=2)
        return self.after(self.conv(fifo)), (fifo[:, :, -2:].reshape(-1, 8),)


def merged(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(2)


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "padding in time": (
        lambda: Refused(lambda x: merged(x[:, :, 1:-1]), padding=1),
        r"convolution 'conv' has padding=\[1, 1\] in time.*use padding=\(0, 1\) and a FIFO state",
    ),
    "padding by name": (
        lambda: Refused(lambda x: merged(x[:, :, 1:-1]), padding="same"),
        r"operation aten.conv2d.padding in 'conv' is not in the integer graph; use padding=\(0, p\) and a FIFO state",
    ),
    "channels before bins": (
        lambda: Refused(lambda x: x.transpose(1, 2).flatten(2)),
        r"operation aten.flatten.using_ints in 'forward' makes \[N, 2, 12\] of NTCF \[N, 2, 3, 4\]; .*"
        r"permute\(0, 2, 3, 1\).flatten\(2\)",
    ),
    "one bin of many": (
        lambda: Refused(lambda x: torch.cat([x[:, :, :, 0]] * 4, dim=1).transpose(1, 2)),
        r"operation aten.select.int in 'forward' is not in the integer graph; use squeeze on an axis of size 1",
    ),
    "flat state": (lambda: FlatState(merged), r"state 'state_0' has 2 axes, must be \[N, C, K\] or \[N, C, K, F\]"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_has_no_place_in_the_graph_is_refused_in_one_line(case: str) -> None:
    make, words = REFUSALS[case]
    with pytest.raises(ExportError, match=words) as caught:
        quantize_network(make(), [np.zeros((4, 4), np.float32)], name="x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "before", "after", "expected"),
    [
        ("NTFC", (2, 3, 4, 5), (2, 3, 20), "NTC"),
        ("NFCT", (2, 4, 5, 3), (2, 20, 3), "NCT"),
        ("NCTF", (2, 5, 3, 1), (2, 5, 3), "NCT"),
        ("NCTF", (2, 1, 3, 4), (2, 3, 4), "NTC"),
        ("NTF", (2, 3, 4), (2, 1, 3, 4), "NCTF"),
        ("NCT", (2, 5, 3), (2, 5, 3, 1), "NCTF"),
        ("NCTF", (2, 5, 3, 4), (2, 5, 12), None),
        ("NCTF", (2, 5, 3, 4), (2, 20, 3), None),
        ("NTC", (2, 3, 20), (2, 3, 4, 5), None),
    ],
)
def test_a_change_of_shape_is_known_by_its_sizes(
    axes: str, before: tuple[int, ...], after: tuple[int, ...], expected: str | None
) -> None:
    assert reshaped(axes, before, after) == expected


def test_single_axes_come_and_go_by_their_place() -> None:
    assert [squeezed("NCTF", i) for i in (0, 1, 2, 3, -1)] == [None, "NTC", None, "NCT", "NCT"]
    assert [unsqueezed("NCT", i) for i in (0, 1, 2, 3, -1)] == [None, "NFCT", "NCFT", "NCTF", "NCTF"]
    assert [unsqueezed("NTF", 1), unsqueezed("NCTF", 1)] == ["NCTF", None]


def test_a_repetition_that_more_than_a_product_reads_is_refused(float_network: Any) -> None:
    network = frozen_copy(float_network("Spectral"))

    class Repeating(nn.Module):
        def __getattr__(self, name: str) -> Any:
            return getattr(network, name)

        def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> Any:
            logits, after = network(features, state)
            return logits.repeat_interleave(2, dim=1), after

    with pytest.raises(
        ExportError, match=r"operation aten.repeat_interleave.self_int in .* is not in the integer graph"
    ):
        export_step(Repeating())  # type: ignore[arg-type]
