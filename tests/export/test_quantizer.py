"""Ties, the quantizer's groups and the folding of batch norms."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch
from torch import Tensor, nn

from edgeaudio_export.activation_groups import activation_groups
from edgeaudio_export.errors import ExportError
from edgeaudio_export.step_graph import export_step, roll_out
from edgeaudio_export.ties import Ties

FOLDING_TOLERANCE = 1e-5
"""Folding a batch norm rounds the product of two float32 factors once more; measured 1e-6 on logits of about 3."""


def test_a_diamond_of_ties_is_one_group_led_by_its_first_member() -> None:
    ties: Ties[str] = Ties()
    for member in "abcde":
        ties.add(member)
    for one, other in ("db", "dc", "ab", "ac"):
        ties.tie(one, other)
    assert ties.groups() == {"a": ("a", "b", "c", "d"), "e": ("e",)}
    assert {ties.leader(m) for m in "abcd"} == {"a"}


class Diamond(nn.Module):
    """Two branches from one relu: an add and a cat with a state, and a third branch that a convolution cuts off."""

    step_frames, n_features, n_labels, outputs_per_step = 2, 4, 4, 2
    state_names = ("past",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(4, 4, 1)
        self.outer = nn.Conv1d(4, 4, 3)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 4, 2),)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = features.transpose(1, 2)
        joined = torch.cat([state[0], torch.relu(x + self.inner(x))], dim=2)
        return self.outer(joined).transpose(1, 2), (joined[:, :, -2:],)


def test_an_add_a_concat_and_a_state_tie_features_to_the_state() -> None:
    step = export_step(Diamond())
    names = {str(n.target): n.name for n in step.module.graph.nodes}
    features, state = step.inputs
    tied = {features, state, "transpose", "conv1d", names["aten.relu.default"], names["aten.cat.default"]}
    tied |= {names["aten.slice.Tensor"]}
    one, other = activation_groups(step)
    assert (one.name, set(one.members)) == ("features", tied)
    assert (other.name, set(other.members)) == ("outer/conv1d_1", {"conv1d_1", "transpose_1"})
    assert one.computed == (features, "conv1d", names["aten.relu.default"])
    assert other.computed == ("conv1d_1",)


class GatedState(Diamond):
    """A sigmoid whose fixed scale meets a tie to a convolution."""

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.inner(features.transpose(1, 2))
        joined = torch.cat([state[0], torch.sigmoid(x) + x], dim=2)
        return self.outer(joined).transpose(1, 2), (joined[:, :, -2:],)


def test_a_fixed_scale_that_is_tied_to_another_is_refused_by_name() -> None:
    step = export_step(GatedState())
    with pytest.raises(ExportError, match=r"aten.sigmoid.default in 'forward' is tied to 'inner' by cat, slice or add"):
        activation_groups(step)


def test_batch_norms_are_gone_and_logits_stay(networks: ModuleType) -> None:
    network = networks.settled(networks.Keyword())
    step = export_step(network)
    assert "batch_norm" not in str([n.target for n in step.module.graph.nodes])
    features = torch.from_numpy(networks.speechlike(4, 3))[None]
    with torch.no_grad():
        state = tuple(torch.randn_like(s) for s in network.initial_state(1))
        expected, folded = network(features, state), step.module(features, state)
    torch.testing.assert_close(folded[0], expected[0], atol=FOLDING_TOLERANCE, rtol=0)


def test_streams_of_different_lengths_roll_out_from_reset(networks: ModuleType) -> None:
    network = networks.settled(networks.Keyword())
    rng = np.random.default_rng(0)
    streams = [rng.normal(size=(4 * n, networks.N_FEATURES)).astype(np.float32) for n in (3, 1, 5)]
    seen: list[tuple[Any, Tensor]] = []
    calls: list[tuple[int, int]] = []

    def spy(features: Tensor, state: Any) -> Any:
        with torch.no_grad():
            logits, new_state = network(features, state)
        seen.extend((f.numpy().tobytes(), row) for f, row in zip(features, logits, strict=True))
        return logits, new_state

    roll_out(spy, network, streams, batch=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]
    found = dict(seen)
    for stream in streams:
        with torch.no_grad():
            whole = network(torch.from_numpy(stream)[None], network.initial_state(1))[0][0]
        rows = torch.cat([found[stream[i : i + 4].tobytes()] for i in range(0, len(stream), 4)])
        np.testing.assert_allclose(rows, whole, atol=1e-4)
