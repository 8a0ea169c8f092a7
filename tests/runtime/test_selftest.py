"""The self-test passes on an honest bundle and names the stage of every planted defect."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime import tolerances
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.engines.base import Codes, NetworkSignature
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.golden import Golden
from edgeaudio_runtime.selftest import self_test

STAGES = ["pcm -> features", "features -> codes", "codes -> logits", "logits -> events", "random chunks"]


def test_every_stage_of_an_honest_bundle_passes(keyword_bundle: Path, ctc_bundle: Path) -> None:
    for path in (keyword_bundle, ctc_bundle):
        report = self_test(open_bundle(path), engine="numpy")
        assert report.passed
        assert [stage.name for stage in report.stages] == STAGES
        assert all(stage.mismatches == 0 for stage in report.stages)
        assert (report.engine, report.numerics) == ("numpy", "fp32")


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_every_stage_passes_on_the_other_engines(every_engine_bundle: Path, engine: str) -> None:
    bundle = open_bundle(every_engine_bundle)
    if engine not in bundle.engines():
        pytest.skip(f"{engine} is not installed")
    report = self_test(bundle, engine=engine)
    assert report.passed
    assert report.engine == engine


def test_the_json_has_the_fields_of_the_contract(keyword_bundle: Path) -> None:
    values = json.loads(json.dumps(self_test(open_bundle(keyword_bundle)).to_dict()))
    assert {"passed", "engine", "numerics", "stages"} <= set(values)
    for stage in values["stages"]:
        assert {"name", "reference", "candidate", "compared", "mismatches", "passed"} <= set(stage)
        assert ("max_lsb" in stage) != ("max_abs_error" in stage)
    assert values["stages"][0]["compared"] == 264 * 40  # ceil(2.613 s / 10 ms) frames in whole steps


def with_golden(path: Path, change: Callable[[Golden], Golden]) -> Bundle:
    bundle = open_bundle(path)
    object.__setattr__(bundle, "golden", change(bundle.golden))  # what a bundle built elsewhere would hold
    return bundle


def nudge(array: np.ndarray, amount: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[len(changed.flat) // 2] += np.asarray(amount, array.dtype)
    return changed


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        # 0.01 of a feature is 0.05 nats before the affine's 0.2.
        (lambda g: replace(g, features=nudge(g.features, 0.01)), "pcm -> features"),
        (lambda g: replace(g, codes=nudge(g.codes, 1)), "features -> codes"),
        (lambda g: replace(g, logits=nudge(g.logits, 1)), "codes -> logits"),
        (lambda g: replace(g, events=g.events[:-1]), "logits -> events"),
        (lambda g: replace(g, events=[{**g.events[0], "label": "high"}, *g.events[1:]]), "logits -> events"),
        (lambda g: replace(g, events=[{**g.events[0], "start_s": 0.5}, *g.events[1:]]), "logits -> events"),
    ],
)
def test_a_planted_defect_fails_its_stage(
    keyword_bundle: Path, change: Callable[[Golden], Golden], failing: str
) -> None:
    report = self_test(with_golden(keyword_bundle, change))
    assert not report.passed
    assert failing in [stage.name for stage in report.stages if not stage.passed]


def test_features_may_differ_in_the_last_bits(keyword_bundle: Path) -> None:
    report = self_test(with_golden(keyword_bundle, lambda g: replace(g, features=g.features + np.float32(1e-5))))
    assert report.stages[0].passed
    assert report.stages[0].error == pytest.approx(5e-5, rel=0.1)


def test_a_front_end_that_strays_everywhere_fails_even_within_the_loose_limit(keyword_bundle: Path) -> None:
    # 4e-5 of a feature is 2e-4 nats: below the limit for one value, above it for all.
    report = self_test(with_golden(keyword_bundle, lambda g: replace(g, features=g.features + np.float32(4e-5))))
    assert not report.stages[0].passed


class OtherProgram:
    """The numpy engine with some codes off, declaring other numerics."""

    engine, numerics, version = "litert", "unspecified", "kernels of another kind"

    def __init__(self, bundle: Bundle, *, n_labels: int, amount: int) -> None:
        self._program, self._n_labels, self._amount = bundle.program("numpy"), n_labels, amount

    @property
    def signature(self) -> NetworkSignature:
        return self._program.signature

    def session(self) -> Any:
        session, n_labels, amount = self._program.session(), self._n_labels, self._amount

        class Session:
            def run(self, codes: Codes) -> Codes:
                logits = session.run(codes).astype(np.int32)
                logits[:, :n_labels] += amount
                return np.clip(logits, -128, 127).astype(np.int8)

            def reset(self) -> None:
                session.reset()

        return Session()


def test_an_engine_with_other_numerics_may_be_a_few_codes_off(keyword_bundle: Path) -> None:
    bundle = open_bundle(keyword_bundle)
    report = self_test(bundle, program=OtherProgram(bundle, n_labels=2, amount=1))
    logits = next(stage for stage in report.stages if stage.name == "codes -> logits")
    assert report.passed
    assert 0 < logits.mismatches <= tolerances.OTHER_NUMERICS_CODES * logits.compared
    assert "decisions" in [stage.name for stage in report.stages]


def test_too_many_or_too_large_deviations_fail_whatever_the_numerics(keyword_bundle: Path) -> None:
    bundle = open_bundle(keyword_bundle)
    for n_labels, amount in ((4, 1), (1, tolerances.OTHER_NUMERICS_LSB + 1)):
        assert not self_test(bundle, program=OtherProgram(bundle, n_labels=n_labels, amount=amount)).passed


def test_tuned_settings_do_not_break_the_self_test(own_bundle: Path) -> None:
    settings = json.loads((own_bundle / "detector.json").read_text())
    (own_bundle / "detector.json").write_text(json.dumps({**settings, "threshold": 0.99}))
    assert self_test(open_bundle(own_bundle)).passed


def test_a_bundle_without_golden_data_says_so(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    manifest["artifacts"] = [entry for entry in manifest["artifacts"] if entry["role"] != "golden"]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="has no golden data to replay; export it again"):
        self_test(open_bundle(own_bundle))


def test_golden_data_of_another_length_are_named(keyword_bundle: Path) -> None:
    bundle = with_golden(keyword_bundle, lambda g: replace(g, features=g.features[:-4]))
    with pytest.raises(
        BundleError, match=r"features: golden data have shape \[260, 40\], this device yields \[264, 40\]"
    ):
        self_test(bundle)
