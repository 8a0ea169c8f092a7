"""Front ends of other libraries: which specifications they can express, and that they say the same of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeaudio.parity import ladder
from edgeaudio.parity.left_out import left_out
from edgeaudio.parity.references import kaldi_can_express, kaldi_features, librosa_can_express
from edgeaudio_runtime.features import MelSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import KALDI80, PRESETS

OTHERS = {
    "hamming, no pre-emphasis": replace(
        KALDI80, window="hamming", preemphasis=0.0, dc_removal="none", n_mels=40, affine_scale=0.1, affine_offset=3.0
    ),
    "hann, magnitudes, 8 kHz": replace(
        KALDI80, window="hann", power=1, sample_rate=8000, win_length=200, hop_length=80, n_fft=256,
        n_mels=23, f_max=3800.0,
    ),
    "rectangular, int16 scale": replace(KALDI80, window="rectangular", input_scale=32768.0),
    "windows of 11.025 kHz": replace(
        KALDI80, sample_rate=11025, win_length=275, hop_length=110, n_fft=512, f_max=5000.0, n_mels=40, clamp_min=-12.0
    ),
}  # fmt: skip


def noise(n_samples: int) -> Any:
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.choice([0.0, 30.0, 300.0, 8000.0], n_samples // 800), 800)
    return np.clip(np.rint(rng.standard_normal(len(loudness)) * loudness), -32768, 32767).astype(np.int16)


@pytest.fixture(scope="module", autouse=True)
def kaldi_native_fbank() -> Any:
    return pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")


def test_every_preset_that_is_kaldi_s_has_a_reference_and_no_other() -> None:
    assert [name for name, spec in PRESETS.items() if kaldi_can_express(spec)] == ["kaldi80"]
    assert not librosa_can_express(KALDI80)


@pytest.mark.parametrize("name", OTHERS)
def test_kaldi_says_the_same_of_every_specification_it_can_express(name: str) -> None:
    spec, samples = OTHERS[name], noise(16_000)
    assert kaldi_can_express(spec)
    ours = compute_features(spec, samples, implementation="numpy")
    theirs = kaldi_features(spec, samples, len(ours))
    assert theirs is not None
    assert theirs.shape == ours.shape
    error = np.abs(ours - theirs) / abs(spec.affine_scale)
    assert error.max() < ladder.KALDI_HARD_ATOL
    assert np.mean(error > ladder.KALDI_ATOL) <= ladder.KALDI_SHARE


@pytest.mark.parametrize(
    "change",
    [
        {"mel_scale": "slaney"},
        {"triangle_domain": "hz"},
        {"bin_rule": "all"},
        {"log_floor": 1e-6},
        {"n_dct": 13},
        {"first_offset": -200},
        {"preemphasis_first": "zero"},
        {"n_fft": 1024},
    ],
)
def test_what_kaldi_cannot_express_is_not_asked_of_it(change: dict[str, Any]) -> None:
    assert not kaldi_can_express(replace(KALDI80, **change))


class Probe:
    """What the rung reads of a ladder."""

    def __init__(self, samples: Any) -> None:
        self.head = samples


def rung(ours_spec: MelSpec) -> list[Any]:
    samples = noise(8000)
    probe: Any = Probe(samples)
    ours = compute_features(ours_spec, samples, implementation="numpy")
    return list(ladder._Ladder._kaldi(probe, KALDI80, ours, 1.0))


def test_the_rung_passes_on_the_preset_and_fails_on_another_window() -> None:
    (stage,) = rung(KALDI80)
    assert (stage.name, stage.reference) == ("front end, kaldi-native-fbank", "kaldi-native-fbank float32")
    assert stage.tolerance == "within 0.0001 nats on 98 % of values, all within 0.005"
    assert stage.passed
    assert [other.passed for other in rung(replace(KALDI80, window="hamming"))] == [False]


def test_without_the_package_the_rung_is_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaldi_native_fbank", None)
    assert rung(KALDI80) == []

    class Named:
        """What is asked of a bundle."""

        features = KALDI80

    named: Any = Named()
    monkeypatch.setattr("edgeaudio.parity.left_out.missing_micro", lambda bundle: None)
    remedy = "kaldi-native-fbank is not installed; run: pip install 'edgeaudio[references]'"
    assert left_out(named, []) == [f"front end, kaldi-native-fbank: {remedy}"]
