"""What a valid integer graph is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.graph import Op, StateSpec, Tensor
from edgeaudio_runtime.graph_constants import with_widened_constants
from edgeaudio_runtime.graph_shapes import check_shapes
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder

QUANT = QuantParams(scale=(0.1,))
OTHER = QuantParams(scale=(0.2,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "int4"}, "dtype='int4' must be one of"),
        ({"quant": None}, "integer tensors have one, float32 and float16 have none"),
        ({"dtype": "int16"}, "dtype='int16' but its quantization says 'int8'"),
        ({"shape": (1, 0)}, r"shape=\(1, 0\) must have sizes >= 1"),
    ],
)
def test_bad_tensors_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"tensor 'x': .*{message}"):
        Tensor(**{"name": "x", "shape": (1, 2), "dtype": "int8", "quant": QUANT, **fields})


def test_unknown_kinds_and_attributes_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="operation kind='gru' is not in the integer graph"):
        Op(kind="gru", inputs=(), outputs=())
    with pytest.raises(SpecError, match=r"operation 'add': unknown attributes \['axis'\]"):
        Op(kind="add", inputs=(), outputs=(), attrs={"axis": 1})


def simple(**changes: Any) -> Any:
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 3), QUANT)
    return replace(g.build(g.op("relu", (x,), (1, 2, 1, 3), QUANT)), **changes)


def test_graphs_that_cannot_run_are_refused() -> None:
    relu = simple().ops[0]
    with pytest.raises(SpecError, match="written twice"):
        simple(ops=(relu, relu))
    with pytest.raises(SpecError, match="reads 'relu_0' before anything wrote it"):
        simple(ops=(replace(relu, inputs=("relu_0",)),))
    with pytest.raises(SpecError, match="output 'relu_0' is written by no operation"):
        simple(ops=())
    with pytest.raises(SpecError, match="names tensor 'ghost', which the graph does not have"):
        simple(ops=(replace(relu, inputs=("ghost",)),))
    with pytest.raises(SpecError, match="requantization='other' must be one of"):
        simple(requantization="other")
    with pytest.raises(SpecError, match=r"constant 'features': data is float64\[1\], the tensor int8\[1, 2, 1, 3\]"):
        simple(constants={"features": np.zeros(1)})


def test_states_must_start_at_zero_and_keep_their_form() -> None:
    state = StateSpec(name="s", input="features", output="relu_0", initial=1)
    with pytest.raises(SpecError, match="state 's': initial=1 must be the zero point 0"):
        simple(states=(state,))
    tensors = {**simple().tensors, "features": Tensor(name="features", shape=(1, 2, 1, 3), dtype="int8", quant=OTHER)}
    with pytest.raises(SpecError, match="'features' and 'relu_0' must share shape, dtype and quantization"):
        simple(states=(replace(state, initial=0),), tensors=tensors)


def conv_graph(weight: tuple[int, ...], bias: int, groups: int, **fields: Any) -> Any:
    g = GraphBuilder()
    x = g.activation("features", (1, 4, 3, 4), QUANT)
    quant = fields.pop("weight_quant", QUANT)
    g.constant("weight", np.zeros(weight, np.int8), quant)
    g.constant("bias", np.zeros(bias, np.int32), QuantParams(scale=(0.01,), dtype="int32"))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "groups": groups, "pad_f": (0, 0), "relu": False, **fields}
    return g.build(g.op("conv", (x, "weight", "bias"), (1, 4, 1, 2), QUANT, **attrs))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (lambda: conv_graph((2, 1, 3, 4), 2, 2), "do not fit 4 channels"),
        (lambda: conv_graph((2, 1, 3, 4), 3, 1), r"\(3,\), groups=1 do not fit"),
        (lambda: conv_graph((2, 1, 2, 4), 2, 1), r"output shape \[1, 4, 1, 2\] must be \[1, 4, 2, 2\]"),
        (lambda: conv_graph((2, 1, 3, 4), 2, 1, stride=(0, 1)), "stride and dilation must be >= 1"),
        (
            lambda: conv_graph((2, 1, 3, 4), 2, 1, weight_quant=QuantParams(scale=(0.1,), zero_point=3)),
            "must be symmetric",
        ),
        (
            lambda: conv_graph((2, 1, 3, 4), 2, 1, weight_quant=QuantParams(scale=(0.1,) * 5, axis=0)),
            "5 scales for 2 channels",
        ),
        (lambda: conv_graph((2, 1, 3, 4), 2, 1, stride=5), "wrong number or rank of inputs or attributes"),
    ],
)
def test_convolutions_that_do_not_fit_are_refused(graph: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_shapes(graph())


def one_op(
    kind: str, target: QuantParams | None, shape: tuple[int, ...] = (1, 2, 1, 3), *, twice: bool = False, **attrs: Any
) -> Any:
    g = GraphBuilder()
    x = g.activation("features", (1, 2, 1, 3), QUANT)
    return g.build(g.op(kind, (x, x) if twice else (x,), shape, target, **attrs))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (lambda: one_op("relu", OTHER), "inputs and output must share scale and zero point"),
        (lambda: one_op("relu", QUANT, (1, 2, 1, 4)), r"output shape \[1, 2, 1, 4\] must be \[1, 2, 1, 3\]"),
        (lambda: one_op("relu", QUANT, twice=True), "operation 'relu'"),
        (lambda: one_op("sigmoid", None), "mix codes and float32"),
        (lambda: one_op("quantize", QUANT), "quantize goes from float32 to codes"),
        (lambda: one_op("dequantize", QUANT), "dequantize goes from codes to float32"),
        (lambda: one_op("slice", QUANT, axis=1, start=0, stop=1), "must count from the end: start < stop <= 0"),
        (lambda: one_op("slice", QUANT, axis=3, start=1, stop=9), "must select a part of 3 along axis 3"),
        (lambda: one_op("slice", QUANT, axis=2, start=0, stop=2), "must select a part of 1 along axis 2"),
        (
            lambda: one_op("concat", QUANT, twice=True, axis=0),
            r"axis=0 must be 1 \(time\), 2 \(frequency\) or 3 \(channels\)",
        ),
        (lambda: one_op("merge_frequency", QuantParams(scale=(0.1, 0.1, 0.1), axis=3)), "must be quantized per tensor"),
    ],
)
def test_operations_that_do_not_fit_are_refused(graph: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_shapes(graph())


def widened(data: Any, quant: QuantParams | None = None, **changes: Any) -> Any:
    """A float pointwise convolution of 3 channels whose weight is stored as ``data``."""
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 3), None)
    g.constant("stored", data, quant)
    g.constant("bias", np.zeros(2, np.float32))
    weight = g.op("dequantize", ("stored",), data.shape, None)
    graph = g.build(g.op("conv", (x, weight, "bias"), (1, 1, 1, 2), None))
    return replace(graph, **changes)


def test_weights_of_float_islands_may_be_stored_narrow() -> None:
    real = np.arange(6, dtype=np.float16).reshape(2, 1, 1, 3)
    check_shapes(widened(real))
    check_shapes(widened(real.astype(np.int8), QuantParams(scale=(0.5, 0.25), axis=0)))
    folded = with_widened_constants(widened(real.astype(np.int8), QuantParams(scale=(0.5, 0.25), axis=0)))
    assert [op.kind for op in folded.ops] == ["conv"]
    assert set(folded.constants) == {"bias", "dequantize_0"}
    assert folded.constants["dequantize_0"].ravel().tolist() == [0, 0.5, 1, 0.75, 1, 1.25]
    assert with_widened_constants(folded) is folded


def test_narrow_tensors_in_the_wrong_place_are_refused() -> None:
    real = np.zeros((2, 1, 1, 3), np.float16)
    with pytest.raises(SpecError, match="'stored' must be per tensor or along axis 0"):
        check_shapes(widened(real.astype(np.int8), QuantParams(scale=(0.5, 0.25, 0.1), axis=3)))
    graph = widened(real)
    conv = replace(graph.ops[1], inputs=("features", "stored", "bias"))
    with pytest.raises(SpecError, match=r"\['stored'\] are float16; widen them with dequantize first"):
        check_shapes(replace(graph, ops=(graph.ops[0], conv)))
    tensors = {**graph.tensors, "features": Tensor(name="features", shape=(1, 1, 1, 3), dtype="float16")}
    with pytest.raises(SpecError, match=r"\['features'\] are float16 and no constants; compute in float32"):
        replace(graph, tensors=tensors)


def test_int16_activations_have_zero_point_0() -> None:
    quant = QuantParams(scale=(0.1,), zero_point=5, dtype="int16")
    g = GraphBuilder()
    g.activation("features", (1, 2, 1, 3), quant)
    graph = g.build(g.op("relu", ("features",), (1, 2, 1, 3), quant))
    with pytest.raises(SpecError, match="zero_point=5 of int16 'features' must be 0"):
        check_shapes(graph)


def test_a_float_weight_does_not_go_with_codes() -> None:
    g = GraphBuilder()
    x = g.activation("features", (1, 1, 1, 3), QUANT)
    g.constant("weight", np.zeros((2, 1, 1, 3), np.float32))
    g.constant("bias", np.zeros(2, np.float32))
    for quant in (QUANT, None):
        graph = replace(g.build(g.op("conv", (x, "weight", "bias"), (1, 1, 1, 2), quant)), ops=tuple(g.ops[-1:]))
        with pytest.raises(SpecError, match=r"must be int8 and int32|mix codes and float32"):
            check_shapes(graph)
