"""Synthesized speech: engines behind one interface, corpora and scenes made with them, noise and silence."""

from edgeaudio_models.synthesis.base import Synthesizer, Utterance
from edgeaudio_models.synthesis.corpus import SynthesizedCorpus, synthesize_corpus
from edgeaudio_models.synthesis.engines import (
    CommandSynthesizer,
    EspeakSynthesizer,
    PicoSynthesizer,
    installed_synthesizers,
)
from edgeaudio_models.synthesis.noise import generate_noise, generate_silence
from edgeaudio_models.synthesis.scene import Scene, synthesize_scene
from edgeaudio_models.synthesis.speech import Spoken, speak, speech_extent
from edgeaudio_models.synthesis.words import UNKNOWN_WORDS, unknown_words

__all__ = [
    "UNKNOWN_WORDS",
    "CommandSynthesizer",
    "EspeakSynthesizer",
    "PicoSynthesizer",
    "Scene",
    "Spoken",
    "SynthesizedCorpus",
    "Synthesizer",
    "Utterance",
    "generate_noise",
    "generate_silence",
    "installed_synthesizers",
    "speak",
    "speech_extent",
    "synthesize_corpus",
    "synthesize_scene",
    "unknown_words",
]
