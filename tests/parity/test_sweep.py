"""The parts of a sweep: variants, grid, and many streams side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeaudio.parity.task import LabelledClips
from edgeaudio.sweep.grid import Cell, make_grid
from edgeaudio.sweep.hearings import digest_of, hear
from edgeaudio.sweep.results import CellResult, SweepResult, best_by_method, with_choice
from edgeaudio.sweep.variants import VARIANTS, Variant, first_variants
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import preset

HOP_MS = 10.0


def test_a_shift_moves_whole_samples_and_uncovers_silence() -> None:
    samples = np.array([1, 2, 3, 4, 5], dtype=np.int16)
    assert Variant(shift_ms=2, gain_db=0).apply(samples, 1000).tolist() == [0, 0, 1, 2, 3]
    assert Variant(shift_ms=-2, gain_db=0).apply(samples, 1000).tolist() == [3, 4, 5, 0, 0]
    assert Variant(shift_ms=9, gain_db=0).apply(samples, 1000).tolist() == [0] * 5


def test_a_gain_rounds_and_clips_as_a_converter_does() -> None:
    samples = np.array([1000, -1000, 20000, -20000, 3], dtype=np.int16)
    loud = Variant(shift_ms=0, gain_db=6).apply(samples, 16000)
    assert loud.tolist() == [1995, -1995, 32767, -32768, 6]  # 10**0.3 = 1.99526
    assert loud.dtype == np.int16
    assert Variant(shift_ms=0, gain_db=-20).apply(samples, 16000).tolist() == [100, -100, 2000, -2000, 0]


def test_the_first_variant_is_the_clip_as_it_is() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 16000).astype(np.int16)
    assert (VARIANTS[0].apply(samples, 16000) == samples).all()


def test_sixteen_distinct_variants_reach_parts_of_a_hop_and_clipping() -> None:
    assert len(set(VARIANTS)) == 16
    shifts = [round(variant.shift_ms * 16) for variant in VARIANTS]
    assert (min(shifts), max(abs(shift) for shift in shifts)) == (-1600, 1600)
    assert sum(shift % 160 != 0 for shift in shifts) >= 8
    assert min(variant.gain_db for variant in VARIANTS) == -20
    assert max(variant.gain_db for variant in VARIANTS) == 10
    # The step of the network is 40 ms: shifts fall on every quarter of it.
    assert {int(variant.shift_ms // HOP_MS) % 4 for variant in VARIANTS} == {0, 1, 2, 3}


@pytest.mark.parametrize("count", [0, 17])
def test_a_number_of_variants_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(SpecError, match=rf"variants={count} must be 1\.\.16, as many as are fixed"):
        first_variants(count)


def test_a_hearing_is_what_the_front_end_makes_of_the_variant() -> None:
    spec = preset("log_mel")
    waveforms = np.random.default_rng(0).integers(-9000, 9000, (2, 4000)).astype(np.int16)
    clips = LabelledClips(waveforms=waveforms, labels=("a", "b"), speakers=("", ""))
    features = hear(clips, VARIANTS[:3], spec=spec, step_frames=4)
    assert features.shape == (2, 3, 28, spec.n_features)
    shifted = np.concatenate([waveforms[1, 59:], np.zeros(59, np.int16)])  # 3.6875 ms earlier
    louder = np.clip(np.rint(shifted * 10**0.2), -32768, 32767).astype(np.int16)
    assert (features[1, 2] == compute_features(spec, louder, multiple_of=4)).all()


def test_other_clips_labels_or_variants_have_another_digest() -> None:
    waveforms = np.arange(20, dtype=np.int16).reshape(2, 10)
    clips = LabelledClips(waveforms=waveforms, labels=("a", "b"), speakers=("", ""))
    others = [
        digest_of(LabelledClips(waveforms=waveforms + 1, labels=("a", "b"), speakers=("", "")), VARIANTS),
        digest_of(LabelledClips(waveforms=waveforms, labels=("b", "a"), speakers=("", "")), VARIANTS),
        digest_of(LabelledClips(waveforms=waveforms, labels=("a", "b"), speakers=("x", "")), VARIANTS),
        digest_of(clips, VARIANTS[:4]),
        digest_of(clips, VARIANTS),
    ]
    assert len(set(others)) == 5
    assert digest_of(clips, VARIANTS) == others[-1]


def test_the_grid_is_the_product_of_the_names() -> None:
    cells = make_grid(
        methods=["static_w8a8"],
        calibrations=["mse", "minmax"],
        backends=["pt2e", "onnxruntime"],
        recoveries=["none", "equalize+bias_correction"],
    )
    assert [cell.name for cell in cells] == [
        "static_w8a8-mse-pt2e",
        "static_w8a8-mse-pt2e-equalize-bias_correction",
        "static_w8a8-mse-onnxruntime",
        "static_w8a8-mse-onnxruntime-equalize-bias_correction",
        "static_w8a8-minmax-pt2e",
        "static_w8a8-minmax-pt2e-equalize-bias_correction",
        "static_w8a8-minmax-onnxruntime",
        "static_w8a8-minmax-onnxruntime-equalize-bias_correction",
    ]


def test_a_method_with_float_activations_is_one_cell_a_path() -> None:
    cells = make_grid(methods=["float32"], calibrations=["mse", "minmax"], recoveries=["none", "bias_correction"])
    assert [cell.name for cell in cells] == ["float32-mse-pt2e", "float32-mse-onnxruntime"]


def test_without_names_the_grid_has_all_that_is_known() -> None:
    cells = make_grid()
    assert {"static_w8a8", "static_w8a16", "weight_only_w8", "float16", "float32"} <= {cell.method for cell in cells}
    assert {"minmax", "mse", "percentile", "entropy", "moving_average"} <= {cell.calibration for cell in cells}
    assert {cell.backend for cell in cells} == {"pt2e", "onnxruntime"}
    assert {cell.recovery for cell in cells} == {()}


@pytest.mark.parametrize(
    ("axis", "names", "message"),
    [
        ("methods", ["w4"], r"methods=\['w4'\] must be among \['static_w8a8', "),
        ("calibrations", ["median"], r"calibrations=\['median'\] must be among \["),
        ("backends", ["tensorrt"], r"backends=\['tensorrt'\] must be among \['pt2e', 'onnxruntime'\]"),
        ("recoveries", ["hope"], r"recoveries=\['hope'\] must be 'none' or among \[.*\], joined by '\+'"),
        ("methods", ["float32", "float32"], r"methods=\['float32', 'float32'\] hold one twice; give each once"),
        ("recoveries", ["none", "none"], r"recoveries=\['none', 'none'\] hold one twice; give each once"),
    ],
)
def test_an_unknown_or_doubled_name_is_refused(axis: str, names: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_grid(**{axis: names})  # type: ignore[arg-type]


def row(name: str, agreement: float, accuracy: float, method: str = "m") -> CellResult:
    """A finished cell of which only these figures matter."""
    from edgeaudio.parity.statistics import TaskResult

    interval = (0.0, 1.0)
    task = TaskResult(
        metric="accuracy", reference=0.9, candidate=accuracy, delta=accuracy - 0.9, ci95=interval,
        candidate_ci95=interval, reference_ci95=interval, agreement=agreement, agreement_ci95=interval,
        only_reference=0, only_candidate=0, mcnemar_p=1.0, n=1, n_hearings=1, n_speakers=1,
    )  # fmt: skip
    return CellResult(cell=Cell(method=method, calibration=name, backend="b"), task=task)


def table(split: str, *rows: CellResult, digest: str = "d") -> SweepResult:
    """A table of these rows."""
    return SweepResult(
        checkpoint="c", digest=digest, data="x", split=split, variants=VARIANTS, cells=rows, environment={}
    )


def test_the_most_faithful_cell_of_each_method_is_chosen_then_the_more_accurate_then_the_first() -> None:
    refused = CellResult(cell=Cell(method="m", calibration="z", backend="b"), refused="no")
    rows = (
        refused, row("a", 0.99, 0.95), row("b", 0.995, 0.80), row("c", 0.995, 0.90), row("d", 0.995, 0.90),
        row("e", 0.5, 0.5, method="other"),
    )  # fmt: skip
    assert best_by_method(rows) == {"m": "m-c-b", "other": "other-e-b"}


def test_nothing_is_chosen_on_a_test_split(tmp_path: Path) -> None:
    assert with_choice(table("test", row("a", 1, 1)), tmp_path / "sweep.json").chosen == {}


def test_a_test_split_reports_the_choice_made_on_validation(tmp_path: Path) -> None:
    import json

    validation = with_choice(table("validation", row("a", 0.9, 1), row("b", 0.8, 1)), tmp_path / "none")
    (tmp_path / "sweep.json").write_text(json.dumps(validation.to_dict()), "utf-8")
    reported = with_choice(table("test", row("a", 0.8, 1), row("b", 0.9, 1)), tmp_path / "sweep.json")
    assert (reported.chosen, reported.chosen_on) == ({"m": "m-a-b"}, "validation")
    other = with_choice(table("test", row("a", 1, 1), digest="another checkpoint"), tmp_path / "sweep.json")
    assert (other.chosen, other.chosen_on) == ({}, "")
