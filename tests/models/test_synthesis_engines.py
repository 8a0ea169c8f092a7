"""Speech engines behind one interface: what they say, whom they refuse, and how they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.synthesis import (
    CommandSynthesizer,
    EspeakSynthesizer,
    PicoSynthesizer,
    Synthesizer,
    engines,
    installed_synthesizers,
)
from edgeaudio_models.synthesis.processes import EngineProcess
from edgeaudio_runtime.errors import SpecError

LOUD = 3_000
"""A tenth of full scale: every voice reaches it."""


@pytest.fixture(scope="module")
def pico() -> PicoSynthesizer:
    pytest.importorskip("py_nanotts", reason="py-nanotts is not installed")
    return PicoSynthesizer()


@pytest.fixture(scope="module")
def espeak() -> EspeakSynthesizer:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")
    return EspeakSynthesizer()


def spoken_s(synthesizer: Synthesizer, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> float:
    samples, sample_rate = synthesizer.synthesize(text, voice, rate, pitch)
    return len(samples) / sample_rate


def fundamental_hz(synthesizer: Synthesizer, voice: str, pitch: float) -> float:
    """Pitch of a long vowel by the highest peak of the autocorrelation between 60 and 400 Hz."""
    samples, rate = synthesizer.synthesize("aaaah", voice, 0.8, pitch)
    middle = samples[len(samples) // 3 : len(samples) // 3 + rate // 5].astype(np.float64)
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    low, high = rate // 400, rate // 60
    return rate / (low + int(np.argmax(correlation[low:high])))


def test_pico_speaks_at_16_khz_without_clipping(pico: PicoSynthesizer) -> None:
    for voice in pico.voices:
        samples, rate = pico.synthesize("right", voice)
        assert rate == 16_000
        assert samples.dtype == np.int16
        assert LOUD < np.abs(samples.astype(int)).max() < 32_767


def test_pico_says_the_same_samples_whatever_was_said_before(pico: PicoSynthesizer) -> None:
    first = pico.synthesize("left", "en-US", 1.1, 0.9)[0]
    for other in ("seventeen", "no", "left"):
        pico.synthesize(other, "en-GB", 0.8)
    np.testing.assert_array_equal(pico.synthesize("left", "en-US", 1.1, 0.9)[0], first)
    np.testing.assert_array_equal(PicoSynthesizer().synthesize("left", "en-US", 1.1, 0.9)[0], first)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_espeak_says_the_same_samples_whatever_was_said_before(espeak: EspeakSynthesizer) -> None:
    voices = espeak.voices[:: len(espeak.voices) // 12]  # some breathe, some are of the Klatt kind
    first = {voice: espeak.synthesize("left", voice, 1.1, 0.9)[0] for voice in voices}
    fresh = EspeakSynthesizer()
    fresh.synthesize("seventeen", "en-gb-scotland+f2", 0.8)
    for voice in reversed(voices):
        np.testing.assert_array_equal(fresh.synthesize("left", voice, 1.1, 0.9)[0], first[voice])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_dies_while_speaking_ends_the_engine() -> None:
    program = "import os, sys; from edgeaudio_models.synthesis import worker; "
    program += "worker.answer_in_a_child(lambda request: os.abort(), b'{}', sys.stdout.buffer)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the child that spoke ended with status -6" in done.stderr


def test_the_first_word_of_a_fresh_engine_is_the_second_one_too(pico: PicoSynthesizer) -> None:
    fresh = PicoSynthesizer()
    first = fresh.synthesize("yes", "en-GB", 1.1)[0]
    np.testing.assert_array_equal(fresh.synthesize("yes", "en-GB", 1.1)[0], first)


def test_rate_and_pitch_do_what_they_say(pico: PicoSynthesizer, espeak: EspeakSynthesizer) -> None:
    for synthesizer, voice in ((pico, "en-GB"), (espeak, "en-us+m3")):
        assert spoken_s(synthesizer, "seventeen", voice, 0.8) > 1.3 * spoken_s(synthesizer, "seventeen", voice, 1.3)
        assert fundamental_hz(synthesizer, voice, 1.25) > 1.1 * fundamental_hz(synthesizer, voice, 0.8)


def test_espeak_has_accents_times_variants_and_speaks_with_each_kind(espeak: EspeakSynthesizer) -> None:
    assert len(espeak.voices) == len(set(espeak.voices)) == 8 * len(engines.ESPEAK_VARIANTS)
    for voice in espeak.voices[:: len(espeak.voices) // 40]:
        samples, rate = espeak.synthesize("yes", voice)
        assert 0.15 < len(samples) / rate < 1.0
        assert np.abs(samples.astype(int)).max() > LOUD


def test_every_accent_of_espeak_is_known_to_it(espeak: EspeakSynthesizer) -> None:
    for accent in engines.ESPEAK_ACCENTS:
        assert espeak.synthesize("stop", f"{accent}+f2")[0].any()


def test_engines_state_determinism_and_licence(pico: PicoSynthesizer, espeak: EspeakSynthesizer) -> None:
    assert (pico.deterministic, espeak.deterministic) == (True, hasattr(os, "fork"))
    assert "Apache-2.0" in pico.licence
    assert "GPL-3.0" in espeak.licence
    assert [each.name for each in installed_synthesizers()] == ["pico", "espeak-ng"]


def test_bad_requests_are_one_line(pico: PicoSynthesizer) -> None:
    with pytest.raises(SynthesisError, match="pico: voice='xx' must be one of en-US, en-GB"):
        pico.synthesize("yes", "xx")
    with pytest.raises(SynthesisError, match="pico: text=' ' must hold a word"):
        pico.synthesize(" ", "en-US")
    with pytest.raises(SynthesisError, match=r"pico: rate=0.0 must be > 0; 1.0 is the voice's own"):
        pico.synthesize("yes", "en-US", 0.0)


def test_a_text_without_sound_is_refused(espeak: EspeakSynthesizer) -> None:
    with pytest.raises(SynthesisError, match=r"espeak-ng: text='\.' gave no sound; is it speakable"):
        espeak.synthesize(".", "en+f1")


@pytest.mark.parametrize(("kind", "package"), [(PicoSynthesizer, "py-nanotts"), (EspeakSynthesizer, "espeakng-loader")])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, kind: type, package: str) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SynthesisError, match=rf"{package} is not installed; run: pip install 'edgeaudio\[synthesis\]'"):
        kind()
    assert installed_synthesizers() == ()


def test_an_engine_that_dies_is_named_and_the_next_one_speaks(pico: PicoSynthesizer) -> None:
    process = EngineProcess("pico")
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(SynthesisError, match=r"pico: the speech engine ended with status -9 \(it said nothing\)"):
        process.ask(text="yes", voice="en-US", rate=1.0, pitch=1.0)
    process.close()
    assert pico.synthesize("yes", "en-US")[0].any()


def test_a_dead_engine_is_started_again_for_the_next_word() -> None:
    pytest.importorskip("py_nanotts", reason="py-nanotts is not installed")
    synthesizer = PicoSynthesizer()
    first = synthesizer.synthesize("yes", "en-US")[0]
    process = synthesizer.process._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    np.testing.assert_array_equal(synthesizer.synthesize("yes", "en-US")[0], first)


def test_an_engine_that_cannot_start_says_why() -> None:
    with pytest.raises(SynthesisError, match=r"nothing: the speech engine ended with status 1 \(KeyError: 'nothing'\)"):
        EngineProcess("nothing")


WRITER = """
import sys, wave
output, text, rate = sys.argv[1:]
with wave.open(output, "wb") as out:
    out.setparams((1, 2, 8000, 0, "NONE", "none"))
    out.writeframes(bytes([0, 16]) * int(len(text) * 100 * float(rate)))
"""


def command(folder: Path, program: str, arguments: str = "{output} {text} {rate}") -> CommandSynthesizer:
    (folder / "program.py").write_text(program)
    return CommandSynthesizer(f"'{sys.executable}' '{folder / 'program.py'}' {arguments}", licence="CC0-1.0")


def test_any_command_that_writes_a_wav_is_a_synthesizer(tmp_path: Path) -> None:
    synthesizer = command(tmp_path, WRITER)
    samples, rate = synthesizer.synthesize("a b; echo 'no shell'", "default", 2.0)
    assert (len(samples), rate, samples[0]) == (20 * 100 * 2, 8_000, 4_096)
    assert synthesizer.licence == "CC0-1.0"


def test_a_command_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SynthesisError, match=r"ended with status 3 \(bad voice\)"):
        command(tmp_path, "import sys; print('bad voice', file=sys.stderr); sys.exit(3)").synthesize("x", "default")
    with pytest.raises(SynthesisError, match=r"wrote no usable audio \(.*speech\.wav: no such file\)"):
        command(tmp_path, "").synthesize("x", "default")
    with pytest.raises(SynthesisError, match="no-such-program: no such command; install it or give its full path"):
        CommandSynthesizer("no-such-program {text} {output}").synthesize("x", "default")
    monkeypatch.setattr(engines, "COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(SynthesisError, match=r"ran for 0\.2 s; does it wait for input"):
        command(tmp_path, "import time; time.sleep(5)").synthesize("x", "default")


def test_templates_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(SpecError, match=r"command='say \{text\}' must contain \{output\}"):
        CommandSynthesizer("say {text}")
    with pytest.raises(
        SpecError, match=r"command has the unknown field 'pace'; it may use \{text\} \{output\} \{voice\}"
    ):
        CommandSynthesizer("say {text} {output} {pace}")
