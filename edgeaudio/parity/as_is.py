"""Proof of a ``.tflite`` model that came as it is: the bundle against a plain interpreter, called by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.stages import Stage, compare_codes, compare_sqnr
from edgeaudio.parity.statistics import percentile_interval, resample_by_speaker
from edgeaudio.parity.task import LabelledClips, check_known, confusion, decide_clips
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import dequantize, quantize

Float32 = npt.NDArray[np.float32]

METHOD = "as_is"
"""Quantization method of such a bundle."""
BOUNDARY_DB = 40.0
"""Float tensors travel as int16 codes: 2^15 of them over a range that words fill by a tenth leave more than 60 dB."""
BY_HAND_STEPS = 500
"""Steps the plain interpreter is called for, each with copies through the public calls."""


def is_as_is(bundle: Bundle) -> bool:
    """Whether the network came as it is, without a float network it was made from."""
    return bundle.manifest.quantization.method == METHOD


class PlainInterpreter:
    """The artifact of a bundle through ``set_tensor``, ``invoke`` and ``get_tensor``, windows cut from whole arrays.

    It shares nothing with the runtime's engine but LiteRT itself.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._network, self._features = bundle.manifest.network, bundle.features
        self._data = bundle.read("model.tflite")

    def run(self, features: Float32) -> Float32:
        """Real outputs ``[k, n_labels]`` of features ``[k * step_frames, n_features]``, from a fresh interpreter."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._data, num_threads=1)
        interpreter.allocate_tensors()
        inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        names = self._network.tensors
        heard, said = inputs[names.get("features", "features")], outputs[names.get("logits", "logits")]
        pairs = [
            (inputs[names.get(f"state_{i}_in", f"state_{i}_in")], outputs[names.get(f"state_{i}_out", "")])
            for i in range(len(self._network.states))
        ]
        for (before, _), state in zip(pairs, self._network.states, strict=True):
            interpreter.set_tensor(before["index"], np.full(before["shape"], state.initial, before["dtype"]))
        answers = []
        for window in self._windows(features):
            interpreter.set_tensor(heard["index"], _to_tensor(window, heard))
            interpreter.invoke()
            for before, after in pairs:
                interpreter.set_tensor(before["index"], interpreter.get_tensor(after["index"]))
            answers.append(_from_tensor(interpreter.get_tensor(said["index"]), said, self._network.n_labels))
        return np.concatenate(answers)

    def _windows(self, features: Float32) -> list[Float32]:
        network = self._network
        width = network.input_frames or network.step_frames
        before = width + network.latency_frames - network.step_frames if network.input_frames else 0
        silence = compute_features(self._features, np.zeros(self._features.win_length, np.int16))[:1]
        frames = np.concatenate((np.repeat(silence, before, axis=0), features))
        return [frames[i : i + width] for i in range(0, len(features), network.step_frames)]


def _to_tensor(real: Float32, detail: Mapping[str, Any]) -> npt.NDArray[Any]:
    if detail["dtype"] is not np.float32:
        scale, zero_point = detail["quantization"]
        limits = np.iinfo(detail["dtype"])
        real = np.clip(np.rint(real / np.float32(scale)) + zero_point, limits.min, limits.max)
    return real.astype(detail["dtype"]).reshape(detail["shape"])


def _from_tensor(values: npt.NDArray[Any], detail: Mapping[str, Any], n_labels: int) -> Float32:
    if detail["dtype"] is not np.float32:
        scale, zero_point = detail["quantization"]
        values = (values.astype(np.float32) - zero_point) * np.float32(scale)
    return values.reshape(-1, n_labels)


def by_hand_stage(bundle: Bundle, program: Program, features: Float32) -> Stage:
    """The bundle's engine against the plain interpreter: codes equal where the model has them, else reals close.

    Args:
        bundle: Of a model that came as it is.
        program: Its engine.
        features: ``[k * step_frames, n_features]``.
    """
    network = bundle.manifest.network
    features = features[: BY_HAND_STEPS * network.step_frames]
    wanted = PlainInterpreter(bundle).run(features)
    codes = program.session().run(quantize(features, network.input_quant))
    if bundle.manifest.quantization.recipe["boundary"]:
        names = ("plain interpreter, float", wanted), (program.engine, dequantize(codes, network.output_quant))
        return compare_sqnr("engine by hand", *names, at_least_db=BOUNDARY_DB)
    reference = quantize(wanted, network.output_quant)
    return compare_codes("engine by hand", ("plain interpreter", reference), (program.engine, codes))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoneResult:
    """Accuracy of a model that has no float counterpart."""

    accuracy: float
    """Share of clips whose top label is the right one."""
    ci95: tuple[float, float]
    """95 % interval, bootstrapped over speakers."""
    n: int
    """Number of clips."""
    n_speakers: int
    """Number of resampled units: speakers, and each clip without one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form: what compares float with int8 is null."""
        empty = dict.fromkeys(("float", "float_ci95", "delta", "ci95", "agreement"))
        own = {"int8": self.accuracy, "int8_ci95": list(self.ci95), "n": self.n, "n_speakers": self.n_speakers}
        return {"metric": "accuracy", **empty, **own}


def score_alone(
    bundle: Bundle,
    program: Program,
    clips: LabelledClips,
    *,
    data: str = "",
    split: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LoneResult, dict[str, Any]]:
    """Score every clip from reset by its last step; the result, and what a certificate says of it beside.

    Raises:
        ParityError: A clip has a label the bundle does not know.
    """
    index = check_known(bundle, clips)
    decisions = decide_clips(bundle, program, clips, progress=progress)
    truth = np.array([index[label] for label in clips.labels], dtype=np.intp)
    right, spoken = decisions == truth, truth != index.get("_silence_", -1)
    details: dict[str, Any] = {"data": data, "split": split, "subsets": {}}
    if spoken.any() and not spoken.all():
        details["subsets"]["without _silence_"] = _lone(right, clips.speakers, spoken).to_dict()
    details["by_label"] = {
        label: {"n": int((truth == i).sum()), "float": None, "int8": float(right[truth == i].mean())}
        for label, i in index.items()
        if (truth == i).any()
    }
    answers = confusion(truth, decisions, len(bundle.labels))
    details["confusion"] = {"labels": list(bundle.labels), "float": None, "int8": answers}
    return _lone(right, clips.speakers, np.ones(len(right), dtype=bool)), details


def _lone(right: npt.NDArray[np.bool_], speakers: Sequence[str], keep: npt.NDArray[np.bool_]) -> LoneResult:
    kept = [speaker for speaker, k in zip(speakers, keep, strict=True) if k]
    samples = resample_by_speaker(right[keep].astype(np.float64)[:, None], kept, seed=0)
    units = len({speaker or i for i, speaker in enumerate(kept)})
    return LoneResult(
        accuracy=float(right[keep].mean()), ci95=percentile_interval(samples[:, 0]), n=len(kept), n_speakers=units
    )
