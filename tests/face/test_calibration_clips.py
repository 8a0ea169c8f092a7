"""Calibration streams are computed on access; probe conditions are what their names say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeaudio.calibration_clips import LazyArrays, calibration_streams, probe_conditions
from edgeaudio.exporting import ExportChoices, quantization_recipe
from edgeaudio_models.recipe import CalibrationRecipe
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import preset

SPEC = preset("log_mel")


def clips(count: int, amplitude: float = 1000.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((count, 4000))
    return np.rint(amplitude * noise).astype(np.int16)


def test_an_array_is_computed_on_access_each_time() -> None:
    calls: list[int] = []

    def compute(index: int) -> Any:
        calls.append(index)
        return np.full(2, index)

    lazy = LazyArrays(5, compute)
    assert (len(lazy), calls) == (5, [])
    assert lazy[-1].tolist() == [4, 4]
    assert [a[0] for a in lazy[1:4:2]] == [1, 3]
    assert [a[0] for a in lazy] == [0, 1, 2, 3, 4]
    assert calls == [4, 1, 3, 0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        lazy[5]


def test_calibration_clips_are_drawn_once_each_at_levels_in_turn() -> None:
    recordings = clips(6)
    streams = calibration_streams(SPEC, recordings, n_clips=4, step_frames=4)
    order = np.random.default_rng(0).permutation(6)[:4]
    assert len(streams) == 4
    for turn, gain in enumerate((1.0, 10**-0.5, 10**0.3, 0.1)):
        samples = np.clip(np.rint(recordings[order[turn]] * gain), -32768, 32767).astype(np.int16)
        np.testing.assert_array_equal(streams[turn], compute_features(SPEC, samples, multiple_of=4))
    assert len(calibration_streams(SPEC, recordings, n_clips=100, step_frames=4)) == 6


def test_probe_conditions_sweep_levels_noise_clipping_and_silence() -> None:
    conditions = probe_conditions(SPEC, clips(3), step_frames=4)
    speech = [f"speech at {level} dBFS" for level in (0, -20, -40, -60)]
    noise = [f"noise at {level} dBFS" for level in (-60, -30, -10)]
    assert list(conditions) == [*speech, "speech clipped by 20 dB", *noise, "digital silence"]
    silence = compute_features(SPEC, np.zeros(4000, np.int16), multiple_of=4)
    np.testing.assert_array_equal(conditions["digital silence"][0], silence)
    loudness = [float(np.mean(conditions[name][0])) for name in ("speech clipped by 20 dB", *speech)]
    assert loudness == sorted(loudness, reverse=True)
    recording = clips(3)[1]
    peak = int(np.abs(recording.astype(int)).max())
    samples = np.rint(recording * (3276.8 / peak)).astype(np.int16)
    np.testing.assert_array_equal(conditions["speech at -20 dBFS"][1], compute_features(SPEC, samples, multiple_of=4))


def test_a_percentile_without_its_method_is_refused() -> None:
    with pytest.raises(SpecError, match=r"percentile=99 does not go with calibration='mse'; leave it out"):
        quantization_recipe(CalibrationRecipe(), ExportChoices(percentile=99.0))


def test_the_recipe_of_a_model_gives_what_the_caller_leaves_open() -> None:
    recipe = CalibrationRecipe(method="percentile", percentile=99.5)
    assert quantization_recipe(recipe, ExportChoices()).calibration.percentile == 99.5
    assert quantization_recipe(recipe, ExportChoices(percentile=98.0)).calibration.percentile == 98.0
    assert (
        quantization_recipe(
            CalibrationRecipe(momentum=0.5), ExportChoices(calibration="moving_average")
        ).calibration.momentum
        == 0.5
    )


def test_recovery_of_a_model_s_recipe_is_done_unless_the_caller_says_otherwise() -> None:
    recipe = CalibrationRecipe(recovery=("bias_correction", "ranges"))
    assert quantization_recipe(recipe, ExportChoices()).recovery == ("bias_correction", "ranges")
    assert quantization_recipe(recipe, ExportChoices(recovery=())).recovery == ()
    # Nothing is recovered where no activation is quantized in advance.
    assert quantization_recipe(recipe, ExportChoices(method="float16")).recovery == ()
    assert quantization_recipe(recipe, ExportChoices(method="static_w8a16")).recovery == ("bias_correction", "ranges")


def test_models_and_export_know_the_same_methods() -> None:
    from edgeaudio_export.calibration import METHODS
    from edgeaudio_export.quantization_recipe import RECOVERY_STEPS as EXPORT_STEPS
    from edgeaudio_models.recipe import CALIBRATION_METHODS, RECOVERY_STEPS

    assert CALIBRATION_METHODS == METHODS
    assert RECOVERY_STEPS == EXPORT_STEPS
