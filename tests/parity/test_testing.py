"""The assertions for others' tests: they pass what is right and name what is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeaudio.testing import assert_bundle, assert_parity, assert_streaming_equals_offline
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.errors import ParityError

pytest_plugins = ["pytester"]

DOCUMENT = Path(__file__).parents[2] / "docs/testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)
CODES = [np.arange(10, dtype=np.int8), np.arange(5, 15, dtype=np.int8)]


def plus(offset: int) -> Any:
    return lambda codes: codes + np.int8(offset)


def test_the_examples_of_the_document_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{f"test_example_{i}": text for i, text in enumerate(EXAMPLES)})
    # A process of its own: libraries of C cannot be imported twice into one.
    options = ("-p", "edgeaudio.testing.plugin", "-p", "no:edgeaudio-parity", "-p", "no:randomly", "-p", "no:xdist")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)


def test_equal_codes_pass_and_say_what_was_compared() -> None:
    (stage,) = assert_parity(plus(1), plus(1), CODES, max_codes=0)
    assert (stage.compared, stage.mismatches) == (20, 0)


def test_codes_that_differ_are_counted_by_distance() -> None:
    def wrong(codes: Any) -> Any:
        return np.where(codes == 7, codes + 3, codes)

    with pytest.raises(AssertionError) as failure:
        assert_parity(plus(0), wrong, CODES, max_codes=1)
    lines = str(failure.value).splitlines()
    assert lines[0] == "output 0: wrong is not <lambda> (rule: at most 1 code)"
    assert lines[1] == "  2 of 20 values outside; worst at 7: 7 is 10"
    assert lines[2] == "  values by distance in codes: 0: 18, 3: 2"


def test_reals_are_held_to_a_tolerance_or_to_a_ratio() -> None:
    cases = [np.full(100, 10.0)]
    assert_parity(np.copy, lambda x: x + 0.09, cases, atol=0.1)
    assert_parity(np.copy, lambda x: x + 0.1, cases, min_sqnr_db=39.9)  # 10 / 0.1 is 40 dB
    with pytest.raises(AssertionError, match=r"signal to error 40\.0 dB, largest error 0\.1"):
        assert_parity(np.copy, lambda x: x + 0.1, cases, min_sqnr_db=40.1)
    with pytest.raises(AssertionError, match="100 of 100 values outside"):
        assert_parity(np.copy, lambda x: x * np.nan, cases, atol=1.0)


def test_onnx_and_tflite_files_are_run() -> None:
    """The two artifacts of a bundle are the same network: codes and states in, logits and states out."""
    folder = entry_folder("kws-12-small") / BUNDLE
    onnx, tflite = folder / "model.onnx", folder / "model.tflite"
    shapes = [tuple(entry.shape) for entry in onnxruntime.InferenceSession(str(onnx)).get_inputs()]
    generator = np.random.default_rng(0)
    case = tuple(generator.integers(-128, 128, size=shape).astype(np.int8) for shape in shapes)
    assert len(assert_parity(onnx, onnx, [case], max_codes=0)) == len(shapes)
    with pytest.raises(ParityError, match=rf"model\.tflite takes {len(shapes)} inputs, 1 were given"):
        assert_parity(tflite, tflite, [case[:1]], max_codes=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of max_codes, atol, min_sqnr_db"),
        ({"atol": 1.0, "max_codes": 1}, "give exactly one of"),
    ],
)
def test_exactly_one_rule_holds(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParityError, match=message):
        assert_parity(np.copy, np.copy, CODES, **arguments)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for model, message in (
        (3, "must be a callable, a torch module, or the path"),
        (tmp_path / "model.pb", r"must end in \.onnx or \.tflite"),
        (tmp_path / "model.onnx", "is no file"),
    ):
        with pytest.raises(ParityError, match=message):
            assert_parity(model, np.copy, CODES, max_codes=0)
    with pytest.raises(ParityError, match="these are float64"):
        assert_parity(np.copy, np.copy, [np.ones(3)], max_codes=0)
    with pytest.raises(ParityError, match=r"cases\[0\]: outputs of shapes \[\[10\]\] and \[\[5\]\]"):
        assert_parity(np.copy, lambda x: x[::2], CODES, max_codes=0)


def running_sum(x: Any, state: Any) -> tuple[Any, Any]:
    sums = np.cumsum(x, axis=1) + state
    return sums, sums[:, -1:]


INPUTS = np.arange(60).reshape(2, 30)


def test_a_stream_that_forgets_is_named_with_its_first_wrong_output() -> None:
    def forgetful(x: Any, state: Any) -> tuple[Any, Any]:
        return np.cumsum(x, axis=1), state

    assert_streaming_equals_offline(running_sum, INPUTS, initial_state=lambda: np.zeros((2, 1)))
    with pytest.raises(AssertionError, match=r"cut into 30 pieces .* output 1 is the first, in piece 1"):
        assert_streaming_equals_offline(forgetful, INPUTS)


def test_a_state_that_leaks_into_the_next_stream_is_seen() -> None:
    kept = {"sum": np.zeros((2, 1))}

    def leaking(x: Any, state: Any) -> tuple[Any, Any]:
        sums = np.cumsum(x, axis=1) + kept["sum"]
        kept["sum"] = sums[:, -1:]
        return sums, state

    with pytest.raises(AssertionError, match="state leaks"):
        assert_streaming_equals_offline(leaking, INPUTS)


def test_a_stream_may_be_late_by_what_is_said_and_no_more() -> None:
    def late(x: Any, past: Any) -> tuple[Any, Any]:
        padded = np.concatenate([past, x], axis=1)
        return padded[:, :-2], padded[:, -2:]

    def check(latency: int) -> None:
        assert_streaming_equals_offline(
            late, INPUTS, initial_state=lambda: np.zeros((2, 2)), offline=np.copy, latency=latency
        )

    check(2)
    with pytest.raises(AssertionError, match="is not the whole"):
        check(1)


def test_a_torch_module_streams_from_its_own_initial_state() -> None:
    torch = pytest.importorskip("torch")

    class Sums(torch.nn.Module):  # type: ignore[misc,name-defined]
        def initial_state(self, batch: int) -> Any:
            return torch.zeros(batch, 1)

        def forward(self, x: Any, state: Any) -> Any:
            sums = torch.cumsum(x, dim=1) + state
            return sums, sums[:, -1:]

    assert_streaming_equals_offline(Sums(), INPUTS.astype(np.float32), multiple_of=3)
    with pytest.raises(ParityError, match="inputs of 30 along axis 1 must be a multiple of 4"):
        assert_streaming_equals_offline(Sums(), INPUTS.astype(np.float32), multiple_of=4)


def test_a_bundle_of_the_zoo_is_proven_and_a_changed_one_is_not(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(entry_folder("kws-12-small") / BUNDLE, tmp_path / "bundle"))
    assert assert_bundle(folder).name == "kws-12-small"
    detector = folder / "detector.json"
    detector.write_text(detector.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(AssertionError, match="its certificate is of other files"):
        assert_bundle(folder)
    assert assert_bundle(folder, certified=False).name == "kws-12-small"
    (folder / "model.bin").write_bytes(b"")
    with pytest.raises(AssertionError, match=r"model\.bin"):
        assert_bundle(folder)
