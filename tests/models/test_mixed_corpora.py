"""Training on several sources at once: corpora joined by word, synthesized clips beside recordings."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio_models.architectures import build_module
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.augmentation import AugmentationSpec, change_tempo, equalize, narrow_band
from edgeaudio_models.corpora import join_corpora, label_by_word, open_corpus
from edgeaudio_models.errors import CorpusError
from edgeaudio_models.losses import word_end_loss
from edgeaudio_models.recipe import Recipe, parse_recipe
from edgeaudio_models.recipe_data import load_training_data
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.training_tasks import CtcTask
from edgeaudio_models.waveform_batches import add_surroundings, join_strings
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

RATE = 16_000
RECIPE = """
name = "two-digits"
[corpus]
kind = "recordings"
labels = ["<blank>", "zero", "one"]
folders = ["digits", "commands"]
noise = ["commands/_background_noise_"]
[model]
architecture = "ctc_net"
parameters = { channels = 8, kernel_sizes = [3] }
[training]
epochs = 1
batch_size = 2
"""
ROWS = {
    "digits": [
        # label, word, speaker, split
        ("0", "0", "ann", "train"),
        ("1", "1", "ann", "train"),
        ("1", "1", "ann", "train"),
        ("0", "0", "bob", "validation"),
        ("1", "1", "bob", "validation"),
        ("0", "0", "eve", "test"),
    ],
    "commands": [
        ("_unknown_", "one", "c1", "train"),
        ("_unknown_", "cat", "c1", "train"),
        ("_unknown_", "zero", "c2", "validation"),
        ("go", "go", "c3", "train"),
    ],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two corpora below one folder; the level of a clip is its row number times 100."""
    for name, rows in ROWS.items():
        with_manifest(tmp_path / name, rows)
    write_wav(tmp_path / "commands" / "_background_noise_" / "hum.wav", np.full(RATE, 7, np.int16), RATE)
    return tmp_path


def with_manifest(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "word", "speaker", "split", "source"])
        for i, row in enumerate(rows):
            level, own_end = 100 * (i + 1), [len(folder.name)]  # no recording stands in two corpora
            write_wav(folder / f"{i}.wav", np.append(np.full(RATE // 2 - 1, level), own_end).astype(np.int16), RATE)
            table.writerow([f"{i}.wav", *row, folder.name])


def recipe(text: str = RECIPE) -> Recipe:
    return parse_recipe(text)


def test_clips_of_every_corpus_are_labelled_by_their_word(data: Path) -> None:
    loaded = load_training_data(recipe(), data_folder=data, cache_folder=None)
    assert loaded.train.waveforms[:, 0].tolist() == [100, 200, 300, 100]
    assert loaded.train.label_indices.tolist() == [1, 2, 2, 2]  # 0, 1, 1 and the "one" filed as unknown
    assert [source["name"] for source in loaded.provenance["sources"]] == ["digits", "commands"]
    assert loaded.provenance["corpus"] == "digits + commands"
    assert loaded.noise is not None
    assert loaded.noise.tolist() == [7] * RATE


def test_the_first_corpus_alone_is_chosen_by(data: Path) -> None:
    loaded = load_training_data(recipe(), data_folder=data, cache_folder=None)
    assert loaded.validation.waveforms[:, 0].tolist() == [400, 500]
    assert loaded.validation.label_indices.tolist() == [1, 2]


def test_a_corpus_of_numerals_needs_no_folder_below(data: Path) -> None:
    alone = replace(recipe(), corpus=replace(recipe().corpus, folders=(), noise=()))
    loaded = load_training_data(alone, data_folder=data / "digits", cache_folder=None)
    assert loaded.train.label_indices.tolist() == [1, 2, 2]


def test_other_words_are_unknown_where_the_model_has_that_label(data: Path) -> None:
    corpus = label_by_word(open_corpus(data / "commands"), ["_unknown_", "one"])
    assert [(clip.label, clip.word) for clip in corpus.clips] == [
        ("one", "one"), ("_unknown_", "cat"), ("_unknown_", "zero"), ("_unknown_", "go"),
    ]  # fmt: skip


def test_numerals_stay_where_the_model_has_them(data: Path) -> None:
    corpus = label_by_word(open_corpus(data / "digits"), ["0", "one"])
    assert [clip.label for clip in corpus.clips] == ["0", "one", "one", "0", "one", "0"]


def test_synthesized_words_are_for_training_only(data: Path) -> None:
    pytest.importorskip("py_nanotts", reason="py-nanotts is not installed; the mixture needs a synthesizer")
    mixed = recipe(RECIPE.replace('"recordings"', '"mixed"\nsynthesizers = ["pico"]\nclips_per_word = 7'))
    plain = load_training_data(recipe(), data_folder=data, cache_folder=None)
    loaded = load_training_data(mixed, data_folder=data, cache_folder=None)
    assert np.array_equal(loaded.train.waveforms[:4], plain.train.waveforms)
    # 7 of each word, the synthesizer's share for validation included
    assert np.bincount(loaded.train.label_indices).tolist() == [0, 1 + 7, 3 + 7]
    assert loaded.validation.waveforms.tobytes() == plain.validation.waveforms.tobytes()
    assert loaded.provenance["sources"][-1]["name"] == "synthesized by pico"


def test_a_mixture_of_no_synthesized_clips_is_refused() -> None:
    with pytest.raises(SpecError, match=r"corpus\.clips_per_word=0 must be >= 1 for kind='mixed'"):
        recipe(RECIPE.replace('"recordings"', '"mixed"'))


def test_a_corpus_without_the_words_is_refused(data: Path) -> None:
    with_manifest(data / "pets", [("dog", "dog", "", "train")])
    wrong = replace(recipe(), corpus=replace(recipe().corpus, folders=("digits", "pets")))
    with pytest.raises(CorpusError, match=r"labels=\['dog'\] and words share none with \['zero', 'one'\]; give rec"):
        load_training_data(wrong, data_folder=data, cache_folder=None)
    missing = replace(recipe(), corpus=replace(recipe().corpus, folders=("letters",)))
    with pytest.raises(CorpusError, match="letters: no such folder; give a folder of recordings"):
        load_training_data(missing, data_folder=data, cache_folder=None)
    with pytest.raises(CorpusError, match=r"corpora=\[\] must be at least one"):
        join_corpora([])


def test_a_speaker_in_two_splits_is_found_across_corpora(data: Path) -> None:
    with_manifest(data / "more", [("one", "one", "bob", "train")])
    leaking = replace(recipe(), corpus=replace(recipe().corpus, folders=("digits", "more"), noise=()))
    with pytest.raises(CorpusError, match=r"speakers in two splits=\['bob'\]"):
        load_training_data(leaking, data_folder=data, cache_folder=None)


def test_fields_of_mixtures_are_written_only_where_they_are_used() -> None:
    assert 'folders = ["digits", "commands"]' in format_recipe(recipe())
    plain = format_recipe(recipe(RECIPE.replace('folders = ["digits", "commands"]\n', "")))
    assert not {"folders", "narrow_band_probability", "max_word_rate_change"} & set(plain.split())


def test_a_narrow_band_keeps_what_is_below_4_khz_and_nothing_above() -> None:
    time = np.arange(RATE) / RATE  # in float64: rounded phases would be a noise of their own
    bursts = np.hanning(RATE) * np.sin(2 * np.pi * np.array([[1000.0], [6000.0]]) * time)
    given = torch.from_numpy(bursts.astype(np.float32))
    heard = narrow_band(given)
    assert torch.allclose(heard[0], given[0], atol=1e-4)  # a smooth burst has no energy near the edge
    assert float(heard[1].abs().max()) < 1e-4


def test_without_a_share_of_narrow_bands_nothing_is_drawn_for_them() -> None:
    streams = torch.ones(4, 800)
    bed = torch.zeros(800)
    plain = AugmentationSpec(noise_probability=0.0, min_gain_db=0.0, max_gain_db=0.0)
    generator = torch.Generator().manual_seed(1)
    add_surroundings(streams, plain, bed=bed, generator=generator)
    after = torch.Generator().manual_seed(1)
    torch.rand(4 + 4, generator=after)  # one coin for noise and one gain a stream
    assert torch.rand(1, generator=generator) == torch.rand(1, generator=after)
    all_narrow = replace(plain, narrow_band_probability=1.0)
    clicks = torch.zeros(2, 800).index_fill_(1, torch.tensor([400]), 1.0)
    heard = add_surroundings(clicks, all_narrow, bed=bed, generator=generator)
    assert torch.allclose(heard, narrow_band(clicks))


def test_a_batch_may_have_no_narrow_band_at_all() -> None:
    spec = AugmentationSpec(
        noise_probability=0.0, min_gain_db=0.0, max_gain_db=0.0, narrow_band_probability=1e-9, max_equalizer_db=0.0
    )
    streams = torch.full((3, 800), 0.5)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(add_surroundings(streams, spec, bed=torch.zeros(800), generator=generator), streams)


def test_words_of_a_string_last_as_much_longer_or_shorter_as_the_recipe_allows() -> None:
    waveforms, spans = torch.ones(1, 1000), torch.tensor([[0, 1000]])
    varied = replace(recipe(), context=replace(recipe().context, max_gap_seconds=0.0, max_word_rate_change=0.2))
    strings = join_strings(
        waveforms, spans, torch.tensor([1]), words=[torch.tensor([0])] * 200, recipe=varied, sample_rate=RATE,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    lengths = strings.n_samples.tolist()
    assert strings.word_ends.tolist() == lengths  # no gap, so each word ends its string
    assert 800 <= min(lengths) < 820
    assert 1180 < max(lengths) <= 1200


def test_word_ends_lie_after_the_gaps_and_words_before_them() -> None:
    waveforms = torch.ones(2, 1000)
    spans = torch.tensor([[0, 1000], [100, 400]])
    context = replace(recipe().context, max_gap_seconds=0.01)
    strings = join_strings(
        waveforms, spans, torch.tensor([1, 2]), words=[torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])] * 2,
        recipe=replace(recipe(), context=context), sample_rate=RATE, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    ends, lengths = strings.word_ends.reshape(4, 3), torch.tensor([0, 1000, 300])[strings.targets.reshape(4, 3)]
    for row, row_ends, row_lengths in zip(strings.waveforms, ends.tolist(), lengths.tolist(), strict=True):
        for end, length in zip(row_ends, row_lengths, strict=True):
            assert bool(row[end - length : end].all())
        assert float(row.sum()) == sum(row_lengths)


def test_the_word_end_loss_is_the_cross_entropy_at_the_outputs_named() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 1, 2] = logits[1, 2, 3] = 5.0
    right = -np.log(np.exp(5.0) / (np.exp(5.0) + 3))
    even = np.log(4.0)
    ends, targets, lengths = torch.tensor([1, 0, 9]), torch.tensor([2, 1, 3]), torch.tensor([2, 1])
    found = float(word_end_loss(logits, ends, targets, lengths))  # output 9 is past the last, which says 3
    assert found == pytest.approx((right + even + right) / 3, rel=1e-6)


def test_the_word_end_loss_adds_to_that_of_ctc_by_its_weight(data: Path) -> None:
    loaded = load_training_data(recipe(), data_folder=data, cache_folder=None)
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        weighted = replace(recipe(), training=replace(recipe().training, word_end_weight=weight))
        task = CtcTask(weighted, loaded, TorchFrontEnd(preset("log_mel"), multiple_of=4))
        torch.manual_seed(0)
        module = build_module("ctc_net", {"channels": 8, "kernel_sizes": [3], "n_features": 40, "n_labels": 3})
        losses[weight] = float(task.loss(module, torch.arange(4), torch.Generator().manual_seed(0)).detach())
    assert losses[0.0] < losses[0.5] < losses[1.0]
    assert losses[1.0] - losses[0.5] == pytest.approx(losses[0.5] - losses[0.0], rel=1e-4)  # float32 sums


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.word_end_weight=-1\.0 must be >= 0"):
        recipe(RECIPE.replace("epochs = 1", "epochs = 1\nword_end_weight = -1"))


def test_a_change_of_tempo_squeezes_time_and_keeps_every_band() -> None:
    ramp = torch.arange(40.0)[None, :, None] * torch.tensor([1.0, -2.0])
    squeezed = change_tempo(ramp, 0.6, multiple_of=4)
    assert squeezed.shape == (1, 24, 2)
    # Frame i of 24 looks at the middle of its share of the 40: (i + 1/2) 40 / 24 - 1/2.
    middle = (torch.arange(24.0) + 0.5) * 40 / 24 - 0.5
    assert torch.allclose(squeezed[0, :, 0], middle, atol=1e-5)
    assert torch.allclose(squeezed[0, :, 1], -2 * middle, atol=1e-5)
    assert change_tempo(ramp, 0.01, multiple_of=4).shape == (1, 4, 2)


def test_an_equalizer_gives_each_octave_its_gain_and_straight_lines_between() -> None:
    time = np.arange(RATE) / RATE
    pitches = np.array([[60.0], [250.0], [250.0 * 2**0.5], [4000.0]])
    bursts = torch.from_numpy((np.hanning(RATE) * np.sin(2 * np.pi * pitches * time)).astype(np.float32))
    gains_db = torch.tensor([3.0, -6.0, 0.0, 0.0, 0.0, 6.0, 0.0]).repeat(4, 1)
    heard = equalize(bursts, gains_db).square().mean(dim=1)
    expected_db = [3.0, -6.0, -3.0, 6.0]  # below 125 Hz, at 250 Hz, half an octave above, at 4 kHz
    found_db = 10 * torch.log10(heard / bursts.square().mean(dim=1))
    # A burst of a second is some Hz wide, over which the gain changes a little.
    assert found_db.tolist() == pytest.approx(expected_db, abs=0.05)


def test_every_example_is_equalized_on_its_own() -> None:
    clicks = torch.zeros(2, 4096).index_fill_(1, torch.tensor([2000]), 0.25)
    spec = AugmentationSpec(noise_probability=0.0, min_gain_db=0.0, max_gain_db=0.0, max_equalizer_db=6.0)
    heard = add_surroundings(clicks, spec, bed=torch.zeros(4096), generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(heard[0], heard[1], atol=1e-3)
    levels_db = 20 * torch.log10(4 * torch.fft.rfft(heard).abs())
    assert float(levels_db.abs().max()) <= 6.001
    with pytest.raises(SpecError, match=r"max_equalizer_db=-1 must be >= 0"):
        AugmentationSpec(max_equalizer_db=-1)
