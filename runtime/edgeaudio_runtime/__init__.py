"""Streaming audio front end and int8 inference for edgeaudio bundles.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle, open_bundle
    from edgeaudio_runtime.ctc_decoder import CtcDecoder, DecoderConfig
    from edgeaudio_runtime.detector import KeywordDetector
    from edgeaudio_runtime.detector_config import DetectorConfig
    from edgeaudio_runtime.errors import (
        AudioError,
        BundleError,
        EdgeAudioError,
        EngineError,
        ParityError,
        SpecError,
    )
    from edgeaudio_runtime.events import Event, KeywordEvent, Token, TranscriptEvent
    from edgeaudio_runtime.features import FeatureSpec, MelSpec, MicrofrontendSpec, PcmSpec
    from edgeaudio_runtime.front_end import FrontEnd, compute_features
    from edgeaudio_runtime.hub import Hub
    from edgeaudio_runtime.listening import alisten, listen
    from edgeaudio_runtime.manifest import Manifest
    from edgeaudio_runtime.ngram import NgramModel
    from edgeaudio_runtime.pre_roll import AudioClip, PreRoll
    from edgeaudio_runtime.presets import PRESETS, preset
    from edgeaudio_runtime.resampling import Resampler
    from edgeaudio_runtime.selftest import SelfTestReport, self_test
    from edgeaudio_runtime.stream import AudioStream, clip_logits

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AudioClip",
    "AudioError",
    "AudioStream",
    "Bundle",
    "BundleError",
    "CtcDecoder",
    "DecoderConfig",
    "DetectorConfig",
    "EdgeAudioError",
    "EngineError",
    "Event",
    "FeatureSpec",
    "FrontEnd",
    "Hub",
    "KeywordDetector",
    "KeywordEvent",
    "Manifest",
    "MelSpec",
    "MicrofrontendSpec",
    "NgramModel",
    "ParityError",
    "PcmSpec",
    "PreRoll",
    "Resampler",
    "SelfTestReport",
    "SpecError",
    "Token",
    "TranscriptEvent",
    "alisten",
    "clip_logits",
    "compute_features",
    "listen",
    "open_bundle",
    "preset",
    "self_test",
]

_HOMES = {
    "bundle": ("Bundle", "open_bundle"),
    "ctc_decoder": ("CtcDecoder", "DecoderConfig"),
    "detector": ("KeywordDetector",),
    "detector_config": ("DetectorConfig",),
    "errors": ("AudioError", "BundleError", "EdgeAudioError", "EngineError", "ParityError", "SpecError"),
    "events": ("Event", "KeywordEvent", "Token", "TranscriptEvent"),
    "features": ("FeatureSpec", "MelSpec", "MicrofrontendSpec", "PcmSpec"),
    "front_end": ("FrontEnd", "compute_features"),
    "hub": ("Hub",),
    "listening": ("alisten", "listen"),
    "manifest": ("Manifest",),
    "ngram": ("NgramModel",),
    "pre_roll": ("AudioClip", "PreRoll"),
    "presets": ("PRESETS", "preset"),
    "resampling": ("Resampler",),
    "selftest": ("SelfTestReport", "self_test"),
    "stream": ("AudioStream", "clip_logits"),
}
"""Module to the public names that live in it."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
