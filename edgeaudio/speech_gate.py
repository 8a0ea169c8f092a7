"""How well a voice activity network tells speech from other sound: accuracy and ROC by noise, float against int8.

python -m edgeaudio.speech_gate BUNDLE --checkpoint DIR --data WINDOWS --noise rain='noise/rain/5-*'
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edgeaudio.commands.options import PathType, cache_option, json_option
from edgeaudio.parity.task import LabelledClips
from edgeaudio.progress import progress_bar
from edgeaudio.zoo.noise import Noise, in_noise, open_noise, without_label
from edgeaudio_models.corpora.windows import SPEECH
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import dequantize, quantize

SNRS_DB = (20.0, 10.0, 5.0, 0.0)
"""Ratios of speech to noise, over a window."""
SILENCE = "_silence_"

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
FloatNetwork = Callable[[Float32], Float32]
"""Logits ``[T_out, n_labels]`` of features ``[T, n_features]`` from reset."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The float network and its int8 form."""

    labels: tuple[str, ...]
    """``_silence_`` and ``speech``, in the order of the logits."""
    features: FeatureSpec
    """What both hear."""
    network: FloatNetwork
    """In float."""
    program: Program
    """In int8."""

    def __post_init__(self) -> None:
        if set(self.labels) != {SILENCE, SPEECH}:
            raise ParityError(f"labels={list(self.labels)} must be {SILENCE!r} and {SPEECH!r}; this is no speech gate")

    def scores(self, clips: LabelledClips) -> Float64:
        """How much more speech than silence the last step of each clip hears, ``[n, 2]``: in float and in int8."""
        signature, scores = self.program.signature, np.empty((len(clips.labels), 2))
        speech, silence = self.labels.index(SPEECH), self.labels.index(SILENCE)
        for i, samples in enumerate(clips.waveforms):
            features = compute_features(self.features, samples, multiple_of=signature.step_frames)
            codes = self.program.session().run(quantize(features, signature.input_quant))[-1]
            for side, logits in enumerate((self.network(features)[-1], dequantize(codes, signature.output_quant))):
                scores[i, side] = float(logits[speech]) - float(logits[silence])
        return scores


def gate_figures(gate: Gate, clips: LabelledClips, noise: Noise) -> dict[str, Any]:
    """Accuracy, misses, false alarms and area under the ROC, by ratio of speech to noise; JSON-ready.

    Args:
        gate: What is measured.
        clips: Windows of both labels that training has not heard.
        noise: That training has not heard; it is put under the windows of speech.

    Returns:
        ``n_speech``, ``n_silence``, ``noise`` and ``rows``, one for windows as they are (``snr_db`` null) and one for
        each of :data:`SNRS_DB`: ``float`` and ``int8``, each with ``auc``, ``accuracy`` (mean over both labels),
        ``missed`` and ``false_alarms``; and ``agreement``, the share of windows on which both decide alike.
    """
    silent = gate.scores(without_label(clips, SPEECH))
    spoken = without_label(clips, SILENCE)
    rows = []
    with progress_bar("listening in noise") as progress:
        for i, snr_db in enumerate((None, *SNRS_DB)):
            heard = gate.scores(spoken if snr_db is None else in_noise(spoken, noise, snr_db))
            rows.append({"snr_db": snr_db, **_row(heard, silent)})
            progress(i + 1, len(SNRS_DB) + 1)
    return {"n_speech": len(spoken.labels), "n_silence": len(silent), "noise": noise.name, "rows": rows}


def _row(speech: Float64, silence: Float64) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for side, name in enumerate(("float", "int8")):
        missed, alarms = float((speech[:, side] <= 0).mean()), float((silence[:, side] > 0).mean())
        auc = area_under_roc(speech[:, side], silence[:, side])
        row[name] = {"auc": auc, "accuracy": 1 - (missed + alarms) / 2, "missed": missed, "false_alarms": alarms}
    both = np.concatenate((speech, silence)) > 0
    return {**row, "agreement": float((both[:, 0] == both[:, 1]).mean())}


def area_under_roc(positive: Float64, negative: Float64) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney's U over n m)."""
    ordered = np.sort(negative)
    below, up_to = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + up_to).mean() / 2 / len(negative))


def render(figures: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"{figures['n_speech']} windows of speech, {figures['n_silence']} without; noise: {figures['noise']}",
        "   SNR  AUC float    int8  accuracy    int8   missed  alarms  same",
    ]
    for row in figures["rows"]:
        real, codes = row["float"], row["int8"]
        snr = "clean" if row["snr_db"] is None else f"{row['snr_db']:g} dB"
        lines.append(
            f"{snr:>6s}  {real['auc']:9.4f} {codes['auc']:7.4f}  {real['accuracy']:8.1%} {codes['accuracy']:7.1%}  "
            f"{codes['missed']:7.1%} {codes['false_alarms']:7.1%}  {row['agreement']:.2%}"
        )
    return "\n".join(lines)


@click.command()
@click.argument("bundle", type=PathType)
@click.option("--checkpoint", type=PathType, required=True, help="What the bundle was made from.")
@click.option("--data", "folder", type=PathType, required=True, help="Windows that `edgeaudio data windows` cut.")
@click.option("--noise", required=True, help="NAME=PATTERN of recordings of noise that training has not heard.")
@cache_option
@json_option
def main(bundle: Path, checkpoint: Path, folder: Path, noise: str, cache: Path | None, as_json: bool) -> None:
    """Measure BUNDLE, a speech gate, on the test windows."""
    from edgeaudio.exporting import torch_side
    from edgeaudio.parity.corpus import clips_of_labels
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    spec, window = opened.features, opened.manifest.network.window_frames
    n_samples = (window or 0) * spec.hop_length
    clips, _ = clips_of_labels(
        opened.labels, folder, sample_rate=spec.sample_rate, n_samples=n_samples, split="test", cache=cache
    )
    gate = Gate(
        labels=opened.labels,
        features=spec,
        network=torch_side(load_checkpoint(checkpoint)).offline,
        program=opened.program("numpy"),
    )
    figures = gate_figures(gate, clips, open_noise(noise, sample_rate=spec.sample_rate, n_samples=n_samples))
    click.echo(json.dumps(figures) if as_json else render(figures))


if __name__ == "__main__":
    main()
