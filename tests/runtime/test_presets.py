"""The table of presets, its document and its errors."""

import re
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import PRESETS, WINDOWED_PRESETS, preset, windowed_preset

DOCUMENT = Path(__file__).parents[2] / "docs" / "presets.md"


def _documented_table() -> dict[str, dict[str, str]]:
    # Rows "| field | value | value ... |" under a header "| field | log_mel | kaldi80 | ... |", a table for each kind.
    found = {}
    for rest in DOCUMENT.read_text().split("| field |")[1:]:
        table = "| field |" + rest.split("\n\n")[0]
        rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()]
        del rows[1]
        found |= {name: {row[0]: row[i] for row in rows[1:]} for i, name in enumerate(rows[0]) if i}
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_the_documented_table_holds_every_constant(name: str) -> None:
    written = _documented_table()[name]
    assert written == {field: f"{value}" for field, value in PRESETS[name].to_dict().items()}


def test_the_document_names_every_windowed_original() -> None:
    text = DOCUMENT.read_text()
    assert all(re.search(rf"`{name}`.*windowed", text) for name in WINDOWED_PRESETS)


def test_the_promised_presets_are_there() -> None:
    names = {"log_mel", "kaldi80", "tf_mfcc_kws", "mlperf_streaming_wakeword", "whisper80", "librosa_db"}
    assert names <= set(PRESETS)


def test_the_mels_of_openwakeword_equal_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(4)
    codes = np.rint(rng.normal(0, 1, 8000) * np.linspace(1, 6000, 8000)).astype(np.int16)
    # center=False and a window of 400 in the middle of 512: frame i of librosa begins 56 samples before ours.
    bank = librosa.filters.mel(sr=16000, n_fft=512, n_mels=32, fmin=60.0, fmax=3800.0, dtype=np.float64)
    stft = librosa.stft(codes.astype(np.float64), n_fft=512, win_length=400, hop_length=160, center=False)
    expected = librosa.power_to_db(bank @ np.abs(stft) ** 2, amin=1e-10, top_db=None).T / 10 + 2
    features = compute_features(preset("openwakeword32"), codes)
    # 15 dB, the fixed floor, is 3.5; in float32 a bel of 12 has a last bit of 1e-6.
    np.testing.assert_allclose(features[: len(expected)], np.maximum(expected, 3.5), atol=1e-5)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PRESETS["log_mel"] = preset("kaldi80")  # type: ignore[index]


def test_a_preset_and_its_windowed_original_share_geometry() -> None:
    for name, original in WINDOWED_PRESETS.items():
        fixed = preset(name)
        assert (fixed.n_features, fixed.hop_length, fixed.first_offset) == (
            original.n_features, original.hop_length, original.first_offset,
        )  # fmt: skip


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(SpecError, match=r"preset='log_mels' must be one of \['kaldi80', 'librosa_db', 'log_mel', "):
        preset("log_mels")
    with pytest.raises(SpecError, match="preset='log_mels' must be one of"):
        windowed_preset("log_mels")


def test_a_preset_without_windowed_original_says_so() -> None:
    with pytest.raises(SpecError, match=r"preset='log_mel' has no windowed original; those that have one are \['lib"):
        windowed_preset("log_mel")
