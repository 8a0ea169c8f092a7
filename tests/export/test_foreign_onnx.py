"""Float ONNX models from elsewhere: what is read, rebuilt and quantized, and the words of every refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.onnx_only import OnnxOnlyNetwork
from edgeaudio_export.foreign.quantize import quantize_foreign
from edgeaudio_export.foreign.reader import read_step_model
from edgeaudio_export.foreign.receptive_field import receptive_field_frames
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.foreign.torch_network import OnnxNetwork, kept_operations
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quantization_recipe import LayerRule, QuantizationRecipe
from edgeaudio_export.quantize import QuantizedNetwork
from edgeaudio_export.step_graph import run_stream
from edgeaudio_runtime.quantization import dequantize, quantize
from tests.foreign_models import PlainNet, RecurrentNet, WindowedNet, write_onnx

N_FEATURES, N_LABELS = 10, 5
FLOAT_ATOL = 1e-5
"""The same float32 operations summed in another order, on logits of about 1."""
INT8_DB = 25.0
"""Random weights in int8 with min-max ranges were measured at 28 to 44 dB; a wrong scale or state is below 10."""

Float32 = npt.NDArray[np.float32]


def noise(frames: int, seed: int) -> Float32:
    return np.random.default_rng(seed).normal(0, 1, (frames, N_FEATURES)).astype(np.float32)


STREAMS = [noise(80, seed) for seed in range(4)]
UNSEEN = noise(200, 99)


@pytest.fixture(scope="session")
def step(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], StepModel]:
    """A step model by the name of its network, read once from a file."""
    made: dict[str, StepModel] = {}
    nets = {
        "plain": lambda: PlainNet(N_FEATURES, N_LABELS),
        "gru": lambda: RecurrentNet(N_FEATURES, N_LABELS),
        "lstm": lambda: RecurrentNet(N_FEATURES, N_LABELS, cell="LSTM"),
        "windowed": lambda: WindowedNet(N_FEATURES, N_LABELS),
    }

    def read(name: str) -> StepModel:
        if name not in made:
            path = tmp_path_factory.mktemp(name) / "model.onnx"
            write_onnx(path, nets[name](), n_features=N_FEATURES, frames=8 if name == "windowed" else 4)
            made[name] = read_step_model(path, n_features=N_FEATURES, n_labels=N_LABELS)
        return made[name]

    return read


def quantized(step: StepModel, **recipe: Any) -> QuantizedNetwork | OnnxOnlyNetwork:
    chosen = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"), **recipe)
    return quantize_foreign(step, STREAMS, recipe=chosen, backend="onnxruntime", name="net")


def sqnr_db(reference: Float32, candidate: Float32) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - candidate).sum()))


def float_logits(step: StepModel, features: Float32) -> Float32:
    return OnnxRunner(step.model, step).run_stream(features)


def deployed_logits(network: OnnxOnlyNetwork, features: Float32) -> Float32:
    program = network.graph.program()
    codes = quantize(features, program.signature.input_quant)
    return dequantize(program.session().run(codes), program.signature.output_quant)


def test_states_are_paired_and_shapes_read(step: Callable[[str], StepModel]) -> None:
    found = step("gru")
    assert (found.step_frames, found.n_features, found.outputs_per_step, found.n_labels) == (4, 10, 1, 5)
    assert found.state_names == ("h", "cache")
    assert found.state_shapes == ((1, 1, 16), (1, 10, 2))
    names = [[value.name for value in values] for values in (found.model.graph.input, found.model.graph.output)]
    assert names == [["features", "state_0_in", "state_1_in"], ["logits", "state_0_out", "state_1_out"]]


@pytest.mark.parametrize("name", ["plain", "gru", "windowed"])
def test_what_was_read_computes_what_the_file_computes(
    step: Callable[[str], StepModel], name: str, tmp_path: Path
) -> None:
    nets = {"plain": PlainNet, "gru": RecurrentNet, "windowed": WindowedNet}
    net, frames = nets[name](N_FEATURES, N_LABELS), step(name).step_frames
    path = write_onnx(tmp_path / "model.onnx", net, n_features=N_FEATURES, frames=frames)
    session = onnxruntime.InferenceSession(path)
    states, parts = [state.numpy() for state in net.states()], []
    for begin in range(0, 40, frames):
        feed = [UNSEEN[None, begin : begin + frames], *states]
        logits, *states = session.run(None, dict(zip([i.name for i in session.get_inputs()], feed, strict=True)))
        parts.append(np.atleast_2d(logits.squeeze(0) if logits.ndim == 3 else logits))
    np.testing.assert_allclose(float_logits(step(name), UNSEEN[:40]), np.concatenate(parts), atol=FLOAT_ATOL)


def test_states_named_alike_are_paired_by_name_whatever_their_order(tmp_path: Path) -> None:
    path = two_states(tmp_path / "m.onnx", inputs=("a_in", "b_in"), outputs=("b_out", "a_out"))
    found = read_step_model(path, n_features=2, n_labels=2)
    assert found.state_names == ("a_in", "b_in")
    # a counts by 1 and b by 2, so the second step's logits are features + 1 + 2.
    logits = OnnxRunner(found.model, found).run_stream(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(logits, [[0, 0], [3, 3]])


def test_a_model_is_rebuilt_in_torch(step: Callable[[str], StepModel]) -> None:
    plain = step("plain")
    assert kept_operations(plain) == ()
    network = OnnxNetwork(plain)
    np.testing.assert_allclose(run_stream(network, network, UNSEEN), float_logits(plain, UNSEEN), atol=FLOAT_ATOL)
    whole, _ = network(torch.from_numpy(UNSEEN)[None], network.initial_state(1))
    np.testing.assert_allclose(whole[0].numpy(), float_logits(plain, UNSEEN), atol=FLOAT_ATOL)


@pytest.mark.parametrize("backend", ["onnxruntime", "pt2e"])
def test_a_model_within_the_integer_graph_becomes_one(step: Callable[[str], StepModel], backend: Any) -> None:
    plain = step("plain")
    recipe = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))
    found = quantize_foreign(plain, STREAMS, recipe=recipe, backend=backend, name="net")
    assert isinstance(found, QuantizedNetwork)
    assert found.float_onnx == plain.model.SerializeToString()
    assert found.lowering.mismatches == 0
    assert sqnr_db(float_logits(plain, UNSEEN), found.simulate(UNSEEN)) > INT8_DB


@pytest.mark.exact_int8
@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("recipe", [{}, {"per_channel": False, "symmetric_activations": True}])
def test_the_rest_computes_on_codes_what_it_can(
    step: Callable[[str], StepModel], name: str, recipe: dict[str, Any]
) -> None:
    found = quantized(step(name), **recipe)
    assert isinstance(found, OnnxOnlyNetwork)
    assert found.float_operations == {name.upper(): 1, "LayerNormalization": 1}
    reference = float_logits(step(name), UNSEEN)
    assert sqnr_db(reference, found.simulate(UNSEEN)) > INT8_DB
    assert sqnr_db(reference, deployed_logits(found, UNSEEN)) > INT8_DB
    assert optimized_kinds(found) >= {"QLinearConv", "QLinearAveragePool", "QLinearConcat", name.upper()}
    assert "Conv" not in optimized_kinds(found)


def test_a_fused_cell_that_stays_float_is_warned_of(step: Callable[[str], StepModel]) -> None:
    lines = quantized(step("lstm")).warnings()  # type: ignore[union-attr]
    assert lines[1] == (
        "WARNING: 1 LSTM stay float32: ONNX Runtime has no static_w8a8 for them; write the cell out as a step of "
        "linear layers, or try --method dynamic_w8, which knows LSTM"
    )
    assert lines[0].startswith("for ONNX Runtime only, no numpy and no LiteRT model; kept there by ")
    assert "1 LSTM (a fused cell; the integer graph takes one written out as a step)" in lines[0]


def test_padding_keeps_a_model_from_the_integer_graph_but_not_from_int8(step: Callable[[str], StepModel]) -> None:
    found = quantized(step("windowed"))
    assert isinstance(found, OnnxOnlyNetwork)
    assert ("Conv", "padding in time") in {(entry.operation, entry.reason) for entry in found.kept}
    assert sqnr_db(float_logits(step("windowed"), UNSEEN), deployed_logits(found, UNSEEN)) > INT8_DB
    assert "QLinearConv" in optimized_kinds(found)


def test_a_float_model_loses_only_the_sixteen_bits_of_its_boundary(step: Callable[[str], StepModel]) -> None:
    found = quantized(step("gru"), method="float32")
    assert isinstance(found, OnnxOnlyNetwork)
    assert found.graph.signature.output_quant.dtype == "int16"
    # 15 bits below twice the largest logit, a few sigma: 6.02 * 15 - 10.8 + 10 dB and less by the features' codes.
    assert sqnr_db(float_logits(step("gru"), UNSEEN), deployed_logits(found, UNSEEN)) > 70


def test_the_receptive_field_is_measured(step: Callable[[str], StepModel]) -> None:
    assert receptive_field_frames(step("plain")) == 8  # kernel 3 over steps of 4
    assert receptive_field_frames(step("windowed")) == 8  # one step, no state


def test_methods_that_need_the_integer_graph_are_refused(step: Callable[[str], StepModel]) -> None:
    with pytest.raises(ExportError, match=r"method='static_w8a16' needs the integer graph, which .*1 GRU .* keep"):
        quantized(step("gru"), method="static_w8a16")
    with pytest.raises(ExportError, match=r"recovery=\['equalize'\] and rules for layers need the integer graph"):
        quantized(step("gru"), recovery=("equalize",))
    with pytest.raises(ExportError, match=r"recovery=\[\] and rules for layers need the integer graph"):
        quantized(step("gru"), layers=(LayerRule(name="*", activations="int16"),))


def test_streams_are_checked(step: Callable[[str], StepModel]) -> None:
    with pytest.raises(ExportError, match=r"streams=\[\] must hold at least one"):
        quantize_foreign(step("gru"), [], recipe=QuantizationRecipe(), backend="onnxruntime", name="net")
    with pytest.raises(ExportError, match=r"streams\[0\] has 6 frames, must be a positive multiple of step_frames=4"):
        quantize_foreign(step("gru"), [noise(6, 0)], recipe=QuantizationRecipe(), backend="onnxruntime", name="net")


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    for name, data in (("text", b"not a model at all"), ("empty", b"")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ExportError, match=rf"{name}.onnx: not an ONNX model; export one with torch.onnx.export"):
            read_step_model(path, n_features=10, n_labels=5)


@pytest.fixture(scope="session")
def recurrent_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("recurrent") / "model.onnx"
    return write_onnx(path, RecurrentNet(N_FEATURES, N_LABELS), n_features=N_FEATURES).read_bytes()


Damage = Callable[[onnx.ModelProto], None]


def set_opset(version: int) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return damage


def drop_last_output(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def external(model: onnx.ModelProto) -> None:
    tensor = next(entry for entry in model.graph.initializer if entry.data_type == TensorProto.FLOAT)
    onnx.external_data_helper.set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")


def spoil(model: onnx.ModelProto) -> None:
    tensor = next(entry for entry in model.graph.initializer if entry.data_type == TensorProto.FLOAT)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def open_time(model: onnx.ModelProto) -> None:
    dimension = model.graph.input[0].type.tensor_type.shape.dim[1]
    dimension.Clear()
    dimension.dim_param = "time"


def halves(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def flat(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[0]


def batched(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def branching(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("If", ["x"], ["y"]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (set_opset(11), r"opset=11 must be >= 13; export again with opset_version=21"),
        (drop_last_output, r"state inputs \['h', 'cache'\] and outputs \[.*\] cannot be paired; export one output for"),
        (external, r"its weights lie in \['weights.bin'\], which is not there; copy it beside the model"),
        (spoil, r"weight '.*' holds NaN or infinite values; train again"),
        (open_time, r"input 'x' leaves the number of frames open, \[1, 'time', 10\]; say how many .* --step-frames"),
        (halves, r"'x' is float16, must be float, or int8 or uint8 with a scale; export it again"),
        (flat, r"input 'x' has shape \[4, 10\], must be \[1, T, n_features\]"),
        (batched, r"input 'x' has a batch of 8; export it with a batch of 1"),
        (branching, r"operations \['If'\] hold graphs of their own; export one step without control flow"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    damage: Damage, words: str, recurrent_file: bytes, tmp_path: Path
) -> None:
    path, model = tmp_path / "model.onnx", onnx.load_model_from_string(recurrent_file)
    damage(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=rf"model\.onnx: {words}") as caught:
        read_step_model(path, n_features=N_FEATURES, n_labels=N_LABELS)
    assert "\n" not in str(caught.value)


def test_labels_and_features_must_be_those_of_the_model(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", PlainNet(N_FEATURES, N_LABELS), n_features=N_FEATURES)
    with pytest.raises(ExportError, match=r"output '.*' has 5 values, 4 labels are given; give one label each"):
        read_step_model(path, n_features=N_FEATURES, n_labels=4)
    with pytest.raises(ExportError, match=r"input 'x' has 10 values in a frame, the front end yields 40; give the"):
        read_step_model(path, n_features=40, n_labels=5)
    with pytest.raises(ExportError, match=r"step_frames=8 must be 4, which the model has fixed; leave it out"):
        read_step_model(path, n_features=N_FEATURES, n_labels=5, step_frames=8)


def test_a_state_that_does_not_come_out_as_it_went_in_is_refused(tmp_path: Path) -> None:
    class Growing(nn.Module):
        def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :, :N_LABELS], torch.cat([cache, x], dim=1)

        def states(self) -> tuple[torch.Tensor, ...]:
            return (torch.zeros(1, 4, N_FEATURES),)

    path = write_onnx(tmp_path / "model.onnx", Growing(), n_features=N_FEATURES)
    with pytest.raises(ExportError, match=r"state input 'cache' \[1, 4, 10\] and output '.*' \[1, 8, 10\] cannot be"):
        read_step_model(path, n_features=N_FEATURES, n_labels=N_LABELS)


def optimized_kinds(network: OnnxOnlyNetwork) -> set[str]:
    """Operations of the graph that ONNX Runtime's optimizer leaves."""
    from edgeaudio_export.diagnosis.effective_precision import _optimized

    return {node.op_type for node in _optimized(network.graph.model).graph.node}


def two_states(path: Path, *, inputs: tuple[str, str], outputs: tuple[str, str]) -> Path:
    """``logits = features + a + b``; a grows by 1 and b by 2 each step of one frame of two features."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 2))

    nodes = [
        helper.make_node("Add", ["features", inputs[0]], ["sum"]),
        helper.make_node("Add", ["sum", inputs[1]], ["logits"]),
        helper.make_node("Add", [inputs[0], "one"], ["a_out"]),
        helper.make_node("Add", [inputs[1], "two"], ["b_out"]),
    ]
    constants = [numpy_helper.from_array(np.float32(n).reshape(1), name) for n, name in ((1, "one"), (2, "two"))]
    boundary = ([value(n) for n in ("features", *inputs)], [value(n) for n in ("logits", *outputs)])
    graph = helper.make_graph(nodes, "counters", *boundary, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path
