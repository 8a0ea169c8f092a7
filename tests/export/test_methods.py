"""Methods and rules: what types a graph gets, that both paths write the same graph, and what each costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_export.errors import ExportError
from edgeaudio_export.lowering.borders import widened
from edgeaudio_export.quantization_plan import BOUNDARY_HEADROOM, layer_names
from edgeaudio_export.quantization_recipe import METHODS, LayerRule, QuantizationRecipe
from edgeaudio_export.quantize import quantize_network
from edgeaudio_export.step_graph import export_step
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize

N_FRAMES = 10_000
"""Frames on which both paths are compared, fed as one stream."""
MAX_CODES = 1
"""Codes by which the logits of the two paths may differ."""

MIXED = QuantizationRecipe(
    layers=(
        LayerRule(name="features", activations="int16"),
        LayerRule(name="*relu_1", activations="float32"),
        LayerRule(name="classifier/*", activations="float32"),
    )
)
"""int8 with an island of each kind, one of them at the boundary."""
COARSE = QuantizationRecipe(per_channel=False, symmetric_activations=True)
RECIPES = {
    "static_w8a8": QuantizationRecipe(),
    "static_w8a16": QuantizationRecipe(method="static_w8a16"),
    "coarse": COARSE,
    "mixed": MIXED,
    "weight_only_w8": QuantizationRecipe(method="weight_only_w8"),
    "float16": QuantizationRecipe(method="float16"),
    "float32": QuantizationRecipe(method="float32"),
}


@pytest.fixture(scope="module")
def made(networks: ModuleType, float_network: Callable[[str], Any], streams: list[Any]) -> Callable[..., Any]:
    """A quantized network by its name, a key of RECIPES and a backend; one calibration a network, each at most once."""
    done: dict[tuple[str, str, str], Any] = {}
    nets = {"small": networks.settled(networks.Keyword(n_blocks=1), seed=3)}
    calibrations: dict[str, Any] = {}

    def make(name: str, recipe: str, backend: str = "pt2e") -> Any:
        key = name, recipe, backend
        if key not in done:
            network = nets[name] if name in nets else float_network(name)
            done[key] = quantize_network(
                network,
                streams,
                backend=backend,  # type: ignore[arg-type]
                recipe=RECIPES[recipe],
                calibration=calibrations.get(name),
                name="net",
            )
            calibrations[name] = done[key].calibration
        return done[key]

    make.network = lambda name: nets[name] if name in nets else float_network(name)  # type: ignore[attr-defined]
    return make


def run(graph: IntegerGraph, features: np.ndarray) -> np.ndarray:
    return NumpyProgram(graph).session().run(quantize(features, graph.input_tensor.quant))


WEIGHTED = ("conv", "fully_connected")


def weighted(graph: IntegerGraph) -> list[Op]:
    return [op for op in graph.ops if op.kind in WEIGHTED]


def tensors(graph: IntegerGraph) -> Counter[Any]:
    """What is computed, and with which parameters, in any order."""
    kinds = {op.outputs[0]: "conv" if op.kind in WEIGHTED else op.kind for op in graph.ops}
    return Counter((kind, graph.tensors[name].dtype, graph.tensors[name].quant) for name, kind in kinds.items())


def types(graph: IntegerGraph) -> set[str]:
    return {tensor.dtype for name, tensor in graph.tensors.items() if name not in graph.constants}


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("small", r) for r in ("static_w8a8", "static_w8a16", "coarse", "mixed")] + [("Ctc", "static_w8a16")],
)
def test_both_paths_write_one_graph(made: Callable[..., Any], networks: ModuleType, name: str, recipe: str) -> None:
    first, second = made(name, recipe, "pt2e").graph, made(name, recipe, "onnxruntime").graph
    assert tensors(first) == tensors(second)
    for one, other in zip(weighted(first), weighted(second), strict=True):
        for ours, theirs in zip((*one.inputs, *one.outputs), (*other.inputs, *other.outputs), strict=True):
            assert first.tensors[ours].quant == second.tensors[theirs].quant, (one.name, other.name)
            if ours in first.constants:
                # A linear layer is a pointwise convolution on the second path: [O, C] there is [O, 1, 1, C] here.
                weights = second.constants[theirs].reshape(first.constants[ours].shape)
                np.testing.assert_array_equal(first.constants[ours], weights, err_msg=one.name)
    features = networks.speechlike(N_FRAMES, 77)
    ours, theirs = run(first, features), run(second, features)
    assert len(ours) == N_FRAMES // first.step_frames * first.outputs_per_step
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= MAX_CODES


@pytest.mark.parametrize(
    ("recipe", "activations", "weights", "boundary"),
    [
        ("static_w8a8", {"int8"}, "int8", "int8"),
        ("static_w8a16", {"int16"}, "int8", "int16"),
        ("weight_only_w8", {"float32", "int16"}, "int8", "int16"),
        ("float16", {"float32", "int16"}, "float16", "int16"),
        ("float32", {"float32", "int16"}, "float32", "int16"),
    ],
)
def test_a_method_gives_the_types_its_name_says(
    made: Callable[..., Any], recipe: str, activations: set[str], weights: str, boundary: str
) -> None:
    graph = made("small", recipe).graph
    assert types(graph) == activations
    assert {graph.input_tensor.dtype, graph.output_tensor.dtype} == {boundary}
    stored = {graph.tensors[name].dtype for name, data in graph.constants.items() if data.ndim == 4}
    assert stored == {weights}
    inner = "float32" if "float32" in activations else boundary
    assert {graph.tensors[state.input].dtype for state in graph.states} == {inner}


MIN_SQNR_DB = {"coarse": 18.0, "static_w8a8": 20.0, "static_w8a16": 30.0, "float16": 55.0, "float32": 70.0}
"""Signal to quantization noise of the logits of a stream that did not calibrate. int16 with two times headroom leaves
15 bits at the boundary, float16 weights 11 bits, int8 weights or activations 8 bits, less what layers add up."""


def test_wider_methods_are_closer_to_float(made: Callable[..., Any], unseen: np.ndarray) -> None:
    network = made.network("small")  # type: ignore[attr-defined]
    with torch.no_grad():
        reference = network(torch.from_numpy(unseen)[None], network.initial_state(1))[0][0].numpy()
    found = {}
    for recipe in MIN_SQNR_DB:
        graph = made("small", recipe).graph
        noise = dequantize(run(graph, unseen), graph.output_tensor.quant) - reference
        found[recipe] = 10 * np.log10((reference**2).sum() / (noise**2).sum())
    assert all(found[recipe] >= least for recipe, least in MIN_SQNR_DB.items()), found
    assert sorted(found, key=found.__getitem__) == list(MIN_SQNR_DB), found


def test_float_weights_are_those_of_the_network(made: Callable[..., Any]) -> None:
    network = made.network("small")  # type: ignore[attr-defined]
    expected = network.classifier.weight.numpy(force=True)[:, :, 0]
    for recipe, dtype in (("float32", np.float32), ("float16", np.float16)):
        graph = made("small", recipe).graph
        last = next(op for op in reversed(graph.ops) if op.kind == "conv")
        stored = last.inputs[1].removesuffix(".real")
        np.testing.assert_array_equal(graph.constants[stored][:, 0, 0], expected.astype(dtype))


def test_boundary_codes_of_a_float_method_have_headroom(made: Callable[..., Any], streams: list[np.ndarray]) -> None:
    quant = made("small", "float32").graph.input_tensor.quant
    largest = max(float(np.abs(stream).max()) for stream in streams)
    assert quant.zero_point == 0
    assert quant.scale[0] * 32767 == pytest.approx(BOUNDARY_HEADROOM * largest, rel=1e-6)


def test_symmetric_activations_have_zero_point_0_and_one_weight_scale(made: Callable[..., Any]) -> None:
    graph = made("small", "coarse").graph
    assert {tensor.quant.zero_point for tensor in graph.tensors.values()} == {0}
    for op in graph.ops:
        if op.kind == "conv":
            weight = op.inputs[1]
            assert len(set(graph.tensors[weight].quant.scale)) == 1
            assert np.abs(graph.constants[weight]).max() == 127


def test_conversions_stand_where_types_meet_and_nowhere_else(made: Callable[..., Any]) -> None:
    graph = made("small", "mixed").graph
    for op in graph.ops:
        kinds = {graph.tensors[n].dtype for n in (*op.inputs[:1], *op.outputs)}
        if op.kind in ("quantize", "dequantize", "requantize"):
            assert len(kinds) == 2
        else:
            assert len(kinds) == 1, op
    # The stem reads int16 features and yields int8, then depthwise in float, then the classifier in float.
    found = [op.kind for op in graph.ops if op.kind.endswith("quantize")]
    assert found == ["requantize", "dequantize", "quantize", "dequantize", "quantize"]


def test_int8_to_int16_is_exact_for_every_code() -> None:
    narrow = QuantParams(scale=(0.03,), zero_point=-77)
    codes = np.arange(-128, 128).astype(np.int8)
    real = dequantize(codes, narrow)
    wide = quantize(real, widened(narrow))
    np.testing.assert_array_equal(wide, (codes.astype(int) + 77) * 128)
    np.testing.assert_array_equal(dequantize(wide, widened(narrow)), real)


def test_layers_have_the_names_of_calibration(made: Callable[..., Any]) -> None:
    network = made.network("small")  # type: ignore[attr-defined]
    names = layer_names(export_step(network))
    assert names == [group.name for group in made("small", "static_w8a8").calibration.groups]
    assert names[:2] == ["features", "block0"]
    assert "blocks.0/relu_1" in names


@pytest.mark.parametrize("method", [m for m in METHODS if not m.startswith("static")])
def test_onnx_runtime_refuses_what_quantizes_no_activation(
    made: Callable[..., Any], streams: list[np.ndarray], method: str
) -> None:
    with pytest.raises(ExportError, match=rf"method='{method}' leaves activations float, .* choose backend='pt2e'"):
        made("small", method, "onnxruntime")


def test_a_rule_without_a_layer_is_refused_by_name(made: Callable[..., Any]) -> None:
    groups = [group.name for group in made("small", "static_w8a8").calibration.groups]
    recipe = QuantizationRecipe(layers=(LayerRule(name="head", activations="int16"),))
    with pytest.raises(ExportError, match=r"layers: name='head' matches no layer of this network; it has \['features'"):
        recipe.activations(groups)
