"""What a Wyoming server offers: the wake words of keyword bundles, the transcripts of ctc bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeaudio_runtime import __version__
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.record import Record

if TYPE_CHECKING:
    from wyoming.info import Attribution, Info

_URL = ""
"""Bundles name their sources, not an address."""


class Service(Record):
    """One bundle on offer; all clients share its program."""

    bundle: Bundle
    program: Program
    names: Mapping[str, str]
    """Label of the bundle to the name of the Wyoming model; for ctc empty."""


class Catalogue:
    """The bundles of a server and the names by which clients know them."""

    def __init__(self, bundles: Iterable[Bundle], *, engine: str = "auto", languages: tuple[str, ...] = ()) -> None:
        """Load the program of each bundle.

        A wake word goes by its label; where two bundles have the same label, by ``bundle/label``.

        Args:
            bundles: Keyword and ctc bundles.
            engine: See ``Bundle.program``.
            languages: Codes such as "en" that the models are said to understand.

        Raises:
            SpecError: No bundle, two of one name, or a keyword bundle that needs the end of a recording.
            EngineError: The engine is not installed.
        """
        bundles = list(bundles)
        names = [bundle.name for bundle in bundles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise SpecError(
                f"bundles={names} must be at least one, each of another name; {twice or 'none'} will not do"
            )
        _check_hears_while_listening(bundles)
        self._languages = list(languages)
        words = [label for bundle in bundles for label in _words(bundle)]
        self.services = tuple(
            Service(
                bundle=bundle,
                program=bundle.program(engine),
                names={
                    label: label if words.count(label) == 1 else f"{bundle.name}/{label}" for label in _words(bundle)
                },
            )
            for bundle in bundles
        )

    @property
    def wake(self) -> tuple[Service, ...]:
        """Keyword bundles."""
        return tuple(service for service in self.services if service.bundle.task == "keyword")

    @property
    def asr(self) -> tuple[Service, ...]:
        """Ctc bundles."""
        return tuple(service for service in self.services if service.bundle.task == "ctc")

    @property
    def wake_words(self) -> tuple[str, ...]:
        """Names of all wake words."""
        return tuple(name for service in self.wake for name in service.names.values())

    def info(self) -> Info:
        """The answer to ``describe``."""
        from wyoming.info import AsrModel, AsrProgram, Info, WakeModel, WakeProgram

        program: dict[str, Any] = {
            "name": "edgeaudio", "description": "edgeaudio bundles", "installed": True, "version": __version__,
            "attribution": _attribution(self.services),
        }  # fmt: skip
        wake = [
            WakeModel(name=name, phrase=_phrase(label), **{**self._described(service), "description": _phrase(label)})
            for service in self.wake
            for label, name in service.names.items()
        ]
        asr = [AsrModel(name=service.bundle.name, **self._described(service)) for service in self.asr]
        return Info(
            wake=[WakeProgram(**program, models=wake)] if wake else [],
            asr=[AsrProgram(**program, models=asr)] if asr else [],
        )

    def _described(self, service: Service) -> dict[str, Any]:
        return {
            "description": service.bundle.name, "installed": True, "languages": self._languages,
            "version": _version(service.bundle), "attribution": _attribution((service,)),
        }  # fmt: skip


def _check_hears_while_listening(bundles: list[Bundle]) -> None:
    for bundle in bundles:
        whole = bundle.manifest.mode == "whole" or not bundle.features.streamable
        if bundle.task == "keyword" and whole:
            raise SpecError(f"{bundle.name} hears whole recordings, and a room never ends; serve a streaming bundle")


def _words(bundle: Bundle) -> list[str]:
    if bundle.task != "keyword":
        return []
    return [label for label in bundle.labels if label not in bundle.background_labels]


def _phrase(label: str) -> str:
    return label.replace("_", " ").strip()


def _version(bundle: Bundle) -> str:
    """Of a bundle: the beginning of its manifest's sha256, since the manifest names the digest of everything else."""
    return hashlib.sha256(bundle.read_unlisted("manifest.json")).hexdigest()[:12]


def _attribution(services: Iterable[Service]) -> Attribution:
    from wyoming.info import Attribution

    sources = dict.fromkeys(line for service in services for line in _sources(service.bundle))
    return Attribution(name=", ".join(sources) or "edgeaudio", url=_URL)


def _sources(bundle: Bundle) -> list[str]:
    listed = bundle.manifest.provenance.get("sources", [])
    sources = [source for source in listed if isinstance(source, Mapping)] if isinstance(listed, list) else []
    return [f"{source.get('name', 'unnamed')} ({source.get('licence', 'licence unknown')})" for source in sources]
