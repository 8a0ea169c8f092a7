"""A bundle: does it run here, and is its proof of these bytes?"""

from __future__ import annotations

from pathlib import Path

from edgeaudio.parity.certificate import covered_digests
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.engines import available_engines
from edgeaudio_runtime.errors import EdgeAudioError
from edgeaudio_runtime.selftest import self_test


def assert_bundle(path: str | Path, *, certified: bool = True) -> Bundle:
    """Assert that a bundle is whole, replays its golden data on every installed engine, and has a certificate.

    Args:
        path: Directory or ``.zip``.
        certified: Whether it must hold a certificate that passed and covers these files.

    Returns:
        The bundle, opened.

    Raises:
        AssertionError: What is wrong, one line a finding.
    """
    try:
        bundle = open_bundle(Path(path))
    except EdgeAudioError as error:
        raise AssertionError(f"{path}: {error}") from error
    findings = [*_self_tests(bundle), *(_certificate(bundle) if certified else [])]
    if findings:
        raise AssertionError("\n".join([f"bundle {bundle.name}:", *(f"  {finding}" for finding in findings)]))
    return bundle


def _self_tests(bundle: Bundle) -> list[str]:
    engines = [name for name in bundle.manifest.engines if name in available_engines()]
    if not engines:
        return [f"none of its engines {list(bundle.manifest.engines)} is installed here"]
    reports = [self_test(bundle, engine=name) for name in engines]
    return [
        f"engine {report.engine}: {stage.describe()}"
        for report in reports
        for stage in report.stages
        if not stage.passed
    ]


def _certificate(bundle: Bundle) -> list[str]:
    proof = bundle.parity
    if proof is None:
        return [f"no certificate; run edgeaudio parity {bundle.path} --write"]
    if proof.get("covers") != covered_digests(bundle):
        return [f"its certificate is of other files; run edgeaudio parity {bundle.path} --write"]
    return [f"stage {row['name']} failed" for row in proof["stages"] if not row["passed"]] or (
        [] if proof["passed"] else ["its certificate did not pass: int8 is inferior to float"]
    )
