"""The manifest refuses what it does not know, by name."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeaudio_runtime import manifest as manifest_module
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.manifest import SCHEMA_VERSION, Manifest, check_path


@pytest.fixture
def values(keyword_bundle: Path) -> dict[str, Any]:
    return json.loads((keyword_bundle / "manifest.json").read_text())


def test_a_manifest_survives_the_way_to_json_and_back(values: dict[str, Any]) -> None:
    manifest = Manifest.from_dict(values)
    assert manifest.to_dict() == values
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


def test_the_fields_of_the_contract_stand_in_the_json(values: dict[str, Any]) -> None:
    assert set(values) == {
        "schema_version", "name", "task", "mode", "labels", "background_labels", "features", "features_hash",
        "network", "quantization", "artifacts", "provenance",
    }  # fmt: skip
    assert set(values["network"]) == {
        "step_frames", "outputs_per_step", "n_features", "n_labels", "latency_frames", "receptive_field_frames",
        "window_frames", "input_quant", "output_quant", "states", "input_frames", "output", "tensors", "hidden_state",
    }  # fmt: skip
    assert set(values["artifacts"][0]) == {"path", "engine", "role", "sha256", "size"}
    assert set(values["quantization"]) == {
        "backend", "method", "calibration", "requantization", "recipe", "exact_engines",
    }  # fmt: skip
    assert set(values["network"]["states"][0]) == {"name", "shape", "dtype", "initial"}


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ((), {"colour": 1}, "unknown manifest fields ['colour']"),
        (("network",), {"stepframes": 1}, "unknown network fields ['stepframes']"),
        (("quantization",), {"bits": 8}, "unknown quantization fields ['bits']"),
        (("artifacts", 0), {"md5": ""}, "unknown artifact fields ['md5']"),
        (("network", "states", 0), {"layout": ""}, "unknown state fields ['layout']"),
        (("network", "input_quant"), {"bits": 8}, "input_quant: unknown quantization fields ['bits']"),
        (("network", "output_quant"), {"scale": [0]}, "output_quant: scale=(0,) must be finite and > 0"),
        (("network", "output_quant"), {"scale": 3}, "output_quant"),
        ((), {"schema_version": 4}, "schema_version=4 is newer than 3"),
        ((), {"schema_version": "1"}, "schema_version='1' must be an integer"),
        ((), {"task": "vad"}, "task='vad' must be one of ['keyword', 'ctc']"),
        ((), {"mode": "batch"}, "mode='batch' must be one of"),
        ((), {"labels": ["a", "b"]}, "n_labels=4 must equal the number of labels, 2"),
        ((), {"labels": ["a", "a", "b", "c"]}, "labels has ['a'] more than once"),
        ((), {"labels": "abcd"}, "labels='abcd' must be a list of strings"),
        ((), {"background_labels": ["_music_"]}, "background_labels ['_music_'] are not in labels"),
        ((), {"features": 3}, "features=3 must be an object"),
        ((), {"provenance": []}, "provenance=[] must be an object"),
        ((), {"artifacts": {}}, "artifacts={} must be a list"),
        ((), {"features_hash": "sha256:x"}, "features_hash='sha256:x' must be 'sha256:' and 64"),
        (("network",), {"step_frames": 0}, "step_frames=0 must be an integer >= 1"),
        (("network",), {"step_frames": True}, "step_frames=True must be an integer >= 1"),
        (("network",), {"latency_frames": -1}, "latency_frames=-1 must be an integer >= 0"),
        (("network",), {"window_frames": None}, "window_frames=null; a keyword network must say"),
        (("network",), {"states": {}}, "states={} must be a list"),
        (("network", "states", 0), {"shape": []}, "shape=() of state"),
        (("network", "states", 0), {"dtype": "int4"}, "dtype of state 'features_fifo'='int4' must be one of"),
        (("quantization",), {"requantization": "exact"}, "requantization='exact' must be one of"),
        (("quantization",), {"calibration": 1}, "calibration=1 must be an object"),
        (("quantization",), {"recipe": []}, "recipe=[] must be an object"),
        (("quantization",), {"exact_engines": "numpy"}, "exact_engines='numpy' must be a list of strings"),
        (("quantization",), {"exact_engines": ["tvm"]}, "exact_engines='tvm' must be one of"),
        (("network", "states", 0), {"initial": "0"}, "initial='0' of state 'features_fifo' must be a number of type"),
        (("network", "states", 0), {"initial": 0.5}, "initial=0.5 of state 'features_fifo' must be a number of type"),
        (("artifacts", 0), {"engine": "tvm"}, "engine of 'model.json'='tvm' must be one of"),
        (("artifacts", 0), {"role": "toy"}, "role of 'model.json'='toy' must be one of"),
        (("artifacts", 0), {"size": -1}, "size of 'model.json'=-1 must be an integer >= 0"),
        (("artifacts", 0), {"sha256": "AB"}, "sha256='AB' of 'model.json' must be 64 lower-case"),
        (("artifacts", 0), {"path": "model.bin"}, "artifacts names ['model.bin'] more than once"),
        (("artifacts", 0), {"path": "detector.json"}, "artifacts names ['detector.json']; these may be replaced"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], where: tuple[Any, ...], change: Any, words: str) -> None:
    changed = copy.deepcopy(values)
    place = changed
    for key in where:
        place = place[key]
    place.update(change)
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(changed)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["task", "network", "artifacts", "features_hash"])
def test_a_missing_field_is_named(values: dict[str, Any], name: str) -> None:
    del values[name]
    with pytest.raises(BundleError, match=rf"manifest lacks the fields \['{name}'\]"):
        Manifest.from_dict(values)


@pytest.mark.parametrize("wrong", [None, [], "x", 3])
def test_a_manifest_must_be_an_object(wrong: object) -> None:
    with pytest.raises(BundleError, match="must be an object"):
        Manifest.from_dict(wrong)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "a//b", "", ".", "a/.", "C:x", "a\\b", "a\0b", "a\nb", 3]
)
def test_a_path_that_could_leave_the_bundle_is_refused(path: object) -> None:
    with pytest.raises(BundleError, match="must be relative"):
        check_path(path)


def test_an_older_schema_is_brought_up_step_by_step(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda old: {**{k: v for k, v in old.items() if k != name}, "name": old[name]}

    monkeypatch.setattr(manifest_module, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    monkeypatch.setattr(
        manifest_module,
        "_UPGRADES",
        {
            SCHEMA_VERSION: rename("title"),
            SCHEMA_VERSION + 1: lambda old: {**old, "task": "keyword"},
        },
    )
    old = {**values, "title": "from version one"}
    del old["name"], old["task"]
    manifest = Manifest.from_dict(old)
    assert (manifest.name, manifest.task, manifest.schema_version) == (
        "from version one",
        "keyword",
        SCHEMA_VERSION + 2,
    )


def test_a_manifest_of_version_one_is_one_of_an_int8_network(values: dict[str, Any]) -> None:
    old = copy.deepcopy(values) | {"schema_version": 1}
    del old["quantization"]["recipe"], old["quantization"]["exact_engines"]
    for name in ("input_frames", "output", "tensors", "hidden_state"):
        del old["network"][name]
    manifest = Manifest.from_dict(old)
    assert manifest.schema_version == 3
    assert manifest.quantization.recipe == {}
    assert manifest.quantization.exact_engines == ("numpy", "onnxruntime", "litert")
    assert (manifest.network.input_frames, manifest.network.output) == (None, "logits")
    with pytest.raises(BundleError, match="manifest lacks the fields"):
        Manifest.from_dict({"schema_version": 1})


def test_engines_are_those_with_an_artifact(values: dict[str, Any]) -> None:
    assert Manifest.from_dict(values).engines == ("numpy",)


def test_an_artifact_that_is_not_there_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"the bundle has no artifact 'model\.xyz'; it has \['model\.json'"):
        Manifest.from_dict(values).artifact("model.xyz")
