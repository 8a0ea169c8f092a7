"""``edgeaudio export MODEL.tflite``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.progress import progress_bar
from edgeaudio_runtime.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeaudio.tflite_exporting import TfliteSource


def run_tflite_export(
    model: Path,
    output: Path,
    folder: Path | None,
    *,
    front_end: str | None,
    labels: Path | None,
    task: str | None,
    hop_frames: int | None = None,
    licence: str | None = None,
    cache: Path | None = None,
    force: bool = False,
    **choices: Any,
) -> dict[str, Any]:
    """Write the bundle of a ``.tflite`` model as it is; ``choices`` are options that would quantize it.

    Raises:
        SpecError: An option is missing, or does not go with a model that is taken as it is.
    """
    from edgeaudio.onnx_exporting import read_front_end, read_labels
    from edgeaudio.tflite_exporting import TfliteSource, export_tflite

    given = [f"--{name.replace('_', '-')}" for name, value in choices.items() if value is not None]
    if given:
        raise SpecError(f"{model}: {given} do not go with a .tflite model, which is taken as it is; leave them out")
    if front_end is None or labels is None:
        raise SpecError(f"{model}: a .tflite model needs --front-end and --labels")
    source = TfliteSource(
        path=model, features=read_front_end(front_end), labels=read_labels(labels), task=task or "keyword",
        hop_frames=hop_frames, licence=licence,
    )  # fmt: skip
    document: dict[str, Any] = export_tflite(source, output, clips=_clips(source, folder, cache), force=force)
    return document


def _clips(source: TfliteSource, folder: Path | None, cache: Path | None) -> list[npt.NDArray[np.int16]]:
    """Recordings for the ladder; without ``--data`` there are none, and it is climbed on the golden recording alone."""
    from edgeaudio.exporting import LADDER_CLIPS
    from edgeaudio.onnx_exporting import load_calibration_clips
    from edgeaudio_models.corpora import default_cache_folder

    if folder is None:
        return []
    with progress_bar("loading clips"):
        data = load_calibration_clips(
            folder, source.features, LADDER_CLIPS, cache or default_cache_folder(), held_out=0
        )
    return list(data.clips)
