"""Streams with a phrase: where it lies, when it should be heard, what the loss and the search make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeaudio_models.wake_word.corpus import cut_rows
from edgeaudio_models.wake_word.mining import Place, peaks, windows_at
from edgeaudio_models.wake_word.streams import EITHER, HEARD, NOT_HEARD, Streams, compose, targets, through_microphones
from edgeaudio_models.wake_word.task import decibel, hit_rate, stream_loss
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.presets import preset

RATE = 1_000
ROUNDING = 1e-6  # float32


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight phrases of 300 samples that rise to 1, and eight rows of -0.5."""
    phrases = torch.zeros(8, 1000)
    phrases[:, 700:] = torch.linspace(0.5, 1.0, 300)
    return torch.cat([phrases, torch.full((8, 1000), -0.5)]), torch.arange(16) < 8


def test_a_phrase_lies_whole_where_its_end_says() -> None:
    clips, has_phrase = rows()
    made = compose(clips, has_phrase, sample_rate=RATE, max_rate_change=0.0, generator=generator())
    assert made.lengths.tolist() == [300] * 8 + [0] * 8
    assert set(made.ends[8:].tolist()) == {0}
    for stream, end in zip(made.waveforms[:8], made.ends[:8].tolist(), strict=True):
        assert 300 <= end <= 1000 - 160  # a stream goes on for 0.16 s
        torch.testing.assert_close(stream[end - 300 : end], torch.linspace(0.5, 1.0, 300))
    assert len(set(made.ends[:8].tolist())) > 4
    assert bool((made.waveforms[8:] == -0.5).all())


def test_some_phrases_have_other_speech_beside_them_and_some_silence() -> None:
    clips, has_phrase = rows()
    made = compose(clips, has_phrase, sample_rate=RATE, max_rate_change=0.0, generator=generator())
    first = made.waveforms[:8, 0]
    last = made.waveforms[:8, -1]
    assert {0.0, -0.5} <= set(first.tolist())
    assert {0.0, -0.5} <= set(last.tolist())


def test_every_row_is_played_at_a_rate_of_its_own() -> None:
    clips, has_phrase = rows()
    made = compose(clips, has_phrase, sample_rate=RATE, max_rate_change=0.2, generator=generator())
    lengths = made.lengths[:8].tolist()
    assert len(set(lengths)) == 8
    assert 240 <= min(lengths) < 290
    assert 310 < max(lengths) <= 360


def test_outputs_shortly_after_the_phrase_should_hear_it_and_those_around_may_say_what_they_like() -> None:
    streams = Streams(waveforms=torch.zeros(2, 1600), ends=torch.tensor([500, 0]), lengths=torch.tensor([200, 0]))
    wanted = targets(streams, n_outputs=16, samples_per_output=100, sample_rate=RATE)
    # Outputs come at 100, 200, ...: heard from 500 to 780, either from beyond 400 to 1140.
    expected = [NOT_HEARD] * 4 + [HEARD] * 3 + [EITHER] * 4 + [NOT_HEARD] * 5
    assert wanted[0].tolist() == expected
    assert wanted[1].tolist() == [NOT_HEARD] * 16


def test_the_loss_weighs_the_worst_false_output_as_much_as_all_others() -> None:
    margins = torch.tensor([[2.0, -1.0, 0.5, -3.0]])
    logits = torch.stack([torch.zeros_like(margins), margins], dim=2)
    wanted = torch.tensor([[HEARD, NOT_HEARD, EITHER, NOT_HEARD]])

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    expected = softplus(-2.0) + 0.5 * (softplus(-1.0) + softplus(-3.0)) / 2 + 0.5 * softplus(-1.0)
    assert float(stream_loss(logits, wanted, label_smoothing=0.0)) == pytest.approx(expected, abs=ROUNDING)


def test_a_stream_without_the_phrase_has_no_hits_to_learn() -> None:
    logits = torch.zeros(1, 3, 2)
    wanted = torch.full((1, 3), NOT_HEARD)
    assert float(stream_loss(logits, wanted, label_smoothing=0.0)) == pytest.approx(math.log(2.0), abs=ROUNDING)


def test_the_hit_rate_counts_phrases_above_the_scores_that_a_share_of_the_others_exceeds() -> None:
    others = torch.linspace(0.0, 0.99, 100)
    hits = torch.tensor([0.5, 0.92, 0.985, 1.0])
    assert hit_rate(hits, others, 0.0) == 0.25
    assert hit_rate(hits, others, 0.05) == 0.5  # above 0.94
    assert hit_rate(hits, others, 0.1) == 0.75  # above 0.89


def test_a_microphone_changes_bands_and_leaves_the_floor() -> None:
    features = torch.full((2, 5, 40), 1.0)
    features[:, 0] = -3.0
    heard = through_microphones(features, db_in_features=0.1, generator=generator())
    assert bool((heard[:, 0] == -3.0).all())
    assert bool((heard[:, 1:] == heard[:, 1:2]).all())  # the same in every frame
    assert 0.1 < float((heard[:, 1] - 1.0).std()) < 1.0  # 4 dB at 0.1 a dB


def test_a_decibel_follows_from_the_logarithm_of_the_features() -> None:
    spec = preset("log_mel")
    assert decibel(spec) == pytest.approx(spec.affine_scale * math.log(10.0) / 10.0)  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="wake words take logarithmic mel bands"):
        decibel(preset("mlperf_tiny_kws"))  # type: ignore[arg-type]


def test_peaks_are_the_highest_scores_that_lie_apart() -> None:
    scores = np.array([0.0, 0.3, 0.9, 0.8, 0.0, 0.0, 0.04, 0.2, 0.0, 0.6], np.float32)
    assert peaks(scores, apart=2) == [2, 9]
    assert peaks(scores, apart=1) == [2, 7, 9]
    assert peaks(np.zeros(4, np.float32), apart=1) == []


def test_a_window_ends_shortly_after_its_place() -> None:
    stream = np.arange(1, 2001, dtype=np.int16)
    cut = windows_at(
        stream, (Place(score=1.0, sample=1000), Place(score=0.5, sample=50)), n_samples=600, sample_rate=RATE
    )
    assert cut[0].tolist() == list(range(801, 1401))  # 0.4 s after sample 1000
    assert cut[1].tolist() == [0] * 150 + list(range(1, 451))


def test_rows_follow_one_another_or_overlap() -> None:
    stream = np.arange(10, dtype=np.int16)
    assert cut_rows(stream, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]  # the half row is left out
    assert cut_rows(stream, 4, hop=2).tolist()[1] == [2, 3, 4, 5]
    assert cut_rows(stream[:3], 4).tolist() == [[0, 1, 2, 0]]
    assert cut_rows(stream[:0], 4).shape == (0, 4)
