"""What recovery is worth: a checkpoint made badly conditioned, quantized by min-max, with and without recovery steps.

Run: ``python -m edgeaudio.bench.recovery CHECKPOINT --data DIR``. One channel of every group of activations is made 50
times as large, where it is read divided by 50: the float network stays the same to the bit. Accuracy is that of the
integer graph in the numpy engine, on the clips of one split, each from reset.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.calibration_clips import calibration_streams
from edgeaudio.parity.corpus import clips_of_labels
from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.progress import say
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import quantize

if TYPE_CHECKING:
    from edgeaudio_export.step_graph import StepGraph
    from edgeaudio_models.checkpoint import Checkpoint

FACTOR = 50.0
STEPS = ((), ("equalize",), ("equalize", "bias_correction"), ("equalize", "bias_correction", "ranges"))
"""Recovery steps of each row of the badly conditioned network."""

Features = npt.NDArray[np.float32]


def rows(
    checkpoint: Checkpoint, training: npt.NDArray[np.int16], clips: Any, *, n_calibration: int
) -> Iterator[tuple[str, float]]:
    """What was quantized, and the share of ``clips`` that is right; float first."""
    import torch

    from edgeaudio_export.network import frozen_copy
    from edgeaudio_export.recovery.bad_conditioning import worsen
    from edgeaudio_export.step_graph import export_step

    step_frames = checkpoint.module.step_frames
    streams = list(calibration_streams(checkpoint.features, training, n_clips=n_calibration, step_frames=step_frames))
    features = np.stack(
        [compute_features(checkpoint.features, clip, multiple_of=step_frames) for clip in clips.waveforms]
    )
    truth = np.array([checkpoint.labels.index(label) for label in clips.labels])
    with torch.no_grad():
        logits, _ = checkpoint.module(torch.from_numpy(features), checkpoint.module.initial_state(len(features)))
    yield "float", float((logits[:, -1].argmax(dim=1).numpy() == truth).mean())
    good = export_step(frozen_copy(checkpoint.module))
    yield "int8", _accuracy(good, streams, (), features, truth)
    bad, _ = worsen(good, streams, factor=FACTOR)
    for steps in STEPS:
        yield (
            f"badly conditioned, int8, {' + '.join(steps) or 'nothing'}",
            _accuracy(bad, streams, steps, features, truth),
        )


def _accuracy(
    step: StepGraph,
    streams: Sequence[Features],
    recovery: tuple[str, ...],
    features: Features,
    truth: npt.NDArray[np.int_],
) -> float:
    from edgeaudio_export.calibration import CalibrationSpec
    from edgeaudio_export.quantization_recipe import QuantizationRecipe
    from edgeaudio_export.quantize import quantize_step
    from edgeaudio_runtime.engines.numpy_engine import NumpyProgram

    recipe = QuantizationRecipe(calibration=CalibrationSpec(method="minmax"), recovery=recovery)
    with one_torch_thread():
        graph = quantize_step(step, streams, recipe=recipe, name="recovery").graph
    program = NumpyProgram(graph)
    codes = quantize(features, program.signature.input_quant)
    session, right = program.session(), 0
    for clip, label in zip(codes, truth, strict=True):
        session.reset()
        right += int(session.run(clip)[-1].argmax() == label)
    return right / len(truth)


def main() -> None:
    """Command line."""
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import CLIP_SECONDS, load_training_data

    parser = argparse.ArgumentParser(prog="python -m edgeaudio.bench.recovery", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="corpus of the checkpoint")
    parser.add_argument("--split", default="validation", help="split to judge on")
    parser.add_argument("--clips", type=int, default=128, help="calibration clips")
    arguments = parser.parse_args()
    checkpoint, cache = load_checkpoint(arguments.checkpoint), default_cache_folder()
    rate = checkpoint.features.sample_rate
    data = load_training_data(checkpoint.recipe, data_folder=arguments.data, cache_folder=cache)
    clips, _ = clips_of_labels(
        checkpoint.labels,
        arguments.data,
        sample_rate=rate,
        n_samples=CLIP_SECONDS * rate,
        split=arguments.split,
        cache=cache,
    )
    say(f"{len(clips.labels)} clips of split {arguments.split}, ranges by minmax over {arguments.clips} training clips")
    for name, accuracy in rows(checkpoint, data.train.waveforms, clips, n_calibration=arguments.clips):
        sys.stdout.write(f"{name:80s}{accuracy:8.2%}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
