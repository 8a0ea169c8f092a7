"""The container of the integer graph: exact round trip, and one line for every hostile file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.errors import BundleError, SpecError
from edgeaudio_runtime.graph_file import ALIGNMENT, graph_to_bytes, load_graph, save_graph
from edgeaudio_runtime.quantization import QuantParams
from tests.graph_builders import GraphBuilder, random_codes, residual_graph
from tests.precision_graphs import method_graph

GRAPH = residual_graph(channels=8, blocks=1, window=10, n_features=6, n_labels=3)
DESCRIPTION, BLOB = graph_to_bytes(GRAPH)
METHODS = ("static_w8a16", "float32", "float16", "weight_only_w8", "mixed")

Document = dict[str, Any]


def test_a_graph_survives_the_disk_exactly(tmp_path: Path) -> None:
    save_graph(GRAPH, tmp_path / "model.json", tmp_path / "model.bin")
    loaded = load_graph((tmp_path / "model.json").read_bytes(), (tmp_path / "model.bin").read_bytes())
    assert (loaded.name, loaded.input, loaded.output, loaded.states) == (
        GRAPH.name,
        GRAPH.input,
        GRAPH.output,
        GRAPH.states,
    )
    assert dict(loaded.tensors) == GRAPH.tensors
    assert loaded.ops == GRAPH.ops
    assert all(np.array_equal(loaded.constants[name], data) for name, data in GRAPH.constants.items())
    codes = random_codes((40, 6))
    assert np.array_equal(NumpyProgram(loaded).session().run(codes), NumpyProgram(GRAPH).session().run(codes))


def test_a_graph_says_the_oldest_version_that_runs_it() -> None:
    versions = {method: json.loads(graph_to_bytes(method_graph(GRAPH, method))[0])["version"] for method in METHODS}
    assert versions == dict.fromkeys(METHODS, 2)
    assert json.loads(DESCRIPTION)["version"] == 1


def test_joins_along_frequency_need_the_newest_version() -> None:
    g, quant = GraphBuilder(), QuantParams(scale=(0.1,))
    x = g.activation("features", (1, 1, 3, 2), quant)
    low, high = (
        g.op("slice", (x,), (1, 1, stop - start, 2), quant, axis=2, start=start, stop=stop)
        for start, stop in ((0, 1), (1, 3))
    )
    turned = g.op("concat", (high, low), (1, 1, 3, 2), quant, axis=2)
    graph = g.build(g.op("merge_frequency", (turned,), (1, 1, 1, 6), quant))
    description, blob = graph_to_bytes(graph)
    assert json.loads(description)["version"] == 3
    codes = np.arange(6, dtype=np.int8)[None]
    assert NumpyProgram(load_graph(description, blob)).session().run(codes).tolist() == [[2, 3, 4, 5, 0, 1]]


@pytest.mark.parametrize("method", METHODS)
def test_graphs_of_every_precision_survive_the_disk(method: str) -> None:
    graph = method_graph(GRAPH, method)
    description, blob = graph_to_bytes(graph)
    loaded = load_graph(description, blob)
    assert dict(loaded.tensors) == graph.tensors
    assert all(
        np.array_equal(loaded.constants[name], data) and loaded.constants[name].dtype == data.dtype
        for name, data in graph.constants.items()
    )
    codes = random_codes((40, 6), dtype=graph.input_tensor.dtype)
    assert np.array_equal(NumpyProgram(loaded).session().run(codes), NumpyProgram(graph).session().run(codes))


def test_float16_halves_the_weights() -> None:
    sizes = {method: len(graph_to_bytes(method_graph(GRAPH, method))[1]) for method in ("float32", "float16")}
    n_weights = sum(data.size for data in GRAPH.constants.values() if data.ndim == 4)
    assert abs(sizes["float32"] - sizes["float16"] - 2 * n_weights) < ALIGNMENT * len(GRAPH.constants)


def test_equal_graphs_give_equal_files() -> None:
    assert graph_to_bytes(load_graph(DESCRIPTION, BLOB)) == (DESCRIPTION, BLOB)


def test_constants_are_aligned_little_endian_and_frozen() -> None:
    entries = json.loads(DESCRIPTION)["constants"]
    assert all(entry["offset"] % ALIGNMENT == 0 for entry in entries)
    bias = next(entry for entry in entries if entry["dtype"] == "int32")
    first = int.from_bytes(BLOB[bias["offset"] : bias["offset"] + 4], "little", signed=True)
    assert first == GRAPH.constants[bias["name"]][0]
    with pytest.raises(ValueError, match="read-only"):
        load_graph(DESCRIPTION, BLOB).constants[bias["name"]][0] = 1


def change(edit: Callable[[Document], Any]) -> bytes:
    document = json.loads(DESCRIPTION)
    edit(document)
    return json.dumps(document).encode()


def shift_constant(document: Document, index: int, offset: object) -> None:
    document["constants"][index]["offset"] = offset


def reshape_tensor(document: Document, shape: list[object]) -> None:
    document["tensors"][0]["shape"] = shape


HOSTILE: dict[str, tuple[Callable[[Document], Any], str]] = {
    "newer version": (
        lambda d: d.update(version=4),
        "version=4, this runtime reads up to 3; upgrade edgeaudio-runtime",
    ),
    "other format": (lambda d: d.update(format="onnx"), "must be an object with format='edgeaudio.integer_graph'"),
    "unknown field": (lambda d: d.update(colour="red"), r"unknown graph fields \['colour'\]"),
    "unknown kind": (lambda d: d["ops"][0].update(kind="lstm"), "operation kind='lstm' is not in the integer graph"),
    "unknown attribute": (lambda d: d["ops"][0]["attrs"].update(pads=1), r"unknown attributes \['pads'\]"),
    "unknown rule": (lambda d: d.update(requantization="x"), "requantization='x' must be one of"),
    "missing field": (lambda d: d.pop("ops"), "model.json is damaged"),
    "offset out of range": (lambda d: shift_constant(d, 0, 2**40), "1099511628016 inside"),
    "negative offset": (lambda d: shift_constant(d, 0, -16), "must be a multiple of 16 and"),
    "crooked offset": (lambda d: shift_constant(d, 1, d["constants"][1]["offset"] + 1), "must be a multiple of 16"),
    "offset of another type": (lambda d: shift_constant(d, 0, 0.0), "must be a multiple of 16 and"),
    "overlap": (lambda d: shift_constant(d, 1, d["constants"][0]["offset"]), "overlaps the constant before it"),
    "wrong blob length": (lambda d: d.update(blob_bytes=1), "it does not belong to model.json"),
    "huge shape": (lambda d: reshape_tensor(d, [1, 10**12, 10**12, 1]), "must be at most 4 sizes"),
    "many axes": (lambda d: reshape_tensor(d, [1] * 40), "must be at most 4 sizes"),
    "fractional size": (lambda d: reshape_tensor(d, [1, 2.5, 1, 1]), "must be at most 4 sizes"),
    "shape as text": (lambda d: d["tensors"][0].update(shape="wide"), "must be at most 4 sizes"),
    "negative size": (lambda d: reshape_tensor(d, [1, -4, 1, 6]), "must have sizes >= 1"),
    "wrong constant shape": (lambda d: d["constants"][0].update(shape=[1]), "its tensor"),
    "foreign constant": (lambda d: d["constants"][0].update(name="x"), "is no tensor of the graph"),
    "doubled tensor": (lambda d: d["tensors"].append(d["tensors"][0]), "is listed twice"),
    "dangling output": (lambda d: d.update(output="nowhere"), "is written by no operation"),
    "name of another type": (lambda d: d.update(name=5), "must be a string"),
    "list for object": (lambda d: d.update(tensors=[[]]), "model.json is damaged|unknown tensor fields"),
    "text for number": (lambda d: d["ops"][1]["attrs"].update(start="a"), "model.json"),
    "slice past the end": (lambda d: d["ops"][1]["attrs"].update(start=-99), "must select a part of"),
    "stride zero": (lambda d: d["ops"][2]["attrs"].update(stride=[0, 1]), "stride and dilation must be >= 1"),
    "state initial": (lambda d: d["states"][0].update(initial=0), "must be the zero point"),
    "state field": (lambda d: d["states"][0].update(extra=0), "model.json is damaged"),
    "zero scale": (lambda d: d["tensors"][0]["quant"].update(scale=[0]), "must be finite and > 0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_is_refused_in_one_line(case: str) -> None:
    edit, message = HOSTILE[case]
    with pytest.raises(BundleError, match=message) as caught:
        load_graph(change(edit), BLOB)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff\xfe", b"{" * 100_000, b'{"format": 1}', b"[" * 100_000])
def test_what_is_no_description_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.json") as caught:
        load_graph(text, BLOB)
    assert "\n" not in str(caught.value)


def test_a_short_blob_is_refused() -> None:
    with pytest.raises(BundleError, match=r"it does not belong to model\.json"):
        load_graph(DESCRIPTION, BLOB[:-1])


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    if not isinstance(node, (dict, list)):
        return [path]
    children = node.items() if isinstance(node, dict) else enumerate(node)
    return [path, *(place for key, child in children for place in paths(child, (*path, key)))]


PLACES = [place for place in paths(json.loads(DESCRIPTION)) if place]
VALUES = st.sampled_from([None, True, -1, 0, 1, 2**63, 10**400, 1.5, "", "x", [], {}, [[]], [0], {"a": 1}, "features"])


@settings(max_examples=300)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_one_value_replaced_gives_a_graph_that_runs_or_one_line(place: tuple[Any, ...], value: Any) -> None:
    document = json.loads(DESCRIPTION)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    description = json.dumps(document).encode()
    try:
        program = NumpyProgram(load_graph(description, BLOB))
        signature = program.signature
    except (BundleError, SpecError):
        with pytest.raises((BundleError, SpecError)) as caught:
            _ = NumpyProgram(load_graph(description, BLOB)).signature
        assert "\n" not in str(caught.value)
    else:
        codes = np.zeros((signature.step_frames, signature.n_features), signature.input_quant.dtype)
        assert program.session().run(codes).shape == (signature.outputs_per_step, signature.n_labels)
