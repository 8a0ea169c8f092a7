"""SVOX Pico, espeak-ng, and any command that writes a WAV file."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from edgeaudio_models.audio_files import Int16, read_audio
from edgeaudio_models.errors import SynthesisError
from edgeaudio_models.synthesis.processes import EngineProcess
from edgeaudio_models.synthesis.worker import FORGETFUL
from edgeaudio_runtime.errors import AudioError, SpecError

PICO_VOICES = ("en-US", "en-GB")

ESPEAK_ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc"
)  # fmt: skip
"""English accents of espeak-ng."""

ESPEAK_VARIANTS = (
    "adam", "Alex", "Alicia", "Andrea", "Andy", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb",
    "david", "Denis", "Diogo", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "Gene", "Gene2", "grandma",
    "grandpa", "gustave", "Henrique", "Hugo", "ian", "iven", "iven2", "iven3", "iven4", "Jacky", "john", "klatt",
    "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "Lee", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8",
    "marcelo", "Marco", "Mario", "max", "Michael", "michel", "miguel", "Mike", "mike2", "norbert", "pablo", "paul",
    "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "steph3", "travis", "victor", "zac",
)  # fmt: skip
"""Voice variants of espeak-ng that sound like people; robots, demons, croaks and whispers are left out."""

COMMAND_TIMEOUT_S = 60.0


class _EngineSynthesizer:
    """What the engines have in common: a process that is started at the first word, and anew after a crash."""

    name: str
    voices: tuple[str, ...]
    slow = False

    def __init__(self) -> None:
        self._own = threading.local()  # each thread asks a process of its own, so that several speak at once

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """Speak: int16 ``[n_samples]`` and their rate in Hz; see ``Synthesizer``."""
        _check(self.name, self.voices, text, voice, rate, pitch)
        return _spoken(self.name, text, self.process.ask(text=text, voice=voice, rate=rate, pitch=pitch))

    @property
    def process(self) -> EngineProcess:
        """The calling thread's engine, started if there is none or it died."""
        process: EngineProcess | None = getattr(self._own, "process", None)
        if process is None or not process.alive:
            process = self._own.process = EngineProcess(self.name)
        return process


class PicoSynthesizer(_EngineSynthesizer):
    """SVOX Pico through py-nanotts: two English voices, deterministic, Apache-2.0.

    Rates from 0.2 to 5 and pitches from 0.5 to 2 are possible; the engine clips others.
    """

    name = "pico"
    voices = PICO_VOICES
    deterministic = True
    licence = "Apache-2.0 (SVOX Pico)"

    def __init__(self) -> None:
        """Raise SynthesisError where the ``synthesis`` extra is not installed."""
        super().__init__()
        _require("py_nanotts", "py-nanotts")


class EspeakSynthesizer(_EngineSynthesizer):
    """espeak-ng through espeakng-loader: English accents times variants as ``en-us+f3``; GPL-3.0; deterministic but on
    Windows, which cannot fork.

    Rates from 0.46 to 2.5 (80 to 450 words a minute) and pitches up to 2 are possible; the engine clips others.
    """

    name = "espeak-ng"
    voices = tuple(f"{accent}+{variant}" for variant in ESPEAK_VARIANTS for accent in ESPEAK_ACCENTS)
    deterministic = name in FORGETFUL
    licence = "GPL-3.0-or-later (espeak-ng)"

    def __init__(self) -> None:
        """Raise SynthesisError where the ``synthesis`` extra is not installed."""
        super().__init__()
        _require("espeakng_loader", "espeakng-loader")


class CommandSynthesizer:
    """Any program that writes a WAV file, from a template such as ``flite -voice {voice} -t {text} -o {output}``."""

    deterministic = False
    slow = False

    def __init__(self, command: str, *, voices: Sequence[str] = ("default",), licence: str = "unstated") -> None:
        """Take the template; ``{text}`` and ``{output}`` are required, ``{voice}``, ``{rate}``, ``{pitch}`` optional.

        No shell is involved: the template is split into arguments first, and each is filled in then.

        Raises:
            SpecError: A required field is missing or an unknown one present.
        """
        self._arguments = shlex.split(command)
        for field in ("{text}", "{output}"):
            if field not in command:
                raise SpecError(f"command={command!r} must contain {field}; e.g. 'flite -t {{text}} -o {{output}}'")
        self.voices = tuple(voices)
        self.licence = licence
        self.name = f"command:{command}"
        self._fill(text="", voice="", rate=1.0, pitch=1.0, output="")

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """Run the command and read the file it wrote (the first channel where it has several)."""
        _check(self.name, self.voices, text, voice, rate, pitch)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "speech.wav"
            arguments = self._fill(text=text, voice=voice, rate=rate, pitch=pitch, output=str(output))
            _run(arguments)
            try:
                return _spoken(self.name, text, read_audio(output, channel=0))
            except AudioError as error:
                raise SynthesisError(f"{arguments[0]}: wrote no usable audio ({error})") from error

    def _fill(self, **values: object) -> list[str]:
        try:
            return [argument.format(**values) for argument in self._arguments]
        except (KeyError, IndexError, ValueError) as error:
            known = "{text} {output} {voice} {rate} {pitch}"
            raise SpecError(f"command has the unknown field {error}; it may use {known}") from error


def installed_synthesizers() -> tuple[PicoSynthesizer | EspeakSynthesizer, ...]:
    """Synthesizers whose packages are installed, the deterministic one first; may be empty."""
    found: list[PicoSynthesizer | EspeakSynthesizer] = []
    if importlib.util.find_spec("py_nanotts"):
        found.append(PicoSynthesizer())
    if importlib.util.find_spec("espeakng_loader"):
        found.append(EspeakSynthesizer())
    return tuple(found)


def _require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise SynthesisError(f"{package} is not installed; run: pip install 'edgeaudio[synthesis]'")


def _check(name: str, voices: tuple[str, ...], text: str, voice: str, rate: float, pitch: float) -> None:
    if voice not in voices:
        shown = ", ".join(voices[:8]) + (", ..." if len(voices) > 8 else "")
        raise SynthesisError(f"{name}: voice={voice!r} must be one of {shown}")
    if not text.strip():
        raise SynthesisError(f"{name}: text={text!r} must hold a word")
    for what, value in (("rate", rate), ("pitch", pitch)):
        if not value > 0:
            raise SynthesisError(f"{name}: {what}={value} must be > 0; 1.0 is the voice's own")


def _spoken(name: str, text: str, result: tuple[Int16, int]) -> tuple[Int16, int]:
    if not result[0].any():
        raise SynthesisError(f"{name}: text={text!r} gave no sound; is it speakable?")
    return result


def _run(arguments: list[str]) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise SynthesisError(f"{arguments[0]}: no such command; install it or give its full path") from error
    except subprocess.TimeoutExpired as error:
        raise SynthesisError(f"{arguments[0]}: ran for {COMMAND_TIMEOUT_S:g} s; does it wait for input?") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SynthesisError(
            f"{arguments[0]}: ended with status {done.returncode} ({said[-1] if said else 'no message'})"
        )
