"""The measured cause decides what is suggested."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgeaudio_export.diagnosis.activations import TensorReport
from edgeaudio_export.diagnosis.suggestions import NOTEWORTHY_SHARE, Suggestion, suggest
from edgeaudio_export.diagnosis.weights import WeightReport
from edgeaudio_export.quantization_recipe import QuantizationRecipe, parse_quantization_recipe

TENSOR = TensorReport(
    layer="stem/conv1d", tensor="relu", dtype="int8", sqnr_db=20.0, local_sqnr_db=25.0,
    causes={"weights": 0.0, "input": 0.5, "clipping": 0.0, "rounding": 0.5}, clip_low=-1.0, clip_high=1.0,
    minimum=-2.0, maximum=3.0, saturated_share=0.02, unused_code_share=0.0, channel_ratio=2.0, dead_channels=0,
    histogram=((0.0, 1),), bin_width=1.0,
)  # fmt: skip
WEIGHT = WeightReport(
    layer="stem/conv1d", dtype="int8", bytes=8, sqnr_db=30.0, per_channel=True, channel_ratio=2.0, dead_channels=0,
    unused_code_share=0.0, clip=1.0, counts=(1,), edges=(0.0, 1.0),
)  # fmt: skip


def suggested(
    cause: str, *, method: str = "mse", share: float = 0.3, weight: WeightReport | None = WEIGHT, **changes: Any
) -> Suggestion | None:
    causes = {**dict.fromkeys(TENSOR.causes, 0.05), cause: 0.85}
    tensor = dataclasses.replace(TENSOR, causes=causes, **changes)
    return suggest(tensor, weight, group="stem/conv1d", method=method, noise_share=share)


@pytest.mark.parametrize(
    ("arguments", "cause", "words", "found"),
    [
        ({"cause": "clipping"}, "clipping", "take a wider range", {"calibration": "minmax"}),
        ({"cause": "clipping", "method": "minmax"}, "clipping", "more and louder clips", {"layers": "int16"}),
        ({"cause": "weights"}, "weights", "choose the roundings by their effect", {"recovery": ("adaround",)}),
        (
            {"cause": "weights", "weight": dataclasses.replace(WEIGHT, per_channel=False, channel_ratio=9.0)},
            "weights", "channels that differ 9 times in range", {"per_channel": True},
        ),
        ({"cause": "rounding", "unused_code_share": 0.8}, "idle codes", "80% of the codes idle", {"layers": "int16"}),
        (
            {"cause": "rounding", "channel_ratio": 40.0}, "uneven channels", "channels differ 40 times in range",
            {"recovery": ("equalize",)},
        ),
        ({"cause": "rounding"}, "rounding", "need more than 8 bits", {"layers": "int16"}),
        # An addition has no weights to move a difference into.
        ({"cause": "rounding", "channel_ratio": 40.0, "weight": None}, "rounding", "8 bits", {"layers": "int16"}),
    ],
)  # fmt: skip
def test_each_cause_has_its_remedy_and_its_toml_is_a_recipe(
    arguments: dict[str, Any], cause: str, words: str, found: dict[str, Any]
) -> None:
    suggestion = suggested(**arguments)
    assert suggestion is not None
    assert suggestion.cause == cause
    assert words in suggestion.text
    recipe = parse_quantization_recipe(suggestion.toml)
    assert recipe.calibration.method == found.get("calibration", QuantizationRecipe().calibration.method)
    assert recipe.recovery == found.get("recovery", ())
    assert [rule.activations for rule in recipe.layers] == ([found["layers"]] if "layers" in found else [])
    assert all(rule.matches("stem/conv1d") for rule in recipe.layers)


def test_a_layer_that_does_not_matter_is_left_alone() -> None:
    assert suggested("clipping", share=NOTEWORTHY_SHARE / 2) is None
    assert suggested("clipping", dtype="float32") is None


def test_the_error_of_the_input_is_not_held_against_the_layer() -> None:
    causes = {"weights": 0.02, "input": 0.9, "clipping": 0.06, "rounding": 0.02}
    tensor = dataclasses.replace(TENSOR, causes=causes)
    suggestion = suggest(tensor, WEIGHT, group="stem/conv1d", method="mse", noise_share=0.5)
    assert suggestion is not None
    assert suggestion.cause == "clipping"
    assert suggestion.text.startswith("60% of its own error is clipping: 2.00% of the values lie outside [-1, 1]")
