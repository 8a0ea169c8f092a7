"""Workers that share each batch learn what one process learns; here they are threads, in ``tests/face`` processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_models.architectures import build_module
from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.synced_batch_norm import SyncedBatchNorm
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training import train
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.training_tasks import TASKS
from edgeaudio_models.workers import ALONE, Workers, choose_device, join_workers
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import PRESETS
from tests.training_on_tones import CTC, DATA, KEYWORD, WORDS, Killed, kill_at, same_weights

ROUNDING = 2e-3
"""Relative difference of losses: sums of float32 in another order, amplified over the steps by the optimizer, whose
first steps are the sign of the gradient whatever its size. Without synchronized statistics it is above 2e-2."""


@dataclass(kw_only=True)
class Meeting:
    """Where threads exchange values."""

    barrier: threading.Barrier
    left: dict[int, Any] = field(default_factory=dict)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.left[rank] = value
        self.barrier.wait(60)
        everything = [self.left[i] for i in sorted(self.left)]
        self.barrier.wait(60)
        return everything


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadWorkers(Workers):
    """Workers of one process."""

    meeting: Meeting

    def add_up(self, values: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, values.clone())).sum(dim=0)

    def tell(self, value: Any) -> Any:
        return self.meeting.exchange(self.rank, value)[0]

    def wait(self) -> None:
        self.meeting.exchange(self.rank, None)


def together(size: int, act: Callable[[Workers], Any]) -> list[Any]:
    """What ``act`` returns in each of ``size`` threads."""
    meeting = Meeting(barrier=threading.Barrier(size))
    workers = [ThreadWorkers(rank=rank, size=size, meeting=meeting) for rank in range(size)]

    def guarded(one: Workers) -> Any:
        try:
            return act(one)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(guarded, workers))


def fresh(recipe: Recipe) -> StreamingModule:
    torch.manual_seed(5)
    values = {**recipe.model.parameters, "n_features": 40, "n_labels": len(recipe.corpus.labels)}
    return build_module(recipe.model.architecture, values)


@pytest.mark.parametrize(("recipe", "data", "size"), [(KEYWORD, DATA, 2), (KEYWORD, DATA, 3), (CTC, WORDS, 2)])
def test_the_loss_curve_is_that_of_one_process(recipe: Recipe, data: TrainingData, size: int, tmp_path: Path) -> None:
    start = fresh(recipe)
    alone = train(recipe, data, tmp_path / "alone", start=start)

    def act(workers: Workers) -> Checkpoint:
        return train(recipe, data, tmp_path / "together", start=start, workers=workers)

    found = together(size, act)
    for checkpoint in found:
        for row, wanted in zip(checkpoint.history, alone.history, strict=True):
            assert row.loss == pytest.approx(wanted.loss, rel=ROUNDING)
            assert row.learning_rate == wanted.learning_rate
        assert checkpoint.metrics == found[0].metrics
    # All hold the same weights to the bit, so any of them could have written.
    states = [checkpoint.module.state_dict() for checkpoint in found]
    assert all(torch.equal(state[name], states[0][name]) for state in states for name in states[0])
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == ["checkpoint", "training_state.pt"]


def test_workers_that_are_killed_resume_to_the_same_bits(tmp_path: Path) -> None:
    recipe = replace(KEYWORD, training=replace(KEYWORD.training, mixed_precision="bfloat16"))
    start = fresh(recipe)

    def act(folder: str, death: int) -> Callable[[Workers], Checkpoint]:
        return lambda workers: train(
            recipe, DATA, tmp_path / folder, start=start, workers=workers, progress=kill_at(death)
        )

    whole = together(2, act("whole", -1))
    with pytest.raises((Killed, threading.BrokenBarrierError)):  # whichever of the two is told first
        together(2, act("cut", 5))
    assert not (tmp_path / "cut" / "checkpoint").exists()
    resumed = together(2, act("cut", -1))
    assert same_weights(whole[0], resumed[0])
    assert same_weights(whole[0], resumed[1])


def test_processes_that_do_not_meet_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(SpecError, match=r"WORLD_SIZE=2 processes do not meet \(.*\); start them with torchrun"),
        join_workers("cpu"),
    ):
        pass


def test_shares_are_even_in_order_and_complete() -> None:
    for size, n in ((1, 5), (2, 7), (3, 8), (4, 4)):
        shares = [Workers(rank=rank, size=size).share(n) for rank in range(size)]
        assert [i for share in shares for i in range(n)[share]] == list(range(n))
        lengths = [share.stop - share.start for share in shares]
        assert max(lengths) - min(lengths) <= 1


def test_more_processes_than_examples_are_refused() -> None:
    with pytest.raises(SpecError, match="batch of 2 examples must be >= 3 processes; start fewer processes"):
        Workers(rank=0, size=3).share(2)


def test_one_process_alone_sends_nothing() -> None:
    values = torch.ones(2)
    assert ALONE.add_up(values) is values
    assert ALONE.tell("figure") == "figure"
    with ALONE.leader_first():
        ALONE.wait()
    with join_workers("cpu") as workers:
        assert (workers.rank, workers.size, workers.leads, workers.device.type) == (0, 1, True, "cpu")


def test_the_others_come_after_the_leader() -> None:
    order: list[int] = []

    def act(workers: Workers) -> None:
        with workers.leader_first():
            order.append(workers.rank)

    together(3, act)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SpecError, match="device='tape' is not available here; take cpu, or auto for what there is"):
        choose_device("tape")
    with pytest.raises(SpecError, match="device='cuda:99' is not available here"):
        choose_device("cuda:99")


@pytest.mark.parametrize("shape", [(6, 3, 5), (6, 3, 5, 2)])
def test_synchronized_batch_norm_is_the_batch_norm_of_the_whole_batch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, wanted_gradient = torch.randn(shape) * 3 + 100, torch.randn(shape)

    def run(part: Tensor, gradient: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        leaf = part.clone().requires_grad_()
        y = norm(leaf)
        (y * gradient).sum().backward()
        assert leaf.grad is not None
        return y.detach(), leaf.grad

    def make() -> nn.Module:
        norm = nn.BatchNorm1d(3) if len(shape) == 3 else nn.BatchNorm2d(3)
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
        return norm.train()

    whole = make()
    y, gradient = run(x, wanted_gradient, whole)

    def act(workers: Workers) -> tuple[Tensor, Tensor, nn.Module]:
        norm, share = make(), workers.share(6)
        with SyncedBatchNorm(workers.add_up):
            return *run(x[share], wanted_gradient[share], norm), norm

    parts = together(2, act)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient, rtol=1e-4, atol=1e-5)
    for name, value in whole.named_buffers():
        torch.testing.assert_close(dict(parts[1][2].named_buffers())[name], value, rtol=1e-5, atol=1e-5)


def test_in_evaluation_mode_batch_norm_is_left_alone() -> None:
    norm = nn.BatchNorm1d(3).eval()
    x = torch.randn(2, 3, 4)

    def never(values: Tensor) -> Tensor:
        raise AssertionError(values)

    with SyncedBatchNorm(never):
        assert torch.equal(
            norm(x), functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )


def test_everything_of_a_step_after_the_waveforms_is_on_the_device() -> None:
    # "meta" computes shapes only, and refuses to mix its tensors with those of the processor, as a GPU does.
    device = torch.device("meta")
    front_end = TorchFrontEnd(PRESETS["log_mel"], multiple_of=4)
    task = TASKS["keyword"](KEYWORD, DATA, front_end)
    task.workers = Workers(device=device)
    front_end.to(device)
    module = fresh(KEYWORD).to(device).train()
    loss = task.loss(module, torch.arange(8), torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.device == device
    assert {str(weight.grad.device) for weight in module.parameters() if weight.grad is not None} == {"meta"}
