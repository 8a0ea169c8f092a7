"""Batches of waveforms: a clip at the end of a stream, words joined to strings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeaudio_models.recipe import ContextRecipe, Recipe, parse_recipe
from edgeaudio_models.string_words import draw_words
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_models.waveform_batches import (
    add_surroundings,
    change_rate,
    cut,
    join_strings,
    keyword_batch,
    noise_bed,
    voiced_spans,
)
from edgeaudio_runtime.errors import SpecError

RATE = 1000
PLAIN = """
name = "plain"
[corpus]
kind = "recordings"
labels = ["_silence_", "a", "b"]
[model]
architecture = "ds_tc_resnet"
[training]
epochs = 1
[augmentation]
max_shift = 0
min_gain_db = 0.0
max_gain_db = 0.0
noise_probability = 0.0
[context]
probability = 0.0
max_rate_change = 0.0
silence_noise_probability = 0.0
"""


def recipe(**context: float) -> Recipe:
    plain = parse_recipe(PLAIN)
    return replace(plain, context=replace(plain.context, **context))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(clips: torch.Tensor, wanted: Recipe, *, silent: bool = False, seed: int = 0) -> torch.Tensor:
    bed = torch.linspace(0.5, 0.6, 4000)
    marks = torch.full((len(clips),), silent)
    return keyword_batch(clips, silent=marks, recipe=wanted, sample_rate=RATE, bed=bed, generator=generator(seed))


def test_a_batch_without_variation_is_the_clips() -> None:
    clips = torch.rand(3, 500) - 0.5
    assert torch.equal(batch(clips, recipe()), clips)


def test_context_stands_before_the_clip_and_is_silence_or_the_end_of_another() -> None:
    clips = torch.rand(40, 500) + 0.1
    streams = batch(clips / 2, recipe(probability=1.0, seconds=0.2, speech_probability=0.5))
    assert streams.shape == (40, 700)
    assert torch.equal(streams[:, 200:], clips / 2)
    tails = {tuple(row.tolist()) for row in clips[:, -200:] / 2}
    spoken = [row for row in streams[:, :200] if bool(row.any())]
    assert 5 < len(spoken) < 35
    assert all(tuple(row.tolist()) in tails for row in spoken)


def test_a_shift_moves_each_clip_by_its_own_number_of_samples() -> None:
    plain = recipe()
    shifted = replace(plain, augmentation=replace(plain.augmentation, max_shift=3))
    clips = torch.zeros(60, 20)
    clips[:, 10] = 0.5
    places = batch(clips, shifted).argmax(dim=1) - 10
    assert set(places.tolist()) == {-3, -2, -1, 0, 1, 2, 3}


def test_silence_is_replaced_by_noise() -> None:
    clips = torch.zeros(50, 100)
    replaced = batch(clips, recipe(silence_noise_probability=0.5), silent=True).abs().amax(dim=1) > 0.4
    assert 10 < int(replaced.sum()) < 40
    assert not bool(batch(clips, recipe(silence_noise_probability=0.5), silent=False).any())


def test_the_clips_given_are_not_written_to() -> None:
    clips = torch.zeros(4, 100)
    batch(clips, recipe(silence_noise_probability=1.0), silent=True)
    assert not bool(clips.any())


def test_the_same_seed_gives_the_same_batch() -> None:
    varied = recipe(probability=0.5, max_rate_change=0.1)
    varied = replace(varied, augmentation=replace(varied.augmentation, noise_probability=1.0, max_shift=50))
    clips = torch.rand(8, 400) - 0.5
    assert torch.equal(batch(clips, varied, seed=3), batch(clips, varied, seed=3))
    assert not torch.equal(batch(clips, varied, seed=3), batch(clips, varied, seed=5))


def test_noise_is_repeated_where_the_bed_is_short() -> None:
    noisy = replace(recipe(), augmentation=replace(recipe().augmentation, noise_probability=1.0))
    streams = add_surroundings(torch.rand(2, 300), noisy.augmentation, bed=torch.rand(100), generator=generator())
    assert streams.shape == (2, 300)


def test_a_changed_rate_keeps_the_middle_and_the_length() -> None:
    clips = torch.zeros(1, 101)
    clips[0, 50] = 1.0
    for factor in (0.8, 1.25):
        played = change_rate(clips, factor)
        assert played.shape == (1, 101)
        assert abs(int(played.argmax()) - 50) <= 1


def test_pieces_are_cut_at_their_own_starts() -> None:
    streams = torch.arange(20).reshape(2, 10)
    assert cut(streams, torch.tensor([1, 4]), 3).tolist() == [[1, 2, 3], [14, 15, 16]]


def test_the_noise_bed_begins_with_the_recorded_noise() -> None:
    recorded = torch.rand(50)
    bed = noise_bed(recorded, n_samples=200, seed=1)
    assert torch.equal(bed[:50], recorded)
    assert torch.equal(bed[50:], noise_bed(None, n_samples=200, seed=1))


def test_speech_is_found_between_silences() -> None:
    clips = torch.zeros(2, 1600)
    clips[0, 480:960] = 0.3
    clips[1] = 0.1
    assert voiced_spans(clips).tolist() == [[480, 960], [0, 1600]]


def test_strings_hold_the_words_and_gaps_that_their_targets_say() -> None:
    clips = torch.zeros(2, 320)
    clips[0, :160], clips[1, 160:] = 0.25, 0.5
    wanted, drawn = recipe(min_words=2, max_words=3, max_gap_seconds=0.1), generator()
    strings = join_strings(
        clips,
        voiced_spans(clips),
        torch.tensor([1, 2]),
        words=draw_words(torch.arange(2), 20, wanted.context, drawn),
        recipe=wanted,
        sample_rate=RATE,
        generator=drawn,
    )
    assert set(strings.target_lengths.tolist()) == {2, 3}
    for row, length, reference in zip(strings.waveforms, strings.n_samples, strings.references(), strict=True):
        assert not bool(row[int(length) :].any())
        samples = row[row > 0]
        assert samples[::160].tolist() == [{1: 0.25, 2: 0.5}[label] for label in reference]
        assert len(samples) == 160 * len(reference)
        assert int(length) - len(samples) <= 100 * (len(reference) + 1)


def clips_of(n: int, dtype: type = np.int16) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros((n, 10), dtype)


@pytest.mark.parametrize(
    ("waveforms", "label_indices", "words"),
    [
        (clips_of(2, np.float32), np.zeros(2, np.int64), r"waveforms are float32\[2, 10\], they must be int16"),
        (clips_of(2), np.zeros(3, np.int64), r"label_indices are int64\[3\], they must be integers \[2\]"),
        (clips_of(2), np.zeros(2, np.float64), r"label_indices are float64\[2\]"),
        (clips_of(0), np.zeros(0, np.int64), r"hold nothing; give at least one clip"),
    ],
)
def test_bad_examples_are_refused(waveforms: np.ndarray, label_indices: np.ndarray, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError, match=words):
        Examples(waveforms=waveforms, label_indices=label_indices)


def test_data_that_do_not_fit_together_are_refused() -> None:
    one = Examples(waveforms=clips_of(2), label_indices=np.array([0, 2]))
    other = Examples(waveforms=np.zeros((1, 12), np.int16), label_indices=np.array([0]))
    with pytest.raises(SpecError, match="clips of train and validation have 10 and 12 samples; they must be equal"):
        TrainingData(train=one, validation=other)
    with pytest.raises(SpecError, match=r"noise is float64\[3\], it must be int16 \[M\]"):
        TrainingData(train=one, validation=one, noise=np.zeros(3))  # type: ignore[arg-type]
    data = TrainingData(train=one, validation=one)
    with pytest.raises(SpecError, match=r"label indices of train span 0\.\.2, they must be in 0\.\.1, as the recipe's"):
        data.check_labels(2)
    with pytest.raises(SpecError, match=r"they must be in 1\.\.2"):
        data.check_labels(3, first=1)


def test_the_digest_tells_data_apart() -> None:
    one = Examples(waveforms=clips_of(2), label_indices=np.array([0, 1]))
    other = Examples(waveforms=clips_of(2), label_indices=np.array([1, 0]))
    digests = {TrainingData(train=a, validation=b).digest() for a in (one, other) for b in (one, other)}
    assert len(digests) == 4
    assert TrainingData(train=one, validation=one).digest() == TrainingData(train=one, validation=one).digest()


def test_context_defaults_are_within_their_rules() -> None:
    assert 0.5 <= ContextRecipe().seconds <= 1.0
