"""Peak memory of calibration by number of clips, every method, with ONNX Runtime's own calibrators beside it.

Run: ``python -m edgeaudio.bench.calibration_memory CHECKPOINT``. Each figure is the peak of a process of its own; clips
are noise of one second, made as they are needed, because memory does not depend on what is said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.bench.cold_start import PEAK_KB
from edgeaudio.calibration_clips import LazyArrays, calibration_streams
from edgeaudio.progress import say
from edgeaudio_export.calibration import METHODS

if TYPE_CHECKING:
    from edgeaudio_export.step_graph import StepGraph

Features = npt.NDArray[np.float32]

CLIP_COUNTS = (50, 2000)
THEIRS = ("MinMax", "Percentile", "Entropy")
"""ONNX Runtime's ``CalibrationMethod``, by name."""

_CHILD = f"""
import json, sys
{PEAK_KB}
from edgeaudio.bench.calibration_memory import calibrate_noise
calibrate_noise(sys.argv[1], sys.argv[2], int(sys.argv[3]))
print(json.dumps(peak_kb() / 1024))
"""


def measure(checkpoint: Path, calibrator: str, n_clips: int) -> float:
    """Peak memory in MB of a fresh process that calibrates ``n_clips`` clips.

    ``calibrator`` is one of ``edgeaudio_export.calibration.METHODS`` or "onnxruntime:" and one of :data:`THEIRS`.
    """
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(checkpoint), calibrator, str(n_clips)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak: float = json.loads(done.stdout.splitlines()[-1])
    return peak


def calibrate_noise(checkpoint: str, calibrator: str, n_clips: int) -> None:
    """What the measured process does."""
    import torch

    from edgeaudio_export.network import frozen_copy
    from edgeaudio_export.step_graph import export_step
    from edgeaudio_models.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    loaded = load_checkpoint(Path(checkpoint))
    rate, step_frames = loaded.features.sample_rate, loaded.module.step_frames
    clips = LazyArrays(n_clips, lambda i: _noise(rate, i))
    streams = calibration_streams(loaded.features, clips, n_clips=n_clips, step_frames=step_frames)
    step = export_step(frozen_copy(loaded.module))
    if calibrator.startswith("onnxruntime:"):
        _calibrate_by_onnxruntime(step, streams, calibrator.partition(":")[2])
    else:
        _calibrate_by_edgeaudio(step, streams, calibrator)


def _noise(sample_rate: int, seed: int) -> Any:
    return np.rint(3000 * np.random.default_rng(seed).standard_normal(sample_rate)).astype(np.int16)


def _calibrate_by_edgeaudio(step: StepGraph, streams: Sequence[Features], method: str) -> None:
    from edgeaudio_export.calibration import CalibrationSpec
    from edgeaudio_export.calibration.calibrate import calibrate

    calibrate(step, streams, CalibrationSpec(method=method)).params()  # type: ignore[arg-type]


def _calibrate_by_onnxruntime(step: StepGraph, streams: Sequence[Features], method: str) -> None:
    """Single steps from silence: its reader cannot feed states back, which does not change what it keeps."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from edgeaudio_export.float_onnx import input_names, to_onnx
    from edgeaudio_export.onnx_runner import split_steps

    states = dict(zip(input_names(len(step.inputs) - 1)[1:], step.network.initial_state(1), strict=True))
    feeds = (
        {"features": part[None], **{name: state.numpy() for name, state in states.items()}}
        for stream in streams
        for part in split_steps(stream, step.network.step_frames)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(to_onnx(step.module, step), path)
        calibrator = create_calibrator(
            path,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.collect_data(_Reader(feeds))
        calibrator.compute_data()


class _Reader:
    """A ``CalibrationDataReader`` without importing ONNX Runtime to define it."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def table(checkpoint: Path, counts: Sequence[int], calibrators: Sequence[str]) -> Iterator[str]:
    """Lines of a Markdown table, a row for each calibrator as soon as it is measured."""
    yield "| calibrator | " + " | ".join(f"{count} clips" for count in counts) + " | growth |"
    yield "|---|" + "---:|" * (len(counts) + 1)
    for calibrator in calibrators:
        peaks = [measure(checkpoint, calibrator, count) for count in counts]
        growth = f"{peaks[-1] / peaks[0] - 1:+.1%}"
        yield f"| {calibrator} | " + " | ".join(f"{peak:.0f} MB" for peak in peaks) + f" | {growth} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m edgeaudio.bench.calibration_memory", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clips", type=int, nargs="+", default=list(CLIP_COUNTS), help="numbers of clips")
    known = [*METHODS, *(f"onnxruntime:{name}" for name in THEIRS)]
    parser.add_argument("--calibrators", nargs="+", choices=known, default=known)
    arguments = parser.parse_args()
    say("each figure is the peak memory of a process of its own")
    for line in table(arguments.checkpoint, arguments.clips, arguments.calibrators):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
