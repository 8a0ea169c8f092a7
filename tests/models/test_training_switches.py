"""Switches of a training that are off by default: early stopping, mixed precision, steps an epoch, rooms, scalars."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.recipe import Recipe, parse_recipe
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.scalars import tensorboard_scalars
from edgeaudio_models.training import TrainingProgress, train
from edgeaudio_models.training_run import TrainingRun
from edgeaudio_models.training_tasks import KeywordTask
from edgeaudio_runtime.errors import SpecError
from tests.training_on_tones import CTC, DATA, KEYWORD, WORDS, Killed, kill_at, same_weights

HALF_PRECISION = 0.1
"""Relative difference of an epoch's loss with products of 8 bits of mantissa: rounding of 0.4 % a product, and the
optimizer's first steps, which are the sign of the gradient whatever its size."""


def with_training(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **values))


def judge_by(figures: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let epochs be judged by given figures, one after the other."""
    left = iter(figures)
    monkeypatch.setattr(KeywordTask, "evaluate", lambda *_: {"macro_accuracy": next(left)})


@pytest.mark.parametrize(
    ("patience", "n_epochs", "best"), [(0, 9, 8), (1, 3, 2), (2, 6, 4), (3, 7, 4), (4, 9, 8), (100, 9, 8)]
)
def test_a_training_ends_after_epochs_without_a_better_figure(
    patience: int, n_epochs: int, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_by([0.1, 0.4, 0.4, 0.5, 0.5, 0.2, 0.3, 0.6, 0.6], monkeypatch)
    checkpoint = train(with_training(KEYWORD, epochs=9, patience=patience), DATA, tmp_path)
    assert [row.epoch for row in checkpoint.history] == list(range(1, n_epochs + 1))
    assert checkpoint.metrics["validation"]["epoch"] == best


def test_a_stopped_training_that_is_killed_stops_at_the_same_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_training(KEYWORD, epochs=9, patience=2)
    figures = [0.4, 0.5, 0.3, 0.5, 0.9]
    judge_by(figures, monkeypatch)
    whole = train(recipe, DATA, tmp_path / "whole")
    judge_by(figures, monkeypatch)
    with pytest.raises(Killed):
        train(recipe, DATA, tmp_path / "cut", progress=kill_at(7))
    judge_by(figures[2:], monkeypatch)
    resumed = train(recipe, DATA, tmp_path / "cut")
    assert len(whole.history) == len(resumed.history) == 4
    assert same_weights(whole, resumed)
    assert whole.metrics == resumed.metrics


def test_the_last_epochs_are_averaged_whatever_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by([0.9, 0.4, 0.6, 0.3], monkeypatch)
    run, ends = TrainingRun(with_training(KEYWORD, epochs=3, averaged_epochs=2), DATA), []
    while not run.finished:
        run.train_epoch(None)
        ends.append({name: value.clone() for name, value in run.average.module.state_dict().items()})
    checkpoint = run.checkpoint()
    for name, value in checkpoint.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[1][name] + ends[2][name]) / 2)
    assert checkpoint.metrics["validation"] == {"macro_accuracy": 0.3, "epoch": 3, "chosen_by": "macro_accuracy"}


def test_an_averaging_training_that_is_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = with_training(KEYWORD, epochs=3, averaged_epochs=3)
    whole = train(recipe, DATA, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, DATA, tmp_path / "cut", progress=kill_at(5))
    resumed = train(recipe, DATA, tmp_path / "cut")
    assert same_weights(whole, resumed)
    assert whole.metrics == resumed.metrics
    assert not same_weights(whole, train(with_training(KEYWORD, epochs=3), DATA, tmp_path / "best"))


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_mixed_precision_learns_as_float32_does(kind: str, tmp_path: Path) -> None:
    plain = train(KEYWORD, DATA, tmp_path / "plain")
    mixed = train(with_training(KEYWORD, mixed_precision=kind), DATA, tmp_path / "mixed")
    assert not same_weights(plain, mixed)
    assert {weight.dtype for weight in mixed.module.parameters()} == {torch.float32}
    for row, wanted in zip(mixed.history, plain.history, strict=True):
        assert row.loss == pytest.approx(wanted.loss, rel=HALF_PRECISION)


def test_mixed_precision_resumes_with_its_loss_scale(tmp_path: Path) -> None:
    recipe = with_training(KEYWORD, mixed_precision="float16")
    whole = train(recipe, DATA, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, DATA, tmp_path / "cut", progress=kill_at(5))
    assert "scale" in torch.load(tmp_path / "cut" / "training_state.pt", weights_only=True)["scaler"]
    assert same_weights(whole, train(recipe, DATA, tmp_path / "cut"))


def test_ctc_learns_in_mixed_precision(tmp_path: Path) -> None:
    plain = train(CTC, WORDS, tmp_path / "plain")
    mixed = train(with_training(CTC, mixed_precision="bfloat16"), WORDS, tmp_path / "mixed")
    assert mixed.history[0].loss == pytest.approx(plain.history[0].loss, rel=HALF_PRECISION)


def test_an_epoch_has_as_many_steps_as_the_recipe_says(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    train(with_training(KEYWORD, epochs=2, steps_per_epoch=5), DATA, tmp_path, progress=seen.append)
    assert [(now.epoch, now.step) for now in seen] == [(1 + step // 5, step + 1) for step in range(10)]


def test_rooms_change_the_training_and_resume(tmp_path: Path) -> None:
    rooms = replace(KEYWORD.augmentation, room_probability=0.7, n_rooms=4, max_reverberation_seconds=0.15)
    recipe = replace(KEYWORD, augmentation=rooms)
    whole = train(recipe, DATA, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, DATA, tmp_path / "cut", progress=kill_at(5))
    assert same_weights(whole, train(recipe, DATA, tmp_path / "cut"))
    assert not same_weights(whole, train(KEYWORD, DATA, tmp_path / "dry"))
    assert load_checkpoint(tmp_path / "whole" / "checkpoint").recipe.augmentation == rooms


def test_the_text_of_a_recipe_without_the_switches_is_what_it_was() -> None:
    text = format_recipe(KEYWORD)
    for name in ("patience", "averaged_epochs", "mixed_precision", "steps_per_epoch", "shuffle_buffer", "room"):
        assert name not in text
    switched = with_training(KEYWORD, patience=3, mixed_precision="bfloat16", steps_per_epoch=7, shuffle_buffer=64)
    assert parse_recipe(format_recipe(switched)) == switched


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patience": -1}, r"training\.patience=-1 must be >= 0"),
        ({"averaged_epochs": -1}, r"training\.averaged_epochs=-1 must be >= 0"),
        ({"averaged_epochs": 3, "epochs": 2}, r"training\.averaged_epochs=3 must be at most epochs=2"),
        ({"averaged_epochs": 1, "patience": 1}, r"averaged_epochs=1 and patience=1 exclude each other"),
        ({"steps_per_epoch": -1}, r"training\.steps_per_epoch=-1 must be >= 0"),
        ({"shuffle_buffer": 0}, r"training\.shuffle_buffer=0 must be >= 1"),
        (
            {"mixed_precision": "half"},
            r"training\.mixed_precision='half' must be one of \['off', 'bfloat16', 'float16'\]",
        ),
    ],
)
def test_switches_out_of_bounds_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        with_training(KEYWORD, **values)


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install 'edgeaudio[tensorboard]'"
    )
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_are_what_progress_says_and_a_resumed_run_replaces_its_steps(tmp_path: Path) -> None:
    def run(death: int | None) -> list[TrainingProgress]:
        seen: list[TrainingProgress] = []
        with tensorboard_scalars(tmp_path / "scalars") as write:

            def progress(now: TrainingProgress) -> None:
                write(now)
                seen.append(now)
                if now.step == death:
                    raise Killed

            train(KEYWORD, DATA, tmp_path / "run", progress=progress)
        return seen

    with pytest.raises(Killed):
        run(5)
    seen = run(None)
    found = scalars_of(tmp_path / "scalars")
    assert sorted(found) == ["training/learning_rate", "training/loss", "validation/score"]
    assert [step for step, _ in found["training/loss"]] == list(range(1, 10))
    assert [now.step for now in seen] == list(range(4, 10))
    assert [loss for _, loss in found["training/loss"][3:]] == pytest.approx([now.loss for now in seen])
    assert [step for step, _ in found["validation/score"]] == [3, 6, 9]
    assert found["training/learning_rate"][-1][1] == pytest.approx(seen[-1].learning_rate)
