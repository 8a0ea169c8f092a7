"""Outputs that tell words apart while a network learns, and that the finished network does not have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio_models.architectures import build_module
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.streaming import run_from_reset
from edgeaudio_models.training import train
from edgeaudio_models.training_data import TrainingData
from edgeaudio_models.word_outputs import without_word_outputs
from edgeaudio_runtime.errors import SpecError
from tests.training_on_tones import CTC, DATA, KEYWORD, Killed, kill_at, same_weights

WITH_WORDS = replace(DATA, train=replace(DATA.train, word_indices=np.arange(len(DATA.train)) % 5))
RECIPE = replace(KEYWORD, training=replace(KEYWORD.training, word_loss=1.0))


def test_outputs_of_words_shape_the_weights_and_are_cut_off(tmp_path: Path) -> None:
    checkpoint = train(RECIPE, WITH_WORDS, tmp_path / "words")
    without = train(KEYWORD, WITH_WORDS, tmp_path / "without")
    assert checkpoint.module.n_labels == len(KEYWORD.corpus.labels)
    assert not same_weights(checkpoint, without)
    logits = run_from_reset(checkpoint.module, torch.zeros(1, 20, checkpoint.module.n_features))
    assert logits.shape[2] == len(KEYWORD.corpus.labels)


def test_a_killed_run_with_outputs_of_words_resumes_to_the_same_weights(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(RECIPE, WITH_WORDS, tmp_path / "killed", progress=kill_at(4))
    resumed = train(RECIPE, WITH_WORDS, tmp_path / "killed")
    assert same_weights(resumed, train(RECIPE, WITH_WORDS, tmp_path / "whole"))


def test_what_is_cut_off_changes_no_logit_of_a_label() -> None:
    sizes = {"n_features": 8, "channels": 16, "kernel_sizes": [3], "window_frames": 8}
    wide = build_module("ds_tc_resnet", {**sizes, "n_labels": 9}).eval()
    narrow = without_word_outputs(wide, build_module("ds_tc_resnet", {**sizes, "n_labels": 4}))
    features = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(run_from_reset(narrow, features), run_from_reset(wide, features)[..., :4])


@pytest.mark.parametrize(("recipe", "data"), [(RECIPE, DATA), (replace(CTC, training=RECIPE.training), WITH_WORDS)])
def test_words_that_nobody_told_cannot_be_told_apart(recipe: Recipe, data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"training\.word_loss=1\.0 needs a keyword task and clips whose words are"):
        train(recipe, data, tmp_path)
