"""Method "dynamic_w8": what becomes int8, how close it stays, and how bundles are held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import onnx
from onnx import numpy_helper

from edgeaudio_export.dynamic import quantize_dynamically
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork, quantize_onnx_only
from edgeaudio_export.foreign.quantize import step_model_of_network
from edgeaudio_export.foreign.reader import read_step_model
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import quantize_network
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.quantization import QuantParams, dequantize, quantize
from edgeaudio_runtime.tolerances import DYNAMIC_INT16_LSB, code_tolerance
from tests.foreign_models import RecurrentNet, write_onnx

DYNAMIC_DB = 30.0
"""int8 weights and activations of a trained-like net were measured at 35 to 50 dB; a lost scale is below 10."""


@pytest.fixture(scope="module")
def network(float_network: Any, streams: Any) -> OnnxOnlyNetwork:
    step = step_model_of_network(float_network("Keyword"), streams)
    return quantize_onnx_only(step, streams, recipe=QuantizationRecipe(method="dynamic_w8"), name="net")


def test_every_weight_is_int8_and_every_convolution_on_integers(network: OnnxOnlyNetwork) -> None:
    model = onnx.load_model_from_string(network.graph.model)
    kinds = [node.op_type for node in model.graph.node]
    assert "Conv" not in kinds
    assert "MatMul" not in kinds
    weights = [i for i in model.graph.initializer if len(i.dims) > 1]
    assert {numpy_helper.to_array(weight).dtype.name for weight in weights} == {"int8"}
    assert network.float_operations.keys() <= {"Add", "Relu"}


def test_it_stays_close_to_float_in_codes_of_sixteen_bits(
    network: OnnxOnlyNetwork, float_network: Any, streams: Any, unseen: Any
) -> None:
    step = step_model_of_network(float_network("Keyword"), streams)
    reference = OnnxRunner(step.model, step).run_stream(unseen)
    program = network.graph.program()
    quants = program.signature.input_quant, program.signature.output_quant
    assert [quant.dtype for quant in quants] == ["int16", "int16"]
    heard = dequantize(program.session().run(quantize(unseen, quants[0])), quants[1])
    error = np.square(reference - heard).sum()
    assert 10 * np.log10(np.square(reference).sum() / error) > DYNAMIC_DB


def test_optimization_moves_codes_less_than_the_named_bound(network: OnnxOnlyNetwork, unseen: Any) -> None:
    states = tuple(state.initial for state in network.graph.states)
    programs = [
        OnnxRuntimeProgram(network.graph.model, network.graph.signature, states, exact=False, optimize=optimize)
        for optimize in (True, False)
    ]
    codes = quantize(unseen, network.graph.signature.input_quant)
    fast, plain = (program.session().run(codes).astype(np.int64) for program in programs)
    assert np.abs(fast - plain).max() <= DYNAMIC_INT16_LSB


def test_the_bound_is_for_dynamic_methods_alone() -> None:
    wide = QuantParams(scale=(0.01,), dtype="int16")
    assert code_tolerance(wide, exact=False, method="dynamic_w8").lsb == DYNAMIC_INT16_LSB
    assert code_tolerance(wide, exact=False, method="static_w8a16").lsb < DYNAMIC_INT16_LSB
    assert code_tolerance(wide, exact=True, method="dynamic_w8").lsb == 0


def test_weights_of_seven_bits_and_one_scale_a_tensor_are_options(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", RecurrentNet(10, 5, cell="LSTM"), n_features=10)
    model = read_step_model(path, n_features=10, n_labels=5).model
    full, reduced = (quantize_dynamically(model, reduce_range=on) for on in (False, True))
    assert (largest_code(full), largest_code(reduced)) == (127, 64)
    by_tensor = quantize_dynamically(model, per_channel=False)
    assert n_scales(full) == {"Conv": {1}, "MatMul": {5}, "LSTM": {64}}
    assert n_scales(by_tensor) == {"Conv": {1}, "MatMul": {1}, "LSTM": {1}}


def test_an_lstm_is_quantized_and_a_gru_is_not(tmp_path: Path) -> None:
    kinds = {}
    for cell in ("LSTM", "GRU"):
        path = write_onnx(tmp_path / f"{cell}.onnx", RecurrentNet(10, 5, cell=cell), n_features=10)
        model = read_step_model(path, n_features=10, n_labels=5).model
        kinds[cell] = {node.op_type for node in quantize_dynamically(model).graph.node}
    assert "DynamicQuantizeLSTM" in kinds["LSTM"]
    assert "GRU" in kinds["GRU"]


def test_large_cells_whose_weights_are_turned_in_the_file_are_quantized_too(tmp_path: Path) -> None:
    # From about 1,000 weights on torch's exporter leaves their order to be changed at run time.
    path = write_onnx(tmp_path / "m.onnx", RecurrentNet(10, 5, hidden=64, cell="LSTM"), n_features=10)
    model = read_step_model(path, n_features=10, n_labels=5).model
    dynamic = quantize_dynamically(model)
    assert "DynamicQuantizeLSTM" in {node.op_type for node in dynamic.graph.node}
    assert len(dynamic.SerializeToString()) < 0.4 * len(model.SerializeToString())


def test_the_integer_graph_does_not_hold_it(float_network: Any, streams: Any) -> None:
    with pytest.raises(ExportError, match=r"method='dynamic_w8' yields no integer graph, ONNX Runtime alone computes"):
        quantize_network(float_network("Keyword"), streams, recipe=QuantizationRecipe(method="dynamic_w8"), name="net")


def largest_code(model: onnx.ModelProto) -> int:
    codes = [numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith("_quantized")]
    return max(int(np.abs(entry.astype(np.int64)).max()) for entry in codes)


def n_scales(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Number of weight scales by the kind of layer, told by the shape of the weight."""
    kinds = {(16, 10, 3): "Conv", (16, 5): "MatMul", (1, 16, 64): "LSTM"}
    entries = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for name, codes in entries.items():
        if name.endswith("_quantized"):
            scale = entries[name.removesuffix("_quantized") + "_scale"]
            found.setdefault(kinds[codes.shape], set()).add(scale.size)
    return found
