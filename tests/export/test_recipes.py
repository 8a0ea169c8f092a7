"""Quantization recipes: names that decode, TOML there and back, rules for layers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("edgeaudio_export", reason="recipes belong to the build side: pip install 'edgeaudio[torch]'")

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.errors import ExportError
from edgeaudio_export.quantization_recipe import (
    METHODS,
    LayerRule,
    QuantizationRecipe,
    decode,
    load_quantization_recipe,
    parse_quantization_recipe,
)

LAYERS = ["features", "block0", "blocks.0/relu_1", "blocks.1/relu_3", "classifier/linear"]

TEXT = """
method = "static_w8a8"
per_channel = false
symmetric_activations = true
recovery = ["equalize", "bias_correction"]

[calibration]
method = "percentile"
percentile = 99.9

[[layers]]
name = "blocks.*"
activations = "int16"

[[layers]]
name = "blocks.1/relu_3"
activations = "float32"
"""


@pytest.mark.parametrize(
    ("method", "mode", "weight_bits", "activation_bits"),
    [
        ("static_w8a8", "static", 8, 8),
        ("static_w8a16", "static", 8, 16),
        ("weight_only_w8", "weight_only", 8, 32),
        ("float16", "float", 16, 32),
        ("float32", "float", 32, 32),
    ],
)
def test_the_name_of_a_method_decodes(method: str, mode: str, weight_bits: int, activation_bits: int) -> None:
    scheme = decode(method)
    assert (scheme.mode, scheme.weight_bits, scheme.activation_bits) == (mode, weight_bits, activation_bits)


def test_a_recipe_says_all_that_its_toml_says() -> None:
    assert parse_quantization_recipe(TEXT) == QuantizationRecipe(
        method="static_w8a8",
        per_channel=False,
        symmetric_activations=True,
        recovery=("equalize", "bias_correction"),
        calibration=CalibrationSpec(method="percentile", percentile=99.9),
        layers=(
            LayerRule(name="blocks.*", activations="int16"),
            LayerRule(name="blocks.1/relu_3", activations="float32"),
        ),
    )


@pytest.mark.parametrize("recipe", [parse_quantization_recipe(TEXT), *(QuantizationRecipe(method=m) for m in METHODS)])
def test_a_recipe_survives_toml_and_json(recipe: QuantizationRecipe) -> None:
    assert parse_quantization_recipe(recipe.to_toml()) == recipe
    assert QuantizationRecipe.from_dict(recipe.to_dict()) == recipe


def test_an_empty_recipe_is_the_default() -> None:
    assert parse_quantization_recipe("") == QuantizationRecipe()
    assert QuantizationRecipe().method == "static_w8a8"


def test_later_rules_win() -> None:
    found = parse_quantization_recipe(TEXT).activations(LAYERS)
    assert found == {
        "features": "int8",
        "block0": "int8",
        "blocks.0/relu_1": "int16",
        "blocks.1/relu_3": "float32",
        "classifier/linear": "int8",
    }


def test_int16_is_symmetric_whatever_int8_is() -> None:
    free, bound = QuantizationRecipe(), QuantizationRecipe(symmetric_activations=True)
    assert [free.symmetric("int8"), free.symmetric("int16"), bound.symmetric("int8")] == [False, True, True]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "static_w4a4"}, r"method='static_w4a4' must be one of \['static_w8a8', 'static_w8a16'"),
        ({"reduce_range": True}, r"reduce_range=True does not go with method='static_w8a8'; it is for 'dynamic_w8'"),
        (
            {"method": "static_w8a16", "symmetric_activations": False},
            r"symmetric_activations=False does not go with method='static_w8a16': int16 .* leave it out",
        ),
        ({"recovery": ["polish"]}, r"recovery=\['polish'\] must be among \['equalize', 'adaround'"),
        ({"recovery": "equalize"}, r"recovery='equalize' must be a list"),
        (
            {"method": "float32", "recovery": ["equalize"]},
            r"recovery=\['equalize'\] does not go with method='float32', which quantizes no activation; leave it out",
        ),
        (
            {"method": "weight_only_w8", "layers": [{"name": "a", "activations": "int8"}]},
            r"layers: rules for \['a'\] do not go with method='weight_only_w8', .* start from a static method",
        ),
        (
            {"layers": [{"name": "a", "activations": "int4"}]},
            r"layers: activations='int4' of 'a' must be one of \['int8'",
        ),
        ({"layers": [{"name": "a"}]}, r"layers: keys \['activations'\] are missing in \{'name': 'a'\}"),
        (
            {"layers": [{"name": "a", "activations": "int8", "bits": 4}]},
            r"layers: unknown keys \['bits'\]; it has \['name'",
        ),
        ({"layers": {"name": "a"}}, r"layers=\{'name': 'a'\} must be a list"),
        ({"mehtod": "float32"}, r"recipe: unknown keys \['mehtod'\]; it has \['method', 'per_channel'"),
        ({"calibration": {"metod": "mse"}}, r"calibration: unknown keys \['metod'\]; it has \['method', 'n_bins'"),
        ({"calibration": "mse"}, r"calibration='mse' must be a table"),
        ({"calibration": {"n_bins": "many"}}, r"calibration\.n_bins='many' must be a number"),
        ({"per_channel": 1}, r"per_channel=1 must be true or false"),
        ({"method": 8}, r"method=8 must be one of"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError, match=words) as refusal:
        QuantizationRecipe.from_dict(values)
    assert "\n" not in str(refusal.value)


def test_a_rule_that_matches_no_layer_lists_the_layers() -> None:
    recipe = QuantizationRecipe(layers=(LayerRule(name="blokcs.*", activations="int16"),))
    with pytest.raises(
        ExportError, match=r"layers: name='blokcs\.\*' matches no layer of this network; it has \['features'"
    ):
        recipe.activations(LAYERS)


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(ExportError, match=r"recipe='.*recipe\.toml' must be a TOML file that can be read"):
        load_quantization_recipe(path)
    path.write_text("method = ")
    with pytest.raises(ExportError, match=r"recipe\.toml: not TOML: "):
        load_quantization_recipe(path)
    path.write_text(TEXT)
    assert load_quantization_recipe(path) == parse_quantization_recipe(TEXT)
