"""Training as a whole on tones: it learns, it repeats, and a killed run ends as if it had not been killed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeaudio_models.architectures import build_module
from edgeaudio_models.checkpoint import Checkpoint, load_checkpoint
from edgeaudio_models.ctc import greedy_decode
from edgeaudio_models.losses import ctc_loss
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.schedule import learning_rate
from edgeaudio_models.streaming import run_from_reset
from edgeaudio_models.string_words import draw_words
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training import TrainingProgress, train
from edgeaudio_models.training_state import TrainingError
from edgeaudio_models.waveform_batches import join_strings, voiced_spans
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import PRESETS
from edgeaudio_runtime.staging import OutputError
from tests.training_on_tones import CTC, DATA, KEYWORD, WORDS, Killed, kill_at, same_weights, tones


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(KEYWORD, DATA, tmp_path_factory.mktemp("run"))


def test_tones_are_learned(tmp_path: Path) -> None:
    longer = replace(KEYWORD, training=replace(KEYWORD.training, epochs=25))
    checkpoint = train(longer, DATA, tmp_path)
    assert checkpoint.metrics["validation"]["macro_accuracy"] >= 0.9
    assert checkpoint.metrics["validation"]["chosen_by"] == "macro_accuracy"


def test_the_written_checkpoint_is_the_returned_one(tmp_path: Path) -> None:
    checkpoint = train(KEYWORD, DATA, tmp_path / "new" / "run")
    found = load_checkpoint(tmp_path / "new" / "run" / "checkpoint")
    assert same_weights(checkpoint, found)
    assert found.metrics == checkpoint.metrics
    assert found.history == checkpoint.history
    assert found.provenance == {"sources": ["tones"]}
    assert found.features == PRESETS["log_mel"]
    assert (found.labels, found.window_frames) == (("_silence_", "low", "middle"), 20)


def test_one_seed_gives_the_same_weights_and_another_gives_others(uninterrupted: Checkpoint, tmp_path: Path) -> None:
    torch.manual_seed(77)  # the global generator must not matter
    assert same_weights(train(KEYWORD, DATA, tmp_path / "same"), uninterrupted)
    other = replace(KEYWORD, training=replace(KEYWORD.training, seed=1))
    assert not same_weights(train(other, DATA, tmp_path / "other"), uninterrupted)


@pytest.mark.parametrize("step", [1, 3, 4, 6, 9])
def test_a_killed_run_resumes_to_the_same_weights(uninterrupted: Checkpoint, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        train(KEYWORD, DATA, tmp_path, progress=kill_at(step))
    assert not (tmp_path / "checkpoint").exists()
    seen: list[TrainingProgress] = []
    checkpoint = train(KEYWORD, DATA, tmp_path, progress=seen.append)
    # Three steps an epoch; the epoch that was killed is run again from its beginning.
    assert seen[0].step == (step - 1) // 3 * 3 + 1
    assert same_weights(checkpoint, uninterrupted)
    assert checkpoint.metrics == uninterrupted.metrics
    assert [replace(row, seconds=0.0) for row in checkpoint.history] == [
        replace(row, seconds=0.0) for row in uninterrupted.history
    ]


def test_the_history_says_of_every_epoch_what_progress_said(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    checkpoint = train(KEYWORD, DATA, tmp_path, progress=seen.append)
    told = [(now.epoch, now.loss, now.score) for now in seen if now.score is not None]
    assert [(row.epoch, row.loss, row.score) for row in checkpoint.history] == told
    last_steps = (2, 5, 8)
    wanted = [learning_rate(KEYWORD.training, step, 9) for step in last_steps]
    assert [row.learning_rate for row in checkpoint.history] == wanted
    assert 0 < sum(row.seconds for row in checkpoint.history) <= seen[-1].seconds


def test_a_kill_while_the_state_is_written_leaves_the_state_before(
    uninterrupted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def killed_in_the_second(state: dict[str, Any], path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half")
            raise Killed
        save(state, path)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed_in_the_second)
        with pytest.raises(Killed):
            train(KEYWORD, DATA, tmp_path)
    assert same_weights(train(KEYWORD, DATA, tmp_path), uninterrupted)


def test_a_kill_while_the_checkpoint_is_written_leaves_none_and_resumes(
    uninterrupted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("edgeaudio_models.checkpoint.save", killed)
        with pytest.raises(Killed):
            train(KEYWORD, DATA, tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    seen: list[TrainingProgress] = []
    assert same_weights(train(KEYWORD, DATA, tmp_path, progress=seen.append), uninterrupted)
    assert seen == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"training_state\.pt: .*No space left on device.*; free space or choose"):
        train(KEYWORD, DATA, tmp_path)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(KEYWORD, DATA, tmp_path, progress=kill_at(4))
    other_recipe = replace(KEYWORD, training=replace(KEYWORD.training, learning_rate=0.01))
    other_data = replace(DATA, validation=tones(12, (0, 1, 2), seed=3))
    for recipe, data in ((other_recipe, DATA), (KEYWORD, other_data)):
        with pytest.raises(TrainingError, match=r"belongs to another recipe or other data; remove it or train without"):
            train(recipe, data, tmp_path)
    assert train(other_recipe, DATA, tmp_path, resume=False).recipe == other_recipe


def test_an_unreadable_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training_state.pt").write_bytes(b"no state")
    with pytest.raises(TrainingError, match="no readable training state; remove it to start afresh"):
        train(KEYWORD, DATA, tmp_path)
    torch.save({"version": 0}, tmp_path / "training_state.pt")
    with pytest.raises(TrainingError, match="written by another version"):
        train(KEYWORD, DATA, tmp_path)


def test_a_finished_checkpoint_is_not_overwritten_unasked(tmp_path: Path) -> None:
    train(KEYWORD, DATA, tmp_path)
    with pytest.raises(OutputError, match="exists and nothing is overwritten"):
        train(KEYWORD, DATA, tmp_path)
    assert train(KEYWORD, DATA, tmp_path, force=True).name == "tones"


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    wild = replace(
        KEYWORD,
        training=replace(
            KEYWORD.training,
            learning_rate=1e30,
            schedule="warmup_cosine",
            warmup=0.0,
            epochs=20,
            max_gradient_norm=1e30,
        ),
    )
    with pytest.raises(TrainingError, match=r"loss=(nan|inf) at step \d+; lower training\.learning_rate=1e\+30"):
        train(wild, DATA, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_labels_outside_the_recipe_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"label indices of train span 1\.\.3, they must be in 0\.\.2"):
        train(KEYWORD, WORDS, tmp_path)
    with pytest.raises(SpecError, match=r"label indices of train span 0\.\.2, they must be in 1\.\.3"):
        train(CTC, DATA, tmp_path)


def test_progress_is_told_every_step_and_every_score(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    train(KEYWORD, DATA, tmp_path, progress=seen.append)
    assert [now.step for now in seen] == list(range(1, 10))
    assert {now.steps for now in seen} == {9}
    assert [now.epoch for now in seen] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    scores = [now.score for now in seen]
    assert [score is not None for score in scores] == [False, False, True] * 3
    assert seen[-1].best == max(score for score in scores if score is not None)


def test_ctc_training_leaves_a_checkpoint_and_resumes(tmp_path: Path) -> None:
    checkpoint = train(CTC, WORDS, tmp_path)
    metrics = load_checkpoint(tmp_path / "checkpoint").metrics["validation"]
    assert metrics["label_correctness"] == pytest.approx(1 - metrics["label_error_rate"])
    assert (checkpoint.task, checkpoint.window_frames) == ("ctc", None)


def overfit(recipe: Recipe, steps: int) -> tuple[list[list[int]], list[list[int]]]:
    """References of a handful of strings, and what a small network reads after learning them by heart."""
    torch.manual_seed(0)
    words, generator = tones(6, (1, 2, 3), seed=4), torch.Generator().manual_seed(1)
    clips = torch.from_numpy(words.waveforms).float() / 32768
    strings = join_strings(
        clips,
        voiced_spans(clips),
        torch.from_numpy(words.label_indices),
        words=draw_words(torch.arange(6), 5, recipe.context, generator),
        recipe=recipe,
        sample_rate=16000,
        generator=generator,
    )
    features = TorchFrontEnd(PRESETS["log_mel"], multiple_of=4)(strings.waveforms)
    module = build_module("ctc_net", {**recipe.model.parameters, "n_features": 40, "n_labels": 4})
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(steps):
        logits = run_from_reset(module, features)
        lengths = torch.full((5,), logits.shape[1])
        optimizer.zero_grad()
        ctc_loss(logits, lengths, strings.targets, strings.target_lengths).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    read = run_from_reset(module.eval(), features)
    return strings.references(), [greedy_decode(row) for row in read]


def test_the_ctc_network_learns_a_handful_of_strings_by_heart() -> None:
    references, read = overfit(CTC, 120)
    assert read == references
    assert len({tuple(reference) for reference in references}) >= 3
