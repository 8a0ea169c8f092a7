"""The torch front end against the numpy one, which the runtime tests hold to outside references."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio_models.torch_front_end import BLOCK_CLIPS, TorchFrontEnd
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import MelSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import KALDI80, LOG_MEL, MLPERF_STREAMING_WAKEWORD, PRESETS, WINDOWED_PRESETS

MAX_ERROR = 1e-3
"""Bar for every value."""
USUAL_ERROR = 1e-4
"""Bar for 99.9 % of the values."""

SPECS = {
    **{name: spec for name, spec in PRESETS.items() if isinstance(spec, MelSpec)},
    **{f"{name} (windowed)": spec for name, spec in WINDOWED_PRESETS.items()},
    "positive offset": dataclasses.replace(LOG_MEL, first_offset=277),
    "no logarithm, clamped above": dataclasses.replace(LOG_MEL, log="none", clamp_max=1.0),
    "stream pre-emphasis from itself": dataclasses.replace(MLPERF_STREAMING_WAKEWORD, preemphasis_first="self"),
    "int16 scale": dataclasses.replace(KALDI80, input_scale=32768.0),
}


def _assert_equal_to_numpy(spec: object, clips: np.ndarray, multiple_of: int = 4) -> None:
    features = TorchFrontEnd(spec, multiple_of)(torch.from_numpy(clips)).numpy()
    expected = np.stack([compute_features(spec, clip, multiple_of) for clip in clips])
    assert (features.shape, features.dtype) == (expected.shape, np.float32)
    error = np.abs(features - expected)
    assert error.max() < MAX_ERROR
    assert np.mean(error < USUAL_ERROR) > 0.999


@pytest.mark.parametrize("name", SPECS)
def test_noise_bursts_and_silence_equal_numpy(name: str) -> None:
    rng = np.random.default_rng(5)
    clips = rng.normal(0, 0.05, (BLOCK_CLIPS + 3, 12345)).astype(np.float32)
    clips[:, 4000:6000] = 0.0
    clips[0] = 0.0
    _assert_equal_to_numpy(SPECS[name], clips)


@pytest.mark.real_speech
@pytest.mark.parametrize("name", SPECS)
def test_real_speech_and_silence_equal_numpy(name: str, real_data: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    folder = real_data / "speech_commands"
    with (folder / "manifest.csv").open() as manifest:
        paths = [row["path"] for row in csv.DictReader(manifest) if row["split"] == "validation"]
    clips = np.zeros((60, 16000), dtype=np.float32)
    for clip, path in zip(clips[1:], paths[::15], strict=False):
        samples = soundfile.read(folder / path, dtype="float32")[0][:16000]
        clip[: len(samples)] = samples
    _assert_equal_to_numpy(SPECS[name], clips)


def test_double_precision_follows_numpy_more_closely() -> None:
    clips = np.random.default_rng(6).normal(0, 1e-3, (4, 8000)).astype(np.float32)
    features = TorchFrontEnd(KALDI80, precision=torch.float64)(torch.from_numpy(clips)).numpy()
    expected = np.stack([compute_features(KALDI80, clip) for clip in clips])
    # Only the float32 mel product is summed in another order.
    np.testing.assert_allclose(features, expected, atol=3e-6)


@pytest.mark.parametrize(
    ("n_samples", "multiple_of", "n_frames"), [(0, 4, 0), (1, 4, 4), (16000, 1, 100), (16000, 8, 104), (16001, 1, 101)]
)
def test_the_tail_rule_is_the_runtime_s(n_samples: int, multiple_of: int, n_frames: int) -> None:
    assert TorchFrontEnd(LOG_MEL, multiple_of)(torch.zeros(2, n_samples)).shape == (2, n_frames, 40)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert TorchFrontEnd(LOG_MEL)(torch.zeros(0, 16000)).shape == (0, 100, 40)


def test_gradients_reach_the_samples() -> None:
    samples = torch.full((1, 4000), 0.1, requires_grad=True)
    TorchFrontEnd(LOG_MEL)(samples * torch.sin(torch.arange(4000.0))).sum().backward()
    assert samples.grad is not None
    assert bool(samples.grad.isfinite().all())


def test_it_adds_nothing_to_a_checkpoint() -> None:
    assert not TorchFrontEnd(LOG_MEL).state_dict()


@pytest.mark.parametrize("samples", [torch.zeros(16000), torch.zeros(1, 16000, dtype=torch.float64)])
def test_wrong_clips_are_refused_with_the_remedy(samples: torch.Tensor) -> None:
    with pytest.raises(SpecError, match=r"must be \[N, samples\] and torch.float32; divide int16 by 32768"):
        TorchFrontEnd(LOG_MEL)(samples)


def test_the_fixed_point_front_end_is_refused_with_the_remedy() -> None:
    with pytest.raises(SpecError, match=r"'microfrontend' must be 'mel' .* no torch form to train with, so compute"):
        TorchFrontEnd(PRESETS["microfrontend"])


def test_rounding_to_a_multiple_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="multiple_of=0 must be >= 1"):
        TorchFrontEnd(LOG_MEL, multiple_of=0)
