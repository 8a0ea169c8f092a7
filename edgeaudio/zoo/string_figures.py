"""What a card says of a CTC network: word errors of the float network and its int8 form on the same strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeaudio.parity.float_reference import FloatNetwork
from edgeaudio.parity.word_errors import SpokenString, WordErrorResult, score_strings
from edgeaudio.progress import progress_bar
from edgeaudio.sweep.variants import VARIANTS, Variant
from edgeaudio.zoo.noise import GAINS_DB, NOISE_SEED, SNRS_DB, Noise, mix
from edgeaudio_runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class StringNetworks:
    """An int8 bundle and the float network it was made from."""

    bundle: Bundle
    """Read by the numpy engine; every engine of the bundle answers as it does."""
    network: FloatNetwork
    """The float network."""

    def read(self, strings: Sequence[SpokenString], hearings: Sequence[Variant], title: str) -> WordErrorResult:
        """Both on the same strings."""
        with progress_bar(title) as progress:
            return score_strings(
                self.bundle, self.bundle.program("auto"), strings, hearings=hearings, float_network=self.network,
                progress=progress,
            )  # fmt: skip


def string_figures(
    networks: StringNetworks, strings: Sequence[SpokenString], noises: Sequence[Noise]
) -> dict[str, Any]:
    """Every figure of the card that comes from strings of words, JSON-ready.

    Args:
        networks: What is measured.
        strings: Of words that neither training nor any choice has heard.
        noises: Noise that training has not heard.

    Returns:
        ``word_errors`` (each string once), ``hearings`` (each in sixteen fixed shifts and gains), ``gain`` and
        ``noise``.
    """
    once = networks.read(strings, VARIANTS[:1], "reading strings")
    often = networks.read(strings, VARIANTS, f"reading strings in {len(VARIANTS)} ways")
    return {
        "word_errors": once.to_dict(),
        "hearings": often.to_dict(),
        "gain": [_row({"gain_db": gain_db}, networks, strings, gain_db) for gain_db in GAINS_DB],
        "noise": [
            _row({"noise": noise.name, "snr_db": snr_db}, networks, in_noise(strings, noise, snr_db))
            for noise in noises
            for snr_db in SNRS_DB
        ],
    }


def _row(
    about: dict[str, Any], networks: StringNetworks, strings: Sequence[SpokenString], gain_db: float = 0.0
) -> dict[str, Any]:
    title = "reading strings, " + ", ".join(f"{name} {value}" for name, value in about.items())
    found = networks.read(strings, [Variant(shift_ms=0.0, gain_db=gain_db)], title)
    return {**about, "float": found.reference, "int8": found.candidate}


def in_noise(strings: Sequence[SpokenString], noise: Noise, snr_db: float) -> list[SpokenString]:
    """Each string with a cut of ``noise`` at this ratio of mean powers over the string; noise is repeated as needed."""
    generator = np.random.default_rng(NOISE_SEED)
    longest = max(len(string.samples) for string in strings)
    bed = np.tile(noise.samples, -(-2 * longest // len(noise.samples)))
    mixed = []
    for string in strings:
        start = int(generator.integers(0, len(bed) - len(string.samples) + 1))
        cut = bed[start : start + len(string.samples)]
        mixed.append(replace(string, samples=mix(string.samples, cut, snr_db)))
    return mixed
