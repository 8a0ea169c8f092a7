"""Further synthesizers: the ``flite`` command where it is on the path; hibari and Kokoro-82M where installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeaudio_models.audio_files import Int16, read_audio, to_int16
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.synthesis import kokoro
from edgeaudio_models.synthesis.base import Synthesizer
from edgeaudio_models.synthesis.engines import COMMAND_TIMEOUT_S, installed_synthesizers
from edgeaudio_runtime.errors import AudioError

FLITE_PITCH_HZ: Mapping[str, float] = {"awb": 130.0, "kal16": 105.0, "rms": 100.0, "slt": 175.0}
"""Voices of the ``flite`` of Debian that are worth hearing, with their mean pitch."""

HIBARI_VOICES: Mapping[str, tuple[float, float]] = {
    "heart": (1.0, 1.0), "heart+girl": (1.1, 1.1), "heart+alto": (0.82, 0.95), "heart+tenor": (0.72, 0.9),
    "heart+baritone": (0.62, 0.86),
}  # fmt: skip
"""Factor on the pitch and factor on all formants of the one voice in hibari's package."""


class FliteSynthesizer:
    """CMU Flite by its command: four English voices; BSD-like licence."""

    name = "flite"
    voices = tuple(FLITE_PITCH_HZ)
    deterministic = True
    slow = False
    licence = "MIT-like (CMU Flite and its voices)"

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """See ``Synthesizer``."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "speech.wav"
            settings = (f"duration_stretch={1.0 / rate:.3f}", f"int_f0_target_mean={FLITE_PITCH_HZ[voice] * pitch:.1f}")
            options = [part for setting in settings for part in ("--setf", setting)]
            try:
                subprocess.run(
                    ["flite", "-voice", voice, *options, "-t", text, "-o", str(output)],
                    capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True,
                )  # fmt: skip
                return read_audio(output)
            except (OSError, subprocess.SubprocessError, AudioError) as error:
                raise SynthesisError(f"flite: text={text!r} was not spoken ({error})") from error


class HibariSynthesizer:
    """hibari, a small neural voice distilled from Kokoro-82M (both Apache-2.0), played as five speakers.

    It computes a pulse train and a spectral envelope; pitch is changed in the first, the length of the vocal tract by
    playing the result at another rate.
    """

    name = "hibari"
    voices = tuple(HIBARI_VOICES)
    deterministic = False
    slow = False
    licence = "Apache-2.0 (hibari, distilled from Kokoro-82M)"

    def __init__(self) -> None:
        """Raise SynthesisError where hibari-tts is not installed."""
        if importlib.util.find_spec("hibari") is None:
            raise SynthesisError("hibari-tts is not installed; run: pip install 'edgeaudio[wake-word]'")
        self._lock = threading.Lock()  # its grapheme-to-phoneme tables are filled on use

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """See ``Synthesizer``."""
        import numpy as np
        from hibari import dsp

        pitch_factor, formants = HIBARI_VOICES[voice]
        with self._lock:
            ids = [self._engine.ids(phonemes) for phonemes in self._engine.phonemize(text)]
        if not ids or len(ids[0]) < 3:
            raise SynthesisError(f"hibari: text={text!r} gave no sound; is it speakable?")
        speed = min(2.0, max(0.5, rate / formants))
        spoken = []
        for sentence in ids:
            request = {"ids": np.asarray([sentence], np.int64), "speed": np.asarray([speed], np.float32)}
            *rest, f0 = (part[0] for part in self._engine.sess.run(None, request))
            spoken.append(dsp.synth(*rest, f0 * (pitch * pitch_factor / formants), np.random.default_rng(0)))
        return to_int16(np.clip(np.concatenate(spoken), -1.0, 1.0)), round(dsp.SR * formants)

    @cached_property
    def _engine(self) -> Any:
        from hibari import Hibari

        return Hibari(threads=1)


def every_synthesizer() -> tuple[Synthesizer, ...]:
    """All that can speak here: the installed packages, ``flite`` on the path, hibari, Kokoro-82M."""
    found: list[Synthesizer] = list(installed_synthesizers())
    if shutil.which("flite"):
        found.append(FliteSynthesizer())
    if importlib.util.find_spec("hibari"):
        found.append(HibariSynthesizer())
    if kokoro.installed():
        found.append(kokoro.KokoroSynthesizer())
    return tuple(found)
