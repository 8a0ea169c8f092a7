"""Rungs that this installation cannot climb, each with its reason: what was not compared is said, not passed over."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from edgeaudio.parity.micro import NAME as MICRO
from edgeaudio.parity.micro import missing_micro
from edgeaudio.parity.references import KALDI_STAGE, kaldi_can_express
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.presets import MICROFRONTEND


def left_out(bundle: Bundle, done: Iterable[str]) -> list[str]:
    """Lines ``stage: reason`` for the optional rungs of the bundle that are not among the stages ``done``."""
    reasons = {MICRO: missing_micro(bundle)}
    if kaldi_can_express(bundle.features):
        reasons[KALDI_STAGE] = _missing("kaldi_native_fbank", "pip install 'edgeaudio[references]'")
    if bundle.features == MICROFRONTEND:
        reasons["front end"] = _missing("pymicro_features", "pip install 'edgeaudio[references]'")
    names = set(done)
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason and name not in names]


def _missing(module: str, remedy: str) -> str | None:
    return None if _installed(module) else f"{module.replace('_', '-')} is not installed; run: {remedy}"


def _installed(module: str) -> bool:
    return sys.modules[module] is not None if module in sys.modules else find_spec(module) is not None
