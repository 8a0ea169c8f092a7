"""Equalization changes weights and never the function; groups of channels are found by what ties them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor, nn

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.bad_conditioning import excess_kurtosis, worsen
from edgeaudio_export.recovery.channel_groups import channel_groups
from edgeaudio_export.recovery.equalization import equalize, rescale
from edgeaudio_export.recovery.layers import layers_of, spread_inputs
from edgeaudio_export.recovery.simulation import Simulation
from edgeaudio_export.step_graph import StepGraph, export_step, run_stream

MINMAX = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))


class Plain(nn.Module):
    """features -> pointwise -> relu -> FIFO -> depthwise -> linear head, with weights a test can set."""

    step_frames = 2
    n_features = 3
    n_labels = 2
    outputs_per_step = 2
    state_names = ("fifo",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(3, 3, 1)
        self.second = nn.Conv1d(3, 3, 2, groups=3)
        self.head = nn.Linear(3, 2)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 3, 1),)

    def inner(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        fifo = torch.cat([state[0], self.inner(features.transpose(1, 2))], dim=2)
        return self.head(self.second(fifo).transpose(1, 2)), (fifo[:, :, -1:],)


class JoinedChannels(Plain):
    """Two halves joined along the channels: their factors would have to be told apart."""

    def inner(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return torch.cat([y[:, :1], y[:, 1:]], dim=1)


def step_of(network: Any) -> StepGraph:
    return export_step(frozen_copy(network))


@pytest.fixture(scope="module")
def steps(float_network: Callable[[str], Any]) -> dict[str, StepGraph]:
    return {name: step_of(float_network(name)) for name in ("Keyword", "Ctc")}


def described(step: StepGraph) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(group.producers, group.consumers) for group in channel_groups(step)]


def test_a_residual_stream_is_one_group_with_all_its_writers_and_readers(steps: dict[str, StepGraph]) -> None:
    # In order: stem, then depthwise and pointwise of two blocks, the average and the classifier.
    assert described(steps["Keyword"]) == [
        (("conv1d", "conv1d_2", "conv1d_4"), ("conv1d_1", "conv1d_3", "conv1d_5")),
        (("conv1d_1",), ("conv1d_2",)),
        (("conv1d_3",), ("conv1d_4",)),
        (("conv1d_5",), ("conv1d_6",)),
    ]


def test_what_a_sigmoid_or_tanh_reads_keeps_its_scale(steps: dict[str, StepGraph]) -> None:
    written = {name for producers, _ in described(steps["Ctc"]) for name in producers}
    # conv1d_5 and conv1d_6 are gate and value; the linear classifier writes the logits.
    assert written == {"conv1d", "conv1d_1", "conv1d_2", "conv1d_3", "conv1d_4"}


def test_channels_that_are_joined_are_left_alone() -> None:
    assert described(step_of(Plain())) == [(("conv1d",), ("conv1d_1",)), (("conv1d_1",), ("linear",))]
    assert described(step_of(JoinedChannels())) == [(("conv1d_1",), ("linear",))]


@pytest.mark.parametrize("name", ["Keyword", "Ctc"])
def test_equalization_leaves_every_bit_of_the_float_logits(
    name: str, steps: dict[str, StepGraph], streams: list[Any], unseen: np.ndarray
) -> None:
    equalized, facts = equalize(steps[name], streams, recipe=MINMAX)
    assert any(group.rule != "none" for group in facts.groups)
    network = steps[name].network
    before, after = (run_stream(step.module, network, unseen) for step in (steps[name], equalized))
    np.testing.assert_array_equal(before, after)


def test_equalization_leaves_the_graph_it_was_given(steps: dict[str, StepGraph], streams: list[Any]) -> None:
    before = {name: layer.weight.clone() for name, layer in layers_of(steps["Keyword"]).items()}
    equalized, _ = equalize(steps["Keyword"], streams)
    assert all(torch.equal(before[name], layer.weight) for name, layer in layers_of(steps["Keyword"]).items())
    assert any(not torch.equal(before[name], layer.weight) for name, layer in layers_of(equalized).items())


def test_factors_are_the_ratio_of_the_peaks_where_only_a_depthwise_layer_reads() -> None:
    # Channels pass the features 1:1 with gains 1, 16 and 1/4, so their peaks on features that all reach 2 are 2, 32
    # and 0.5. Nothing in the depthwise weights speaks against equal peaks: factors 1, 16 and 1/4.
    network = Plain()
    with torch.no_grad():
        network.first.weight.copy_(torch.diag(torch.tensor([1.0, 16.0, 0.25]))[:, :, None])
        network.first.bias.zero_()
    features = np.random.default_rng(0).uniform(0, 2, (400, 3)).astype(np.float32)
    features[7] = 2.0
    step, facts = equalize(step_of(network), [features], recipe=MINMAX)
    assert (facts.groups[0].smallest, facts.groups[0].largest) == (0.25, 16.0)
    np.testing.assert_array_equal(layers_of(step)["conv1d"].weight[:, :, 0], np.eye(3))


def test_input_factors_meet_grouped_weights_where_a_convolution_reads_them() -> None:
    # A convolution of the factors themselves, spread by torch: weights 1 where input i is read, times its factor.
    convolution = nn.Conv1d(6, 4, 1, groups=2, bias=False)
    layer = next(iter(layers_of(step_of(Plain())).values()))
    grouped = replace(layer, weight=torch.ones_like(convolution.weight).detach(), groups=2)
    factors = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    scaled = grouped.weight * spread_inputs(factors, grouped)
    total = nn.functional.conv1d(torch.ones(1, 6, 1), scaled, groups=2)[0, :, 0]
    assert total.tolist() == [7.0, 7.0, 56.0, 56.0]


def test_an_outlier_channel_loses_precision_and_equalization_wins_it_back(
    steps: dict[str, StepGraph], streams: list[Any]
) -> None:
    bad, outliers = worsen(steps["Keyword"], streams, factor=64.0)
    _, facts = equalize(bad, streams, recipe=MINMAX)
    assert all(outlier.kurtosis_after > 10 * outlier.kurtosis_before > 0 for outlier in outliers[1:3])
    for group in facts.groups[:3]:
        assert group.noise_after < 0.2 * group.noise_before
        assert group.largest >= 16.0


def test_worsening_by_a_power_of_two_leaves_every_bit(steps: dict[str, StepGraph], streams: list[Any]) -> None:
    bad, _ = worsen(steps["Keyword"], streams, factor=64.0)
    batch = torch.from_numpy(np.stack([stream[:40] for stream in streams]))
    with torch.no_grad():
        assert torch.equal(Simulation(bad).logits(batch), Simulation(steps["Keyword"]).logits(batch))


def test_excess_kurtosis_of_known_values() -> None:
    # +-1 with equal shares has fourth and squared second moment 1; 1 value of 10 among 999 zeros close to 1000 - 3.
    assert excess_kurtosis(torch.tensor([-1.0, 1.0])) == pytest.approx(-2.0)
    assert excess_kurtosis(torch.tensor([10.0] + [0.0] * 999)) == pytest.approx(995.0, rel=0.01)


def test_rescaling_and_its_inverse_give_the_weights_back(steps: dict[str, StepGraph]) -> None:
    group = channel_groups(steps["Keyword"])[0]
    factors = torch.exp2(torch.arange(16.0) - 8)
    back = rescale(rescale(steps["Keyword"], group, factors), group, 1.0 / factors)
    for name, layer in layers_of(steps["Keyword"]).items():
        assert torch.equal(layers_of(back)[name].weight, layer.weight)
        assert torch.equal(layers_of(back)[name].bias, layer.bias)


def test_facts_are_json_and_name_every_group(
    steps: dict[str, StepGraph], streams: list[Any], networks: ModuleType
) -> None:
    calls: list[tuple[int, int]] = []
    _, facts = equalize(steps["Ctc"], streams, progress=lambda done, total: calls.append((done, total)))
    document = json.loads(json.dumps(facts.to_dict()))
    assert [tuple(g["producers"]) for g in document["groups"]] == [g.producers for g in channel_groups(steps["Ctc"])]
    assert calls == [(i + 1, len(facts.groups)) for i in range(len(facts.groups))]


def test_channels_that_are_never_used_keep_their_scale() -> None:
    network = Plain()
    with torch.no_grad():
        network.first.weight[1] = 0.0
        network.first.bias[1] = -1.0
    features = np.random.default_rng(0).uniform(0, 2, (400, 3)).astype(np.float32)
    step, _ = equalize(step_of(network), [features], recipe=MINMAX)
    assert torch.equal(layers_of(step)["conv1d"].bias[1], torch.tensor(-1.0))
