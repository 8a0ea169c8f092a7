"""Augmentation does what it says, measured: shifts to the sample, gains and SNRs in dB, masks in frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeaudio_models.augmentation import (
    AugmentationSpec,
    add_noise,
    apply_gain,
    coloured_noise,
    draw_integers,
    draw_mask,
    mask_features,
    mean_square,
    noise_like,
)
from edgeaudio_models.waveform_batches import add_surroundings
from edgeaudio_runtime.errors import SpecError

N_SAMPLES = 4000
DB_ERROR = 1e-3  # float32 sums over thousands of samples
QUIET = AugmentationSpec(
    max_shift=0,
    min_gain_db=0.0,
    max_gain_db=0.0,
    noise_probability=0.0,
    n_time_masks=0,
    n_feature_masks=0,
)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech(n_clips: int = 8, *, level: float = 0.1) -> Tensor:
    return torch.randn(n_clips, N_SAMPLES, generator=seeded(99)) * level


NOISE = torch.randn(50_000, generator=seeded(5)) * 0.1


def rms_db(samples: Tensor) -> np.ndarray:
    return 10 * np.log10((samples.double().numpy() ** 2).mean(axis=-1))


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, 0.0, 20.0])
def test_a_gain_changes_the_level_by_that_many_db(gain_db: float) -> None:
    clips = speech(level=0.001)
    changed = rms_db(apply_gain(clips, torch.full((8,), gain_db))) - rms_db(clips)
    np.testing.assert_allclose(changed, gain_db, atol=DB_ERROR)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
def test_noise_is_added_at_the_asked_ratio(snr_db: float) -> None:
    clips, noise = speech(), coloured_noise(8, N_SAMPLES, generator=seeded())
    added = add_noise(clips, noise, torch.full((8,), snr_db)) - clips
    np.testing.assert_allclose(rms_db(clips) - rms_db(added), snr_db, atol=0.01)  # the difference cancels digits


def test_a_silent_clip_takes_noise_no_louder_than_it_was() -> None:
    noise = coloured_noise(2, N_SAMPLES, generator=seeded())
    mixed = add_noise(torch.zeros(2, N_SAMPLES), noise, torch.tensor([-5.0, 20.0]))
    np.testing.assert_allclose(rms_db(mixed) - rms_db(noise), [0.0, -20.0], atol=DB_ERROR)


def test_silent_noise_changes_nothing() -> None:
    clips = speech()
    torch.testing.assert_close(add_noise(clips, torch.zeros_like(clips), torch.zeros(8)), clips, rtol=0, atol=0)


def test_mean_square_is_numpys() -> None:
    clips = speech()
    np.testing.assert_allclose(mean_square(clips).numpy(), (clips.double().numpy() ** 2).mean(axis=1), rtol=1e-5)


def test_generated_noise_has_a_level_and_colours_between_white_and_brown() -> None:
    noise = coloured_noise(64, 16_000, generator=seeded())
    np.testing.assert_allclose(rms_db(noise), 20 * np.log10(0.05), atol=DB_ERROR)
    power = np.abs(np.fft.rfft(noise.double().numpy())) ** 2
    low, high = power[:, 400:800].mean(axis=1), power[:, 4000:8000].mean(axis=1)
    slopes = np.log2(low / high) / np.log2(5869.0 / 581.0)  # means of 1/f over the bands lie near these bins
    assert -0.2 < slopes.min() < 0.5
    assert 1.5 < slopes.max() < 2.4


def test_generated_noise_has_nothing_that_no_microphone_hears() -> None:
    power = np.abs(np.fft.rfft(coloured_noise(8, 16_000, generator=seeded()).double().numpy())) ** 2
    assert power[:, :20].max() < 1e-6 * power[:, 20:].max()  # bins are 1 Hz apart


def test_noise_is_cut_from_the_recording_anywhere() -> None:
    recording = torch.arange(10_000.0)
    cuts = noise_like(torch.zeros(200, 100), generator=seeded(), noise=recording)
    starts = cuts[:, 0]
    torch.testing.assert_close(cuts, starts[:, None] + torch.arange(100.0), rtol=0, atol=0)
    assert 0 <= starts.min() < 500
    assert 9_400 < starts.max() <= 9_900


def test_a_recording_shorter_than_the_clips_is_refused() -> None:
    with pytest.raises(SpecError, match=r"noise has shape \[99\], it must be 1-D with >= 100 samples; repeat it"):
        noise_like(torch.zeros(1, 100), generator=seeded(), noise=torch.zeros(99))
    with pytest.raises(SpecError, match=r"noise has shape \[2, 200\], it must be 1-D"):
        noise_like(torch.zeros(1, 100), generator=seeded(), noise=torch.zeros(2, 200))


def test_nothing_asked_changes_nothing() -> None:
    clips = speech()
    heard = add_surroundings(clips, QUIET, bed=NOISE, generator=seeded())
    torch.testing.assert_close(heard, clips, rtol=0, atol=0)
    features = torch.randn(2, 10, 4)
    torch.testing.assert_close(mask_features(features, QUIET, generator=seeded()), features, rtol=0, atol=0)


def test_the_seed_decides_everything_and_the_input_stays() -> None:
    clips = speech()
    before = clips.clone()
    first, again, other = (
        add_surroundings(clips, AugmentationSpec(), bed=NOISE, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    torch.testing.assert_close(clips, before, rtol=0, atol=0)
    assert first.abs().max() <= 1.0


def test_gains_are_drawn_over_the_whole_range_for_each_clip() -> None:
    clips = speech(400, level=0.001)
    spec = AugmentationSpec(max_shift=0, noise_probability=0.0)
    gains = rms_db(add_surroundings(clips, spec, bed=NOISE, generator=seeded())) - rms_db(clips)
    assert -20.0 - DB_ERROR <= gains.min() < -19.0
    assert 19.0 < gains.max() <= 20.0 + DB_ERROR


def test_noise_comes_to_the_asked_share_at_ratios_in_range() -> None:
    clips = speech(400)
    spec = AugmentationSpec(
        max_shift=0, min_gain_db=0, max_gain_db=0, noise_probability=0.5, min_snr_db=3, max_snr_db=9
    )
    added = add_surroundings(clips, spec, bed=NOISE, generator=seeded()) - clips
    touched = added.abs().amax(dim=1) > 0
    assert 0.4 < touched.float().mean() < 0.6  # four standard deviations of a fair coin thrown 400 times
    ratios = rms_db(clips[touched]) - rms_db(added[touched])
    assert 3 - 0.05 <= ratios.min() < 4
    assert 8 < ratios.max() <= 9 + 0.05


def test_a_mask_is_one_band_of_every_width_up_to_the_widest() -> None:
    masks = draw_mask(2000, 30, 6, seeded())
    widths = masks.sum(dim=1)
    assert sorted(set(widths.tolist())) == [0, 1, 2, 3, 4, 5, 6]
    edges = torch.nn.functional.pad(masks.int(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(dim=1) == (widths > 0)).all()  # connected
    assert masks[:, 0].any()
    assert masks[:, -1].any()


def test_a_mask_wider_than_the_features_is_cut_to_them() -> None:
    assert draw_mask(500, 3, 10, seeded()).sum(dim=1).max() == 3


def test_masks_replace_by_the_mean_over_frames_and_over_features() -> None:
    features = torch.randn(300, 50, 20, generator=seeded(3))
    spec = AugmentationSpec(n_time_masks=1, max_time_mask=5, n_feature_masks=1, max_feature_mask=4)
    masked = mask_features(features, spec, generator=seeded())
    hidden = (masked == features.mean(dim=(1, 2), keepdim=True)) & (masked != features)
    whole_frames, whole_features = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert (whole_frames.max(), whole_features.max()) == (5, 4)
    expected = 50 * 20 - (50 - whole_frames) * (20 - whole_features)
    assert torch.equal(hidden.sum(dim=(1, 2)), expected)
    torch.testing.assert_close(masked[~hidden], features[~hidden], rtol=0, atol=0)


def test_integers_include_both_ends() -> None:
    assert set(draw_integers(200, -1, 1, seeded()).tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_gain_db": 3.0, "max_gain_db": 1.0}, r"min_gain_db=3.0 must be <= max_gain_db=1.0"),
        ({"min_snr_db": 40.0}, r"min_snr_db=40.0 must be <= max_snr_db=30.0"),
        ({"noise_probability": 1.5}, r"noise_probability=1.5 must be in \[0, 1\]"),
        ({"max_shift": -1}, r"max_shift=-1 must be >= 0"),
    ],
)
def test_specifications_that_cannot_be_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        AugmentationSpec(**fields)  # type: ignore[arg-type]
