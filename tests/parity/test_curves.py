"""What a certificate shows of the network itself: scores over clips and the error of every layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import edgeaudio.parity
from edgeaudio.parity.curves import telling_curves
from edgeaudio.parity.float_reference import module_steps
from edgeaudio.parity.float_view import FloatView
from edgeaudio.parity.layer_errors import layer_errors, layer_sections_of, probe_features
from edgeaudio.parity.streams import Networks
from edgeaudio.parity.task import LabelledClips
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.programs import load_integer_graph
from edgeaudio_runtime.quantization import dequantize, quantize

RATE = 16_000
CLIP = round(1.3 * RATE)
"""Samples up to the end of the first golden word, "yes", reported after 1.095 s."""
LOG_DB = 0.01
"""Decibels are rounded to two places."""

Float32 = np.ndarray


@pytest.fixture(scope="module")
def small() -> Bundle:
    return open_bundle(entry_folder("kws-12-small") / BUNDLE)


def schema_of(name: str) -> dict[str, Any]:
    whole = json.loads(Path(edgeaudio.parity.__file__).with_name("certificate.schema.json").read_text("utf-8"))
    return {"$ref": f"#/$defs/{name}", "$defs": whole["$defs"]}


def golden_word(small: Bundle, *, n_clips: int = 1) -> LabelledClips:
    word = small.golden.pcm[:CLIP]
    return LabelledClips(waveforms=np.stack([word] * n_clips), labels=("yes",) * n_clips, speakers=("",) * n_clips)


def test_the_event_on_a_curve_is_the_golden_one_where_int8_crosses_the_threshold(small: Bundle) -> None:
    module = load_checkpoint(entry_folder("kws-12-small")).module
    networks = Networks(bundle=small, program=small.program("numpy"), float_steps=module_steps(module))
    (curve,) = telling_curves(networks, golden_word(small))
    jsonschema.validate(curve, schema_of("curve"))
    golden = small.golden.events[0]
    event = next(event for event in curve["events"] if event["side"] == "int8")
    assert (curve["label"], event["label"], event["at_s"]) == ("yes", golden["label"], golden["detected_s"])
    assert event["score"] == pytest.approx(golden["score"], abs=0.0005)
    scores = curve["int8"]["yes"]
    crossing = next(i for i, score in enumerate(scores) if score >= curve["threshold"])
    assert scores[crossing] == event["score"]
    assert next(iter(curve["int8"])) == "yes"
    assert len(curve["int8"]) == 3
    # 1.3 s and half a second of silence, a score every 40 ms
    assert len(curve["seconds"]) == 45
    assert np.allclose(np.diff(curve["seconds"]), 0.04)


def test_a_float_network_that_hears_nothing_is_shown_as_answered_otherwise(small: Bundle) -> None:
    def silent() -> Any:
        return lambda features: np.tile(np.eye(12, dtype=np.float32)[0] * 20, (len(features) // 4, 1))

    networks = Networks(bundle=small, program=small.program("numpy"), float_steps=silent)
    curves = telling_curves(networks, golden_word(small, n_clips=2))
    assert [curve["chosen"] for curve in curves] == ["nearest to its threshold", "answered otherwise by int8"]
    assert [curve["clip"] for curve in curves] == [1, 0]
    assert max(curves[1]["float"]["yes"]) == 0.0


def test_without_a_float_network_or_a_keyword_there_is_no_such_curve(small: Bundle) -> None:
    networks = Networks(bundle=small, program=small.program("numpy"))
    (curve,) = telling_curves(networks, golden_word(small))
    assert curve["float"] is None
    assert curve["chosen"] == "heard by both"
    unknown = LabelledClips(waveforms=np.zeros((1, RATE), np.int16), labels=("_unknown_",), speakers=("",))
    assert telling_curves(networks, unknown) == []


def decibels(reference: np.ndarray, candidate: np.ndarray) -> float:
    wanted = reference.astype(np.float64)
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((candidate - wanted) ** 2)))


def test_the_error_of_the_last_layer_is_that_of_the_logits(small: Bundle) -> None:
    graph = load_integer_graph(small)
    features = probe_features(small, [], graph.step_frames)
    assert features.shape == (3, 160, 40)  # 492 frames of golden audio in pieces of 40 steps
    features = features[:, 60:100]
    layers = layer_errors(graph, features)
    view, session, quant = FloatView(graph), small.program("numpy").session(), small.manifest.network
    real, codes = [], []
    for stream in features:
        real.append(view(stream))
        session.reset()
        codes.append(dequantize(session.run(quantize(stream, quant.input_quant)), quant.output_quant))
    assert layers[-1].name == "logits"
    expected = decibels(np.concatenate(real), np.concatenate(codes))
    assert layers[-1].sqnr_db == pytest.approx(expected, abs=LOG_DB)
    # What only moves codes is no layer.
    assert {layer.kind for layer in layers} == {"conv", "add"}
    assert all(layer.sqnr_db is None or layer.sqnr_db > 10 for layer in layers)
    for layer in layers:
        jsonschema.validate(layer.to_dict(), schema_of("layer"))


def test_a_layer_in_coarser_steps_stands_out_and_none_before_it(small: Bundle) -> None:
    graph = load_integer_graph(small)
    features = probe_features(small, [], graph.step_frames)[:1, 60:100]
    name = "conv1d_5"
    before = {layer.name: layer.sqnr_db for layer in layer_errors(graph, features)}
    after = {layer.name: layer.sqnr_db for layer in layer_errors(_coarser(graph, name), features)}
    order = list(before)
    earlier = order[: order.index(name)]
    assert [after[each] for each in earlier] == [before[each] for each in earlier]
    # Steps 64 times as wide round 36 dB more coarsely; most of the error that was there came from the layers before.
    assert after[name] < before[name] - 15


def _coarser(graph: IntegerGraph, name: str) -> IntegerGraph:
    """The same network, one tensor in steps 64 times as wide."""
    from dataclasses import replace

    tensor = graph.tensors[name]
    assert tensor.quant is not None
    wide = replace(tensor.quant, scale=tuple(64 * scale for scale in tensor.quant.scale))
    return replace(graph, tensors={**graph.tensors, name: replace(tensor, quant=wide)})


def test_only_streaming_networks_of_static_codes_have_layers(small: Bundle) -> None:
    class Windowed:
        class manifest:
            mode, engines = "windowed", ("numpy",)

    found = layer_sections_of(small, [small.golden.pcm])["layers"]
    assert {"name", "kind", "dtype", "sqnr_db"} == set(found[0])
    assert layer_sections_of(Windowed(), []) == {}  # type: ignore[arg-type]
