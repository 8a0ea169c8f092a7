"""One calibration for both paths: its ranges held against ONNX Runtime, its memory, its refusals, its coverage."""

from __future__ import annotations

import json
import pickle
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import onnx
import torch
from torch import Tensor, nn

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.calibration.calibrate import Calibration, calibrate
from edgeaudio_export.calibration.coverage import CoverageReport, coverage
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import to_onnx
from edgeaudio_export.network import frozen_copy
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quantize import quantize_network
from edgeaudio_export.step_graph import StepGraph, export_step

FLOAT_TOLERANCE = 1e-5
"""Of the largest value: torch and ONNX Runtime add float32 products in another order."""


@pytest.fixture(scope="module")
def step(networks: ModuleType, float_network: Callable[[str], Any]) -> StepGraph:
    """The keyword network."""
    return export_step(frozen_copy(float_network("Keyword")))


@pytest.fixture(scope="module")
def calibrated(step: StepGraph, streams: list[np.ndarray]) -> Calibration:
    """Its calibration on the shared streams."""
    return calibrate(step, streams, CalibrationSpec())


def test_extremes_are_those_of_every_edge_when_onnxruntime_runs_the_float_model(
    step: StepGraph, calibrated: Calibration, streams: list[np.ndarray]
) -> None:
    model = to_onnx(step.module, step)
    inner = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Relu", "Add")]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in inner if n not in known)
    seen: dict[str, list[np.ndarray]] = {}
    for stream in streams:
        for values in OnnxRunner(model, step.network).steps(stream):
            for name, value in values.items():
                seen.setdefault(name, []).append(value.ravel())
    compared = 0
    for group in calibrated.groups:
        values = [np.concatenate(seen[name]) for name in group.computed if name in seen]
        if values:
            expected = min(v.min() for v in values), max(v.max() for v in values)
            histogram = calibrated.statistics[group.name].histogram
            found = histogram.minimum, histogram.maximum
            np.testing.assert_allclose(found, expected, atol=FLOAT_TOLERANCE * np.abs(expected).max(), rtol=0)
            assert histogram.counts.sum() == sum(v.size for v in values)
            compared += 1
    assert compared == len(calibrated.groups) == 6


@pytest.mark.parametrize("name", ["Keyword", "Ctc"])
def test_both_paths_give_every_tensor_the_same_parameters(name: str, quantized: Callable[..., Any]) -> None:
    one, other = (
        {output: graph.tensors[output].quant for op in graph.ops for output in op.outputs}
        for graph in (quantized(name, backend).graph for backend in ("pt2e", "onnxruntime"))
    )
    assert len(one) > 15
    assert one == other


@pytest.mark.parametrize("batch", [1, 5])
def test_how_many_streams_run_side_by_side_changes_no_range(
    batch: int, step: StepGraph, calibrated: Calibration, streams: list[np.ndarray]
) -> None:
    other = calibrate(step, streams, CalibrationSpec(batch=batch))
    assert (other.clips, other.frames) == (calibrated.clips, calibrated.frames) == (12, sum(map(len, streams)))
    for method in ("minmax", "moving_average", "percentile"):
        ranges = [c.by(CalibrationSpec(method=method)).ranges() for c in (calibrated, other)]  # type: ignore[arg-type]
        for name, found in ranges[0].items():
            ends = (found.low, found.high)
            np.testing.assert_allclose((ranges[1][name].low, ranges[1][name].high), ends, rtol=1e-3, atol=1e-5)


def test_the_moving_average_follows_the_given_order_one_observation_a_stream(
    step: StepGraph, streams: list[np.ndarray]
) -> None:
    spec = CalibrationSpec(method="moving_average", momentum=0.75)
    low, high = float(streams[0].min()), float(streams[0].max())
    for stream in streams[1:]:
        low, high = 0.75 * low + 0.25 * float(stream.min()), 0.75 * high + 0.25 * float(stream.max())
    found = calibrate(step, streams, spec).range("features")
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-12)


def test_a_fifo_does_not_count_its_values_again(calibrated: Calibration, streams: list[np.ndarray]) -> None:
    features = calibrated.statistics["features"].histogram
    assert features.counts.sum() == sum(stream.size for stream in streams)


def test_a_given_calibration_is_taken_as_it_is(
    calibrated: Calibration, float_network: Callable[[str], Any], streams: list[np.ndarray]
) -> None:
    reused = calibrated.by(CalibrationSpec(method="minmax"))
    calls: list[tuple[int, int]] = []
    result = quantize_network(
        float_network("Keyword"),
        streams[:1],
        backend="onnxruntime",
        calibration=reused,
        name="net",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert result.calibration is reused
    assert calls == []
    low, high = min(float(s.min()) for s in streams), max(float(s.max()) for s in streams)
    assert result.graph.input_tensor.quant.scale == (float(np.float32((high - low) / 255)),)  # type: ignore[union-attr]


class Computed(Sequence[np.ndarray]):
    """Streams made on access; remembers how often, and how many lived at once."""

    def __init__(self, networks: ModuleType, length: int) -> None:
        self._networks, self._length = networks, length
        self.accessed: list[int] = []
        self.alive = self.most_alive = 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if index >= self._length:
            raise IndexError(index)
        stream: np.ndarray = self._networks.speechlike(24, index)
        self.accessed.append(index)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(stream, self._release)
        return stream

    def _release(self) -> None:
        self.alive -= 1


def test_streams_are_computed_once_each_in_order_and_forgotten(step: StepGraph, networks: ModuleType) -> None:
    computed = Computed(networks, 40)
    assert calibrate(step, computed, CalibrationSpec(batch=4)).clips == 40
    assert computed.accessed == list(range(40))
    assert computed.most_alive <= 8  # one batch, and the next while it is gathered


def test_what_calibration_keeps_does_not_grow_with_the_number_of_clips(step: StepGraph, networks: ModuleType) -> None:
    kept = []
    for clips in (16, 96):
        found = calibrate(step, Computed(networks, clips), CalibrationSpec(batch=16))
        kept.append(len(pickle.dumps(dict(found.statistics))))
    # Counts and exponents take a few bytes more or less as they grow.
    assert abs(kept[1] - kept[0]) < 1000 < 4096 * 8 < kept[0]


def test_other_methods_read_the_same_statistics_and_what_was_fixed_while_observing_stays(
    calibrated: Calibration,
) -> None:
    assert calibrated.by(CalibrationSpec(method="minmax")).range("features").high == 3.0
    with pytest.raises(ExportError, match=r"momentum=0.5 must be 0.99, with which the streams were observed"):
        calibrated.by(CalibrationSpec(momentum=0.5))
    with pytest.raises(ExportError, match=r"n_bins=512 must be 4096.*calibrate again"):
        calibrated.by(CalibrationSpec(n_bins=512))
    with pytest.raises(ExportError, match=r"group='stem' has no calibrated range; there are \['features', 'block0'"):
        calibrated.range("stem")


def test_facts_name_the_parameter_of_the_method(calibrated: Calibration) -> None:
    facts = calibrated.by(CalibrationSpec(method="percentile", percentile=99.5)).facts().to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["method"], facts["parameters"]) == ("percentile", {"percentile": 99.5})
    assert calibrated.by(CalibrationSpec(method="moving_average")).facts().parameters == {"momentum": 0.99}


def test_no_stream_and_a_bad_one_in_the_middle_are_refused(step: StepGraph, streams: list[np.ndarray]) -> None:
    with pytest.raises(ExportError, match=r"activation 'features' was never computed.*give at least one stream"):
        calibrate(step, [], CalibrationSpec()).ranges()
    bad = streams[2].copy()
    bad[5, 1] = np.nan
    with pytest.raises(ExportError, match=r"streams\[2\] holds NaN or infinite features; check the recording"):
        calibrate(step, [*streams[:2], bad], CalibrationSpec())


class Doubling(nn.Module):
    """Two features in, one label out: twice the first and nothing of the second."""

    step_frames, n_features, n_labels, outputs_per_step = 1, 2, 1, 1
    state_names = ()

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv1d(2, 1, 1, bias=False)
        self.twice.weight = nn.Parameter(torch.tensor([[[2.0], [0.0]]]))

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return ()

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.twice(features.transpose(1, 2)).transpose(1, 2), ()


def ramp(first: np.ndarray) -> np.ndarray:
    return np.stack([first, np.zeros_like(first)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def probed() -> CoverageReport:
    """Calibrated on -1 to 0.5 and on 1.55, probed far beyond and within."""
    doubling = export_step(frozen_copy(Doubling()))  # type: ignore[arg-type]
    known = np.append(np.linspace(-1.0, 0.5, 600), 1.55)
    calibration = calibrate(doubling, [ramp(known)], CalibrationSpec(method="minmax"))
    conditions = {"loud": [ramp(np.array([-2.0, 0.0, 0.5, 3.0]))], "quiet": [ramp(np.array([0.0, 0.1])), ramp(known)]}
    return coverage(doubling, calibration, conditions)


def test_coverage_counts_what_saturates_and_what_calibration_never_saw(probed: CoverageReport) -> None:
    features, twice = probed.groups
    assert (features.name, twice.name) == ("features", "twice/conv1d")
    np.testing.assert_allclose((features.low, features.high), (-1.0, 1.55), rtol=1e-6)
    np.testing.assert_allclose((twice.low, twice.high), (-2.0, 3.1), rtol=1e-6)
    loud, quiet = twice.conditions
    assert (loud.condition, loud.minimum, loud.maximum) == ("loud", -4.0, 6.0)
    assert (loud.saturated_share, loud.goes_beyond) == (0.5, True)
    assert features.conditions[0].saturated_share == 0.25  # the second feature is 0 throughout
    assert (quiet.saturated_share, quiet.goes_beyond) == (0.0, False)
    assert probed.beyond() == {"loud": 2, "quiet": 0}


def test_coverage_names_the_codes_that_calibration_left_unused(probed: CoverageReport) -> None:
    # Codes are 0.01 apart; of 256, the 104 of 0.51 to 1.54 had no value.
    for group in probed.groups:
        assert abs(group.unused_share - 104 / 256) <= 2 / 256
        assert group.saturated_share == 0.0


def test_coverage_sorts_by_saturation_and_sums_up_in_lines(probed: CoverageReport) -> None:
    assert [(group.name, found.condition) for group, found in probed.worst()] == [
        ("twice/conv1d", "loud"),
        ("features", "loud"),
    ]
    lines = probed.summary()
    assert lines[0] == "coverage: of 2 tensor groups, values that calibration never saw under loud (2)"
    assert lines[1] == "coverage: most saturated is 'twice/conv1d' under loud, 50.00% of its values"
    assert lines[2].endswith("were never used in calibration")
    assert json.loads(json.dumps(probed.to_dict()))["groups"][1]["conditions"][0]["maximum"] == 6.0


def test_coverage_needs_a_stream_in_every_condition(step: StepGraph, calibrated: Calibration) -> None:
    with pytest.raises(ExportError, match=r"conditions=\{'silence': 0\} must hold at least one stream each"):
        coverage(step, calibrated, {"silence": []})
    with pytest.raises(ExportError, match=r"conditions=\{\} must hold"):
        coverage(step, calibrated, {})
