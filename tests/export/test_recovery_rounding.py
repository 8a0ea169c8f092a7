"""AdaRound: whole codes, never worse than rounding to nearest, the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor, nn

from edgeaudio_export.calibration import CalibrationSpec, weight_scales
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.layers import layers_of
from edgeaudio_export.recovery.rounding import RoundingSpec, round_weights
from edgeaudio_export.recovery.soft_rounding import SoftRounding
from edgeaudio_export.step_graph import StepGraph, export_step

MINMAX = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))
QUICK = RoundingSpec(iterations=40, batch=4, learning_rate=0.05)
GRID_TOLERANCE = 1e-4
"""Of one code: a weight is a float32 product of code and scale."""


class Mixed(nn.Module):
    """One linear layer; its features are the same value twice, and a third."""

    step_frames = 1
    n_features = 3
    n_labels = 1
    outputs_per_step = 1
    state_names = ("last",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(3, 1, 2)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 3, 1),)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        return self.layer(fifo).transpose(1, 2), (fifo[:, :, -1:],)


@pytest.fixture(scope="module")
def step(float_network: Callable[[str], Any]) -> StepGraph:
    return export_step(frozen_copy(float_network("Keyword")))


@pytest.fixture(scope="module")
def rounded(step: StepGraph, streams: list[Any]) -> Any:
    return round_weights(step, streams, spec=QUICK, recipe=MINMAX)


def test_two_equal_inputs_share_one_code_instead_of_losing_two_halves() -> None:
    # Codes 0.45 and 0.35 both round to 0 and 0.8 is lost; one of them up says 1 instead of 0.8. The weight of 127 codes
    # holds the scale; its input is silent.
    network = Mixed()
    with torch.no_grad():
        network.layer.weight.zero_()
        network.layer.weight[0, :, 1] = torch.tensor([0.45, 0.35, 127.0])
        network.layer.bias.zero_()
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(0, 1, (400, 1)), 3, axis=1).astype(np.float32)
    features[:, 2] = 0.0
    spec = RoundingSpec(iterations=400, learning_rate=0.05)
    done, facts = round_weights(export_step(frozen_copy(network)), [features], spec=spec)
    found = layers_of(done)["conv1d"].weight[0, :, 1].tolist()
    assert sorted(found[:2]) == [0.0, 1.0]
    assert found[2] == 127.0
    assert facts.layers[0].moved == 1
    # Errors of 0.8 x and 0.2 x against a signal of 0.8 x, beside the rounding of x itself.
    assert facts.layers[0].error_nearest == pytest.approx(1.0, rel=0.02)
    assert facts.layers[0].error_after == pytest.approx(0.2**2 / 0.8**2, rel=0.05)


def test_weights_are_whole_codes_of_the_scale_they_had(step: StepGraph, rounded: Any) -> None:
    done, _ = rounded
    for name, layer in layers_of(step).items():
        before, after = layer.weight.numpy(), layers_of(done)[name].weight.numpy()
        np.testing.assert_array_equal(weight_scales(after), weight_scales(before))
        scale = weight_scales(before).reshape(-1, *[1] * (before.ndim - 1))
        codes = after / scale
        assert np.abs(codes - np.rint(codes)).max() < GRID_TOLERANCE
        assert np.abs(np.rint(codes)).max() == 127
        assert np.abs(after - before).max() <= scale.max() * (1 + GRID_TOLERANCE)


def test_no_layer_gets_worse_and_some_get_better(rounded: Any) -> None:
    _, facts = rounded
    assert all(layer.error_after <= layer.error_nearest for layer in facts.layers)
    assert sum(layer.error_after < layer.error_nearest for layer in facts.layers) >= 3
    assert sum(layer.moved for layer in facts.layers) > 0


def test_the_same_seed_gives_the_same_weights(step: StepGraph, streams: list[Any]) -> None:
    spec = RoundingSpec(iterations=5, batch=2, seed=3)
    first, second = (round_weights(step, streams[:3], spec=spec)[0] for _ in range(2))
    for name, layer in layers_of(first).items():
        assert torch.equal(layers_of(second)[name].weight, layer.weight)


def test_facts_are_json_and_name_the_paper(rounded: Any, streams: list[Any]) -> None:
    document = json.loads(json.dumps(rounded[1].to_dict()))
    assert document["paper"] == "arXiv:2004.10568"
    assert (document["iterations"], document["clips"]) == (40, len(streams))
    assert [layer["weights"] for layer in document["layers"]][:2] == [16 * 10 * 3, 16 * 5]


def test_soft_weights_begin_where_the_float_weights_are() -> None:
    weight = torch.tensor([[1.27, 0.012, -0.034], [0.5, -0.254, 0.003]])[:, :, None]
    soft = SoftRounding(weight, per_channel=True)
    np.testing.assert_allclose(soft.soft().detach(), weight, atol=1e-6)
    # Halves of a side cost 1 each at exponent 2, whole sides nothing: (1 - (2 h - 1)**2) by hand.
    shares = soft.shares().detach().numpy()
    assert float(soft.regularizer(2.0).detach()) == pytest.approx(float((1 - (2 * shares - 1) ** 2).sum()), rel=1e-5)


def test_one_scale_for_all_weights_keeps_its_largest_weight() -> None:
    weight = torch.tensor([[1.27, 0.012], [0.5, -0.254]])[:, :, None]
    soft = SoftRounding(weight, per_channel=False)
    np.testing.assert_allclose(soft.nearest()[:, :, 0], [[1.27, 0.01], [0.5, -0.25]], atol=1e-6)
    assert soft.nearest()[0, 0, 0] == weight[0, 0, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"iterations": 0}, "iterations=0 must be >= 1"),
        ({"batch": 0}, "batch=0 must be >= 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0 must be > 0"),
        ({"regularization": -1.0}, r"regularization=-1.0 must be > 0"),
    ],
)
def test_a_rounding_spec_says_what_is_wrong(values: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ExportError, match=words):
        RoundingSpec(**values)
