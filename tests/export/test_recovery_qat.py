"""Quantization-aware training: what is rounded, what is trained, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.recovery.layers import layers_of
from edgeaudio_export.recovery.qat import TrainingSpec, train_quantized
from edgeaudio_export.recovery.simulation import Simulation, plan_for, with_nearest_weights
from edgeaudio_export.step_graph import StepGraph, export_step

MINMAX = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"))
STILL = TrainingSpec(epochs=1, learning_rate=1e-12)
"""Training that changes nothing, so that its loss is that of the network it began with."""


@pytest.fixture(scope="module")
def step(float_network: Callable[[str], Any]) -> StepGraph:
    return export_step(frozen_copy(float_network("Keyword")))


@pytest.fixture(scope="module")
def clips(streams: list[Any]) -> np.ndarray:
    return np.stack([stream[:40] for stream in streams])


@pytest.fixture(scope="module")
def trained(step: StepGraph, streams: list[Any], clips: np.ndarray) -> Any:
    spec = TrainingSpec(epochs=4, learning_rate=3e-4)
    return train_quantized(step, [(clips[:6], None), (clips[6:], None)], streams, spec=spec, recipe=MINMAX)


def test_the_first_loss_is_the_divergence_of_the_int8_network_from_float(
    step: StepGraph, streams: list[Any], clips: np.ndarray
) -> None:
    _, facts = train_quantized(step, [(clips, None)], streams, spec=STILL, recipe=MINMAX)
    plan = plan_for(step, streams, MINMAX)
    features = torch.from_numpy(clips)
    with torch.no_grad():
        wanted = Simulation(step).logits(features).double().numpy()
        found = Simulation(with_nearest_weights(step, plan), plan.params).logits(features).double().numpy()
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=2, keepdims=True)) for x in (wanted, found))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=2).mean()
    assert facts.losses[0] == pytest.approx(expected, rel=1e-3)


def test_distillation_brings_int8_closer_to_float(trained: Any) -> None:
    _, facts = trained
    assert facts.loss == "distillation"
    assert facts.losses[-1] < 0.8 * facts.losses[0]


def test_averages_over_time_are_not_trained(step: StepGraph, trained: Any) -> None:
    done, facts = trained
    before, after = layers_of(step), layers_of(done)
    # The average is the depthwise layer before the classifier.
    assert facts.layers == ("conv1d", "conv1d_1", "conv1d_2", "conv1d_3", "conv1d_4", "conv1d_6")
    assert torch.equal(before["conv1d_5"].weight, after["conv1d_5"].weight)
    assert all(not torch.equal(before[name].weight, after[name].weight) for name in facts.layers)


def test_a_given_loss_sees_logits_and_targets(step: StepGraph, streams: list[Any], clips: np.ndarray) -> None:
    seen = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append((tuple(logits.shape), target.tolist()))
        return torch.nn.functional.cross_entropy(logits[:, -1], target)

    batches = [(clips[:2], torch.tensor([0, 1])), (clips[2:4], torch.tensor([2, 3]))]
    _, facts = train_quantized(step, batches, streams[:2], loss, spec=TrainingSpec(epochs=1))
    assert seen == [((2, 10, 5), [0, 1]), ((2, 10, 5), [2, 3])]
    assert (facts.loss, facts.batches, len(facts.losses)) == ("given", 2, 1)


def test_the_graph_that_was_given_stays(step: StepGraph, streams: list[Any], clips: np.ndarray) -> None:
    before = {name: layer.weight.clone() for name, layer in layers_of(step).items()}
    calls: list[tuple[int, int]] = []
    train_quantized(
        step,
        [(clips[:2], None)],
        streams[:2],
        spec=TrainingSpec(epochs=2),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert all(torch.equal(before[name], layer.weight) for name, layer in layers_of(step).items())
    assert calls == [(1, 2), (2, 2)]


def test_facts_are_json(trained: Any) -> None:
    document = json.loads(json.dumps(trained[1].to_dict()))
    assert (document["epochs"], document["batches"], document["learning_rate"]) == (4, 2, 3e-4)


def test_what_does_not_fit_is_refused(step: StepGraph, streams: list[Any], clips: np.ndarray) -> None:
    one = streams[:1]
    with pytest.raises(ExportError, match=r"can be read once, must be read epochs=2 times; give a list"):
        train_quantized(step, iter([(clips, None)]), one, spec=TrainingSpec(epochs=2))
    with pytest.raises(ExportError, match=r"batches=\[\] must hold at least one batch of clips to train on"):
        train_quantized(step, [], one)
    with pytest.raises(
        ExportError, match=r"features of a batch are float32\[12, 39, 10\], must be float32 \[N, T, n_feat"
    ):
        train_quantized(step, [(clips[:, :39], None)], one)
    with pytest.raises(ExportError, match=r"features of a batch are float64\[12, 40, 10\], must be float32"):
        train_quantized(step, [(clips.astype(np.float64), None)], one)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"epochs": 0}, "epochs=0 must be >= 1"), ({"learning_rate": 0.0}, r"learning_rate=0.0 must be > 0; 1e-4 is the")],
)
def test_a_training_spec_says_what_is_wrong(values: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ExportError, match=words):
        TrainingSpec(**values)
