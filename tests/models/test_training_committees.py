"""Training a committee: every member by its own loss, the whole judged, kept and resumed as one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.ds_tc_committee import DsTcCommittee
from edgeaudio_models.streaming import StreamingModule, run_from_reset
from edgeaudio_models.training import train
from edgeaudio_models.training_run import TrainingRun
from tests.training_on_tones import DATA, KEYWORD, Killed, kill_at, same_weights

COMMITTEE = replace(
    KEYWORD,
    training=replace(KEYWORD.training, epochs=26),
    model=replace(KEYWORD.model, architecture="ds_tc_committee", parameters={**KEYWORD.model.parameters, "members": 3}),
)


def test_the_loss_of_a_step_is_the_mean_of_what_each_member_loses_alone() -> None:
    run = TrainingRun(COMMITTEE, DATA)
    asked: list[StreamingModule] = []
    alone: list[float] = []
    loss = run.task.loss

    def watched(module: StreamingModule, chosen: Tensor, generator: torch.Generator) -> Tensor:
        asked.append(module)
        alone.append(float((value := loss(module, chosen, generator)).detach()))
        return value

    run.task.loss = watched  # type: ignore[method-assign]
    step = run._step(torch.arange(8), 0, torch.Generator().manual_seed(0))
    assert asked == list(run.module.learners)
    assert len(set(alone)) == 3
    assert step == pytest.approx(sum(alone) / 3)


def test_what_one_member_learns_does_not_reach_another() -> None:
    run = TrainingRun(COMMITTEE, DATA)
    first, second, third = run.module.learners
    features = torch.randn(4, 8, run.spec.n_features, generator=torch.Generator().manual_seed(0))
    run.task.loss = lambda module, chosen, generator: (  # type: ignore[method-assign]
        run_from_reset(module, features).square().mean() if module is second else 0.0 * next(module.parameters()).sum()
    )
    before = [[p.detach().clone() for p in member.parameters()] for member in (first, second, third)]
    for group in run.updates.optimizer.param_groups:
        group["weight_decay"] = 0.0  # which moves all weights
    run._step(torch.arange(8), 0, torch.Generator().manual_seed(0))
    moved = [
        any(not torch.equal(p, q) for p, q in zip(member.parameters(), old, strict=True))
        for member, old in zip((first, second, third), before, strict=True)
    ]
    assert moved == [False, True, False]


def test_a_committee_learns_the_tones_and_its_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(COMMITTEE, DATA, tmp_path / "whole")
    assert isinstance(whole.module, DsTcCommittee)
    assert whole.history[-1].loss < 0.7 * whole.history[0].loss
    with pytest.raises(Killed):
        train(COMMITTEE, DATA, tmp_path / "killed", progress=kill_at(5))
    assert same_weights(train(COMMITTEE, DATA, tmp_path / "killed"), whole)
    assert same_weights(load_checkpoint(tmp_path / "whole" / "checkpoint"), whole)
