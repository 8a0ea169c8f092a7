"""The certificate: what was proven about a bundle, and the digests of what it was proven about."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from edgeaudio.parity.blame import Part
from edgeaudio.parity.left_out import left_out
from edgeaudio.parity.stages import Stage
from edgeaudio.parity.stream_section import worst_verdict
from edgeaudio.parity.verdict import INFERIOR, judge_task
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.staging import OutputError, staged_file

CERTIFICATE_SCHEMA_VERSION = 1
_PACKAGES = (
    "edgeaudio",
    "edgeaudio-runtime",
    "numpy",
    "torch",
    "torchao",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "librosa",
    "kaldi-native-fbank",
    "tflite-micro",
)


def certificate(
    bundle: Bundle,
    stages: Sequence[Stage],
    *,
    task: Mapping[str, Any] | None = None,
    budget: float | None = None,
    blame: Sequence[Part] | None = None,
    robustness: Mapping[str, Any] | None = None,
    streams: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON form of a proof.

    Args:
        bundle: What was proven.
        stages: The rungs that ran.
        task: Float against int8 on labelled clips or strings of words, if there were any, in JSON form.
        budget: Loss that the task accepts, as a share; None takes that of its metric.
        blame: What each part of the pipeline costs, where it was looked for.
        robustness: From :func:`edgeaudio.parity.robustness.sweep_conditions`, where it was swept.
        streams: From :func:`edgeaudio.parity.stream_section.streams_section`, where recordings were given.

    It has passed if every rung has and int8 is not shown to lose more than the budget; too little data to show either
    is said by the verdict and fails nothing.

    Rungs that need the training side and were proven when the same files were exported are kept from the bundle's
    certificate, as long as its digests still hold. Rungs that this installation lacks a package for are ``left_out``.
    """
    judged = {} if task is None else judge_task(task, budget) or {}
    rows = [*_kept(bundle, {stage.name for stage in stages}), *(stage.to_dict() for stage in stages)]
    missing = left_out(bundle, [row["name"] for row in rows])
    return {
        "schema_version": CERTIFICATE_SCHEMA_VERSION,
        "bundle": bundle.name,
        "passed": all(row["passed"] for row in rows)
        and all(section.get("verdict") != INFERIOR for section in (judged, robustness or {}))
        and worst_verdict(streams) != INFERIOR,
        "stages": rows,
        **({"left_out": missing} if missing else {}),
        "task": None if task is None else {**task, **judged},
        **({} if blame is None else {"blame": [part.to_dict() for part in blame]}),
        **({} if robustness is None else {"robustness": dict(robustness)}),
        **({} if streams is None else {"streams": dict(streams)}),
        "covers": covered_digests(bundle),
        "environment": environment(),
    }


def covered_digests(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of the manifest, the detector or decoder, and every artifact."""
    decoding = "detector.json" if bundle.task == "keyword" else "decoder.json"
    digests = {name: hashlib.sha256(bundle.read_unlisted(name)).hexdigest() for name in ("manifest.json", decoding)}
    return {**digests, **{artifact.path: artifact.sha256 for artifact in bundle.manifest.artifacts}}


def environment() -> dict[str, str]:
    """Versions of what computed."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{k: v for k, v in versions.items() if v},
    }


def write_certificate(bundle: Bundle, document: Mapping[str, Any], card: str) -> None:
    """Put ``parity.json`` and ``card.md`` into a bundle directory, each whole.

    Raises:
        OutputError: The bundle is packed.
    """
    if not bundle.path.is_dir():
        raise OutputError(f"{bundle.path} is packed; unpack it to write its certificate")
    for name, text in (("parity.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n"), ("card.md", card)):
        with staged_file(bundle.path / name) as path:
            path.write_text(text, encoding="utf-8")


def _kept(bundle: Bundle, done: set[str]) -> list[dict[str, Any]]:
    earlier = bundle.parity
    if earlier is None or earlier.get("covers") != covered_digests(bundle):
        return []
    return [dict(stage) for stage in earlier["stages"] if stage["name"] not in done]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
