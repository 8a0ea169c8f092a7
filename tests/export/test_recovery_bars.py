"""What recovery is for: a network that min-max int8 ruins comes back.

A small network is trained for seconds on synthetic features, then made badly conditioned: one channel of every group 64
times the others, the float function the same to the bit.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.bad_conditioning import worsen
from edgeaudio_export.recovery.bias_correction import correct_biases
from edgeaudio_export.recovery.equalization import equalize
from edgeaudio_export.recovery.simulation import Simulation, plan_for, with_nearest_weights
from edgeaudio_export.step_graph import StepGraph, export_step

MINMAX = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))
MIN_LOSS = 0.05
"""What min-max int8 must lose for the network to count as badly conditioned."""
MIN_RECOVERED = 0.8
"""Share of that loss which recovery must win back."""
SAME_CODES = 0.99
"""Share of logits of the simulation that are the very codes of the quantization path; biases are not rounded here, so
that a value on the boundary of two codes may fall to the other side."""


def clips(networks: ModuleType, n_clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Speechlike noise in which one of five pairs of bands rises and falls for 16 frames: the label."""
    rng = np.random.default_rng(seed)
    features = np.stack([networks.speechlike(48, 10_000 * (seed + 1) + i) for i in range(n_clips)])
    labels = rng.integers(5, size=n_clips)
    for clip, label in zip(features, labels, strict=True):
        begin = rng.integers(20, 28)
        clip[begin : begin + 16, 2 * label : 2 * label + 2] += 1.6 * np.hanning(16)[:, None]
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def trained(networks: ModuleType) -> StepGraph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network: Any = networks.settled(networks.Keyword(n_blocks=1))
    features, labels = clips(networks, 640, 0)
    network.train()
    network.average.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        rows = torch.randint(len(labels), (64,), generator=generator)
        logits, _ = network(features[rows], network.initial_state(64))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits[:, -1], labels[rows]).backward()
        optimizer.step()
    return export_step(frozen_copy(network.eval()))


@pytest.fixture(scope="module")
def calibration(networks: ModuleType) -> list[Any]:
    return list(clips(networks, 64, 1)[0].numpy())


@pytest.fixture(scope="module")
def bad(trained: StepGraph, calibration: list[Any]) -> StepGraph:
    return worsen(trained, calibration, factor=64.0)[0]


def accuracy(step: StepGraph, networks: ModuleType, calibration: list[Any], *, int8: bool = True) -> float:
    features, labels = clips(networks, 500, 2)
    plan = plan_for(step, calibration, MINMAX)
    simulation = Simulation(with_nearest_weights(step, plan), plan.params) if int8 else Simulation(step)
    with torch.no_grad():
        return float((simulation.logits(features)[:, -1].argmax(dim=1) == labels).double().mean())


def test_recovery_wins_back_what_bad_conditioning_loses(
    trained: StepGraph, bad: StepGraph, calibration: list[Any], networks: ModuleType
) -> None:
    reference = accuracy(trained, networks, calibration, int8=False)
    assert accuracy(bad, networks, calibration, int8=False) == reference
    ruined = accuracy(bad, networks, calibration)
    equalized, _ = equalize(bad, calibration, recipe=MINMAX)
    corrected, _ = correct_biases(equalized, calibration, recipe=MINMAX)
    recovered = accuracy(corrected, networks, calibration)
    assert reference > 0.9
    assert reference - ruined >= MIN_LOSS
    assert recovered - ruined >= MIN_RECOVERED * (reference - ruined)


def test_the_simulation_says_what_the_quantization_path_says(
    trained: StepGraph, calibration: list[Any], networks: ModuleType
) -> None:
    from edgeaudio_export.pt2e import quantize_with_pt2e

    plan = plan_for(trained, calibration, MINMAX)
    path = quantize_with_pt2e(trained, plan)
    stream = calibration[0]
    with torch.no_grad():
        own = Simulation(with_nearest_weights(trained, plan), plan.params).logits(torch.from_numpy(stream[None]))[0]
    scale = plan.params[trained.outputs[0]].scale[0]
    codes = np.rint(np.abs(path.simulate(stream) - own.numpy()) / scale)
    assert codes.max() <= 1
    assert (codes == 0).mean() >= SAME_CODES - 1 / codes.size
