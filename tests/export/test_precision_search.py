"""The search keeps its goal, stops as soon as it does, and says how it went."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def probes(networks: Any) -> Any:
    return np.stack([networks.speechlike(40, 700 + i) for i in range(4)])


@pytest.fixture(scope="module")
def real_logits(float_network: Any, probes: Any) -> Any:
    import torch

    network = float_network("Keyword")
    with torch.no_grad():
        return network(torch.from_numpy(probes), network.initial_state(len(probes)))[0].numpy()


def db(reference: Any, candidate: Any) -> float:
    noise = np.square(reference.astype(np.float64) - candidate).sum()
    return math.inf if noise == 0 else 10 * math.log10(np.square(reference.astype(np.float64)).sum() / noise)


def search(network: Any, streams: Any, probes: Any, score: Any, **options: Any) -> Any:
    from edgeaudio_export.diagnosis.precision_search import search_precision

    return search_precision(network, streams, score, probes=probes, last_only=False, backend="onnxruntime", **options)


def test_a_goal_that_int8_keeps_raises_nothing(float_network: Any, streams: Any, probes: Any, real_logits: Any) -> None:
    found = search(float_network("Keyword"), streams, probes, lambda logits: 0.5, max_drop=0.0)
    assert found.met
    assert found.recipe.layers == ()
    assert [trial.raised for trial in found.way] == [()]
    assert (found.way[0].drop, found.reference) == (0.0, 0.5)


def test_a_stricter_goal_raises_the_worst_groups_first(
    float_network: Any, streams: Any, probes: Any, real_logits: Any
) -> None:
    tried: list[Any] = []
    heard: list[float] = []

    def score(logits: Any) -> float:
        """Right is float itself, and what lies closer to it than the first candidate, int8."""
        heard.append(db(real_logits, logits))
        return float(len(heard) == 1 or (len(heard) > 2 and heard[-1] >= heard[1] + 0.1))

    found = search(float_network("Keyword"), streams, probes, score, max_drop=50.0, tried=tried.append)
    assert found.met
    assert found.reference == 1.0
    assert tuple(tried) == found.way
    assert (found.way[0].raised, found.way[0].drop, found.way[0].met) == ((), 100.0, False)
    worst, levels = zip(*found.ranking, strict=True)
    assert list(levels) == sorted(levels)
    assert [rule.name for rule in found.way[1].raised] == [worst[0]]
    assert any(trial.raised == found.recipe.layers and trial.met for trial in found.way)
    assert {rule.name for rule in found.recipe.layers} <= set(worst)
    assert json.loads(json.dumps(found.to_dict()))["met"] is True


def test_groups_go_to_int16_one_after_the_other_and_then_to_float() -> None:
    from edgeaudio_export.diagnosis.precision_search import _more_and_more

    way = [[(rule.name, rule.activations) for rule in rules] for rules in _more_and_more(["a", "b"])]
    assert way == [
        [("a", "int16")],
        [("a", "int16"), ("b", "int16")],
        [("a", "float32"), ("b", "int16")],
        [("a", "float32"), ("b", "float32")],
    ]


def test_rules_without_which_the_goal_holds_are_dropped() -> None:
    from edgeaudio_export.diagnosis.precision_search import _fewer
    from edgeaudio_export.quantization_recipe import LayerRule

    rules = tuple(LayerRule(name=name, activations="int16") for name in "abcd")
    kept = _fewer(rules, lambda fewer: {"b", "d"} <= {rule.name for rule in fewer})
    assert [rule.name for rule in kept] == ["b", "d"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_drop": -0.1}, r"max_drop=-0.1 must be >= 0 percentage points"),
        ({"max_drop": math.nan}, r"max_drop=nan must be >= 0 percentage points"),
        ({"max_drop": 0.1, "method": "float32"}, r"max_drop does not go with method='float32'"),
    ],
)
def test_goals_that_mean_nothing_are_refused(
    options: dict[str, Any], words: str, float_network: Any, streams: Any, probes: Any
) -> None:
    from edgeaudio_export.errors import ExportError
    from edgeaudio_export.quantization_recipe import QuantizationRecipe

    recipe = QuantizationRecipe(method=options.pop("method", "static_w8a8"))
    with pytest.raises(ExportError, match=words):
        search(float_network("Keyword"), streams, probes, lambda logits: 1.0, recipe=recipe, **options)
