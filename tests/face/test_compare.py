"""``edgeaudio compare``, and the reports that ``edgeaudio parity`` writes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

from edgeaudio.parity.float_reference import FloatReference, float_steps
from edgeaudio.parity.stages import compare_codes
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from tests.face.conftest import Face, Run


def test_a_bundle_is_not_worse_than_itself_on_clips(face: Face, run: Run) -> None:
    result = run("compare", face.bundle, face.bundle, "--data", face.corpus, "--cache", face.cache, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["worse"] is False
    assert {change["verdict"] for change in document["changes"]} == {"same"}
    # Equal answers on so few clips bound a loss by far more than the budget.
    assert "not enough data" in document["changes"][0]["what"]


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


@pytest.fixture
def one_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of one rung, for what is measured beside it."""
    codes = np.arange(4, dtype=np.int8)
    stage = compare_codes("engine by hand", ("one", codes), ("other", codes))
    monkeypatch.setattr("edgeaudio.parity.ladder.run_ladder", lambda *_, **__: [stage])


@pytest.mark.usefixtures("one_rung")
def test_parity_tells_of_streams_and_hears_clips_in_several_ways(face: Face, run: Run) -> None:
    folders = ("--positives", face.corpus, "--negatives", face.corpus)
    shared = ("--data", face.corpus, "--cache", face.cache, "--hearings", "3")
    result = run("parity", face.bundle, *shared, *folders, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == (0 if document["passed"] else 1)
    jsonschema.validate(document, json.loads(files("edgeaudio.parity").joinpath("certificate.schema.json").read_text()))
    task, streams = document["task"], document["streams"]
    assert (task["n"], task["n_hearings"]) == (20, 3)
    assert [sum(row) for row in task["confusion"]["int8"]] == [4] * 5
    # Fourteen clips of a second of each label: three are keywords, "_silence_" is no speech, "_unknown_" is left.
    assert streams["positives"] == {"data": ["corpus"], "n": 42, "n_labelled": 42, "tail_s": 0.5}
    (other,) = streams["negatives"]
    assert (other["n"], other["hours"]) == (14, pytest.approx(14 / 3600))
    assert streams["float"]["positives"] == streams["int8"]["positives"] == 42
    # int8 may move a decision on the edge of a threshold, not more.
    assert abs(streams["float"]["misses"] - streams["int8"]["misses"]) <= 2
    assert streams["int8"]["false_accepts"] == other["int8"]


def test_the_float_file_of_a_bundle_keeps_its_state_between_calls(face: Face) -> None:
    bundle = open_bundle(face.bundle)
    features = np.random.default_rng(0).standard_normal((40, bundle.features.n_features)).astype(np.float32)
    hear_next = float_steps(bundle)()
    parts = [hear_next(features[:12]), hear_next(features[12:])]
    assert np.array_equal(np.concatenate(parts), FloatReference(bundle).run(features))


def test_streams_are_for_keywords_and_hearings_for_comparisons(
    face: Face, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("parity", entry_folder("digits-ctc") / BUNDLE, "--negatives", face.corpus)
    assert refused.exit_code == 2
    assert "task='ctc' reports no keywords in streams; leave --positives and --negatives out" in refused.stderr
    monkeypatch.setattr("edgeaudio.parity.as_is.is_as_is", lambda _: True)
    refused = run("parity", face.bundle, "--data", face.corpus, "--cache", face.cache, "--hearings", "2")
    assert refused.exit_code == 2
    assert "hearings=2 narrow a comparison, and a model that came as it is has no float network" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
