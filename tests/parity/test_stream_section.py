"""What a certificate says of streams: the JSON, its verdicts, its texts, and two of them side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

import edgeaudio.parity
from edgeaudio.card import render_card
from edgeaudio.parity.comparison import compare_certificates
from edgeaudio.parity.report import badge_line, junit_xml, render_stages
from edgeaudio.parity.stream_section import StreamResults, det_settings, judge_ratio, streams_section, worst_verdict
from edgeaudio.parity.streams import FLOAT, INT8, Spoken, StreamCounts
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig

SCHEMA = json.loads(Path(edgeaudio.parity.__file__).with_name("certificate.schema.json").read_text("utf-8"))
CONFIG = DetectorConfig(threshold=0.6, thresholds={"yes": 0.7}, gate_db=3.0)
THRESHOLDS = (0.5, 0.9)
RATE = 16_000


def spoken(in_float: tuple[bool, bool, bool], in_int8: tuple[bool, bool, bool], latency: float = 0.2) -> Spoken:
    """A recording whose sound ends after a second; both are heard with the same latency."""
    heard = {FLOAT: in_float, INT8: in_int8}
    at = {side: 1.0 + latency if flags[0] else None for side, flags in heard.items()}
    return Spoken(heard=heard, detected_s=at, sound_end_s=1.0, is_labelled=False)


def counts(in_float: tuple[int, int, int], in_int8: tuple[int, int, int], hours: float) -> StreamCounts:
    n_samples = round(hours * 3600 * RATE)
    return StreamCounts(n_recordings=5, n_samples=n_samples, events={FLOAT: in_float, INT8: in_int8})


def results(positives: tuple[Spoken, ...], negatives: dict[Path, StreamCounts]) -> StreamResults:
    return StreamResults(
        settings=det_settings(CONFIG, THRESHOLDS), thresholds=THRESHOLDS, positive_folders=(Path("said/jarvis"),),
        positives=positives, negatives=negatives, sample_rate=RATE,
    )  # fmt: skip


HIT, LATE = (True, True, True), (True, True, False)
MISS = (False, False, False)


@pytest.fixture
def section() -> dict[str, Any]:
    """Twenty recordings: 18 heard by float, 17 by int8; 1.5 and 0.5 hours with 3 + 1 and 4 + 2 events."""
    words = (*[spoken(HIT, HIT, 0.1 * i) for i in range(17)], spoken(LATE, MISS), *[spoken(MISS, MISS)] * 2)
    streams = {Path("a/talk"): counts((3, 9, 0), (4, 8, 0), 1.5), Path("b/talk"): counts((1, 1, 1), (2, 2, 0), 0.5)}
    return streams_section(results(words, streams))


def test_the_section_counts_what_was_heard(section: dict[str, Any]) -> None:
    assert section["positives"] == {"data": ["jarvis"], "n": 20, "n_labelled": 0, "tail_s": 0.5}
    assert [(row["data"], row["n"], row["hours"], row["float"], row["int8"]) for row in section["negatives"]] == [
        ("talk", 5, 1.5, 3, 4),
        ("talk", 5, 0.5, 1, 2),
    ]
    assert (section["float"]["misses"], section["int8"]["misses"]) == (2, 3)
    assert section["int8"]["miss_rate"] == 0.15
    assert (section["float"]["false_accepts"], section["int8"]["false_accepts_an_hour"]) == (4, 3.0)
    assert section["threshold"] == 0.6
    assert section["hours_needed"]["0.5"] == pytest.approx(-math.log(0.05) / 0.5)


def test_the_curve_has_a_point_for_each_threshold(section: dict[str, Any]) -> None:
    points = [(row["threshold"], row["float"]["miss_rate"], row["int8"]["false_accepts"]) for row in section["det"]]
    assert points == [(0.5, 0.1, 10), (0.9, 0.15, 0)]


def test_latency_is_that_of_what_was_heard(section: dict[str, Any]) -> None:
    found = section["latency_s"]["int8"]
    assert found["n"] == 17
    assert [found["p50"], found["p90"], found["p95"], found["p99"]] == pytest.approx([0.8, 1.44, 1.52, 1.584])
    assert section["latency_s"]["float"]["n"] == 18


def test_the_difference_is_paired_and_judged(section: dict[str, Any]) -> None:
    misses, accepts = section["difference"]["misses"], section["difference"]["false_accepts"]
    assert (misses["only_float"], misses["only_int8"], misses["mcnemar_p"]) == (1, 0, 1.0)
    assert misses["delta"] == pytest.approx(0.05)
    assert misses["ci95"] == pytest.approx([0.0, 0.15])  # Binomial(20, 1/20): P(> 3) = 1.6 %
    assert misses["verdict"] == "not enough data"
    low, high = accepts["ratio_ci95"]
    # 6 of 10: Clopper and Pearson's 0.2624 to 0.8784.
    assert (low, high) == pytest.approx((0.2624 / 0.7376, 0.8784 / 0.1216), rel=1e-3)
    assert (accepts["verdict"], worst_verdict(section)) == ("not enough data", "not enough data")


def test_the_schema_knows_the_section(section: dict[str, Any]) -> None:
    about = {"$ref": "#/$defs/streams", "$defs": SCHEMA["$defs"]}
    jsonschema.validate(json.loads(json.dumps(section)), about)
    alone = streams_section(results((), {Path("talk"): counts((0, 0, 0), (0, 0, 0), 1.0)}))
    jsonschema.validate(alone, about)
    assert (alone["positives"], alone["difference"]["misses"], alone["int8"]["miss_rate"]) == (None, None, None)
    assert alone["difference"]["false_accepts"]["ratio_ci95"] == [0.0, None]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**section, "verdict": "fine"}, about)


def test_a_model_without_a_float_network_is_told_alone() -> None:
    word = Spoken(heard={INT8: HIT}, detected_s={INT8: 1.5}, sound_end_s=1.0, is_labelled=True)
    section = streams_section(results((word,), {}))
    jsonschema.validate(section, {"$ref": "#/$defs/streams", "$defs": SCHEMA["$defs"]})
    assert (section["float"], section["difference"], worst_verdict(section)) == (None, None, None)
    assert section["positives"]["n_labelled"] == 1


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.5, 1.25), "non-inferior"),
        ((0.9, 1.3), "not enough data"),
        ((1.26, 9.0), "inferior"),
        ((0.0, math.inf), "not enough data"),
    ],
)
def test_rates_may_rise_by_a_quarter(interval: tuple[float, float], verdict: str) -> None:
    assert judge_ratio(interval, 0.25) == verdict


def proof(section: dict[str, Any] | None) -> dict[str, Any]:
    stage = {"name": "a", "passed": True, "compared": 1, "mismatches": 0, "tolerance": "exact", "max_lsb": 0,
             "reference": "x", "candidate": "y"}  # fmt: skip
    more = {} if section is None else {"streams": section}
    return {"bundle": "kws", "passed": True, "stages": [stage], "task": None, "environment": {}, **more}


def test_the_reports_tell_of_streams(section: dict[str, Any]) -> None:
    lines = render_stages(proof(section)).splitlines()
    start = "streams at threshold 0.6: 20 recordings of a keyword (jarvis), 1.50 h without one (talk), 0.50 h"
    assert any(line.startswith(start) for line in lines)
    assert any(line.startswith("  int8  15.0% (3.2% to 37.9%)") and "3.00 (1.10 to 6.53)" in line for line in lines)
    assert "  int8 misses +5.00 points more (95 % +0.00 to +15.00), budget 1: not enough data" in lines
    assert any("int8 falsely accepts 0.36 to 7.23 times as often (95 %), budget 1.25" in line for line in lines)
    assert any("these hours allow no claim below 5.92 an hour" in line for line in lines)  # 11.842 / 2
    badge = badge_line(proof(section))
    assert "int8 in streams 15.0% of 20 missed, 3.00 false accepts an hour in 2.00 h" in badge
    suite = ElementTree.fromstring(junit_xml(proof(section)))[0]
    assert [case.get("name") for case in suite] == ["a", "streams"]
    assert suite.get("failures") == "0"
    section["difference"]["misses"]["verdict"] = "inferior"
    assert ElementTree.fromstring(junit_xml(proof(section)))[0].get("failures") == "1"


def test_the_card_tells_of_streams(section: dict[str, Any]) -> None:
    card = render_card(open_bundle(entry_folder("kws-12-small") / BUNDLE), proof(section))
    assert "20 recordings of a keyword, 1.50 hours of talk, 0.50 hours of talk; threshold 0.6; 95 % intervals." in card
    assert "| int8 | 15.0% (3.2% to 37.9%) | 3.00 (1.10 to 6.53) |" in card


def verdicts(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, str]:
    return {change.what: change.verdict for change in compare_certificates(proof(first), proof(second))}


def heard(n_hits: int, accepts: int) -> dict[str, Any]:
    words = tuple(spoken(HIT, HIT if i < n_hits else MISS) for i in range(200))
    return streams_section(results(words, {Path("talk"): counts((0, 0, 0), (accepts, 0, 0), 10.0)}))


@pytest.mark.parametrize(
    ("hits", "accepts", "misses", "rate"),
    [
        (190, 8, "same", "same"),
        (189, 12, "changed", "changed"),
        (187, 60, "worse", "worse"),
        (195, 0, "better", "better"),
    ],
)
def test_a_bundle_that_misses_or_accepts_more_is_worse(hits: int, accepts: int, misses: str, rate: str) -> None:
    changes = verdicts(heard(190, 8), heard(hits, accepts))
    assert changes == {"stage a": "same", "int8 misses": misses, "int8 false accepts an hour": rate}


def test_streams_of_other_recordings_are_only_told() -> None:
    other = heard(190, 8)
    other["negatives"][0]["n"] = 6
    assert verdicts(heard(190, 8), other) == {"stage a": "same", "streams": "changed"}
    (_, change) = compare_certificates(proof(None), proof(other))
    assert (change.before, change.verdict) == ("not measured", "changed")
    assert change.after.startswith("int8 in streams 5.0% of 200 missed")
