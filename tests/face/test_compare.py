"""``edgeaudio compare``, and the reports that ``edgeaudio parity`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from edgeaudio_runtime.bundle import open_bundle
from tests.face.conftest import Face, Run


def test_a_bundle_is_not_worse_than_itself_on_clips(face: Face, run: Run) -> None:
    result = run("compare", face.bundle, face.bundle, "--data", face.corpus, "--cache", face.cache, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["worse"] is False
    assert {change["verdict"] for change in document["changes"]} == {"same"}
    assert "non-inferior" in document["changes"][0]["what"]


def test_a_stage_that_no_longer_passes_is_worse(face: Face, run: Run, own_bundle: Path) -> None:
    certificate = own_bundle / "parity.json"
    document = json.loads(certificate.read_text("utf-8"))
    document["stages"][0]["passed"] = False
    certificate.write_text(json.dumps(document), "utf-8")
    result = run("compare", face.bundle, own_bundle)
    assert result.exit_code == 1
    assert f"worse    stage {document['stages'][0]['name']}: passed -> failed" in result.stdout.splitlines()
    assert run("compare", own_bundle, face.bundle).exit_code == 0


def test_a_bundle_without_certificate_is_refused_with_the_remedy(face: Face, run: Run, own_bundle: Path) -> None:
    (own_bundle / "parity.json").unlink()
    result = run("compare", face.bundle, own_bundle)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"run edgeaudio parity {own_bundle} --write first\n")


def test_parity_writes_junit_and_a_page(face: Face, run: Run, tmp_path: Path) -> None:
    junit, page = tmp_path / "parity.xml", tmp_path / "parity.html"
    result = run("parity", face.bundle, "--junit", junit, "--html", page, "--badge")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("**edgeaudio parity: passed**")
    suite = ElementTree.parse(junit).getroot()[0]
    assert suite.get("failures") == "0"
    names = [stage["name"] for stage in open_bundle(face.bundle).parity["stages"]]  # type: ignore[index]
    assert set(names) >= {str(case.get("name")) for case in suite} > {"front end", "quantization"}
    assert f"edgeaudio parity {face.bundle}" in page.read_text("utf-8")
    assert page.read_text("utf-8").count("<line ") == len(suite)
