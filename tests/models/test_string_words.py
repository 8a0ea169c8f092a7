"""Which words make a string, and other throats in the features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgeaudio_models.augmentation import AugmentationSpec, warp_features
from edgeaudio_models.recipe import ContextRecipe
from edgeaudio_models.string_words import MIN_VOICE_CLIPS, VoiceWords, draw_words
from edgeaudio_models.waveform_batches import join_strings
from edgeaudio_runtime.errors import SpecError
from tests.models.test_mixed_corpora import recipe

CONTEXT = ContextRecipe(min_words=2, max_words=4)
LABELS = torch.tensor([1, 2] * 20 + [1, 2] * 15 + [1] * 27 + [2] * 3)
VOICES = ["anna"] * 40 + ["bert"] * 30 + [f"once {i}" for i in range(30)]
"""Two voices with clips enough, and thirty that speak once: 27 say the first word and 3 the second."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_words_come_from_the_pool_in_numbers_that_the_context_allows() -> None:
    strings = draw_words(torch.tensor([5, 7]), 50, CONTEXT, generator())
    assert {len(words) for words in strings} == {2, 3, 4}
    assert {int(word) for words in strings for word in words} == {5, 7}


def test_a_string_begins_with_the_clip_asked_for_and_keeps_its_voice() -> None:
    first = torch.tensor([0, 41, 39] * 40)
    strings = VoiceWords(LABELS, VOICES, CONTEXT).draw(first, generator())
    assert {len(words) for words in strings} == {2, 3, 4}
    assert [int(words[0]) for words in strings] == first.tolist()
    for words in strings:
        assert {VOICES[i] for i in words.tolist()} == {VOICES[int(words[0])]}


def test_voices_with_few_clips_speak_together_and_say_rare_words_more_often_than_they_have_them() -> None:
    assert MIN_VOICE_CLIPS <= 30
    strings = VoiceWords(LABELS, VOICES, CONTEXT).draw(torch.full((900,), 70), generator())
    later = torch.cat([words[1:] for words in strings])
    assert int(later.min()) >= 70
    # Shares go by the roots of 27 and 3: a quarter says the second word, of which there are 10 %.
    assert float((LABELS[later] == 2).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_strings_of_one_voice_need_known_voices() -> None:
    with pytest.raises(SpecError, match=r"context\.one_voice=true needs clips whose voices are known"):
        VoiceWords(LABELS, (), CONTEXT)


def test_another_throat_stays_the_same_for_all_words_of_a_string() -> None:
    context = replace(CONTEXT, max_gap_seconds=0.0, max_rate_change_of_voice=0.2)
    strings = join_strings(
        torch.ones(1, 1000), torch.tensor([[0, 1000]]), torch.tensor([1]), words=[torch.tensor([0, 0])] * 100,
        recipe=replace(recipe(), context=context), sample_rate=1000, generator=generator(),
    )  # fmt: skip
    ends = strings.word_ends.reshape(100, 2)
    assert torch.equal(ends[:, 1], 2 * ends[:, 0])
    assert 800 <= int(ends[:, 0].min()) < 830
    assert 1170 < int(ends[:, 0].max()) <= 1200


def test_warped_features_are_those_between_the_bands_that_the_factor_names() -> None:
    ramp = torch.arange(5.0).expand(2, 3, 5)
    warped = warp_features(ramp * 10, torch.tensor([1.25, 0.5]))
    assert warped[0, 0].tolist() == [0.0, 12.5, 25.0, 37.5, 40.0]
    assert warped[1, 2].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0]


def test_a_warp_of_half_is_refused() -> None:
    with pytest.raises(SpecError, match=r"max_feature_warp=0\.5 must be in \[0, 0\.5\)"):
        AugmentationSpec(max_feature_warp=0.5)
