"""A ``.tflite`` model of elsewhere as it is: what its tensors mean, and how LiteRT runs it in a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio_export.deployment import Entry, Say
from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.reader import state_key
from edgeaudio_export.foreign.tflite_file import TfliteFile, read_tflite_file
from edgeaudio_runtime.engines.base import NetworkSignature, Program
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.manifest import NetworkState
from edgeaudio_runtime.quantization import QuantParams

Detail = Mapping[str, Any]
"""A tensor as LiteRT's interpreter describes it."""

_BOUNDARY_TYPES = ("int8", "uint8", "int16", "float32")
_REAL = QuantParams(scale=(1.0,), dtype="int16")
"""Stands for the codes of a float tensor until its range is known."""


@dataclass(frozen=True, kw_only=True)
class TfliteModel:
    """A ``.tflite`` file with the meaning of its tensors; a :class:`~edgeaudio_export.deployment.Deployment`."""

    model: bytes
    """The file."""
    signature: NetworkSignature
    """One call of the interpreter; uint8 tensors count as int8 codes, float32 ones as int16 codes."""
    states: tuple[NetworkState, ...]
    """Tensors that are carried from call to call."""
    tensors: Mapping[str, str]
    """"features", "logits", "state_<i>_in" and "state_<i>_out", and what the file calls them."""
    hidden_state: bool
    """Whether it has variables of its own."""
    has_probabilities: bool
    """Whether softmax or sigmoid give its output."""
    float_tensors: tuple[str, ...]
    """Those of "features" and "logits" that are float32, whose quantization is still to be found."""
    operations: Mapping[str, int]
    """Built-in operations and how often each occurs."""
    parameters: int
    """Constant values that are no shapes: weights and biases."""

    @property
    def streams(self) -> bool:
        """Whether it remembers what it heard, so that every frame is looked at once."""
        return bool(self.states) or self.hidden_state

    @property
    def requantization(self) -> str:
        """A rule that manifests must name; LiteRT's kernels for other models' operations promise none."""
        return "fp32"

    @property
    def exact_engines(self) -> tuple[str, ...]:
        """None, for the same reason."""
        return ()

    def program(self) -> Program:
        """LiteRT as a device runs it."""
        initial = tuple(state.initial for state in self.states)
        return LiteRtProgram(
            self.model, self.signature, initial, exact=False, tensors=self.tensors, hidden_state=self.hidden_state
        )

    def write(self, directory: Path, say: Say) -> list[Entry]:
        """Write ``model.tflite``, byte for byte what was read."""
        (directory / "model.tflite").write_bytes(self.model)
        return [("model.tflite", "litert", "model")]


def read_tflite(path: Path, *, features: FeatureSpec, labels: Sequence[str]) -> TfliteModel:
    """Read a float or integer ``.tflite`` model; nothing about it is changed.

    Args:
        path: The file.
        features: Front end it was trained with.
        labels: In the order of its output.

    Raises:
        ExportError: Not such a model, not of this front end, or not with these labels; one line says what does not fit.
        EngineError: LiteRT is not installed.

    Of several inputs the one whose size is whole frames and that has no output to pair with is the features; the others
    are states, paired with outputs by name where all names agree, else by shape and type.
    """
    try:
        file = read_tflite_file(path.read_bytes())
        return _meaning(file, features, len(labels))
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def _meaning(file: TfliteFile, features: FeatureSpec, n_labels: int) -> TfliteModel:
    for detail in (*file.inputs, *file.outputs):
        _check_tensor(detail)
    pairs = _pairs(file.inputs, file.outputs)
    befores, afters = ([_name(detail) for detail in side] for side in zip(*pairs, strict=True)) if pairs else ([], [])
    heard = next(detail for detail in file.inputs if _name(detail) not in befores)
    said = next(detail for detail in file.outputs if _name(detail) not in afters)
    signature = NetworkSignature(
        step_frames=_frames(heard, features.n_features), n_features=features.n_features,
        outputs_per_step=_outputs(said, n_labels), n_labels=n_labels,
        input_quant=_quant(heard), output_quant=_quant(said),
    )  # fmt: skip
    names = {"features": _name(heard), "logits": _name(said)}
    for i, (before, after) in enumerate(zip(befores, afters, strict=True)):
        names |= {f"state_{i}_in": before, f"state_{i}_out": after}
    return TfliteModel(
        model=file.data,
        signature=signature,
        states=tuple(_state(before) for before, _ in pairs),
        tensors={role: name for role, name in names.items() if role != name},
        hidden_state=file.has_variables,
        has_probabilities=file.makes_probabilities(int(said["index"])),
        float_tensors=tuple(
            role for role, detail in (("features", heard), ("logits", said)) if detail["dtype"] is np.float32
        ),
        operations=file.operations,
        parameters=file.parameters,
    )


def _check_tensor(detail: Detail) -> None:
    kind = np.dtype(detail["dtype"]).name
    if kind not in _BOUNDARY_TYPES:
        raise ExportError(
            f"tensor {_name(detail)!r} is {kind}, must be one of {list(_BOUNDARY_TYPES)}; convert with such inputs "
            "and outputs"
        )
    open_axes = [size for size in list(detail["shape_signature"])[1:] if size < 0]
    if open_axes:
        raise ExportError(
            f"tensor {_name(detail)!r} has shape {[int(size) for size in detail['shape_signature']]}, all but the "
            "batch must be fixed; convert with a fixed number of frames"
        )
    if int(detail["shape"][0] if len(detail["shape"]) else 1) != 1:
        raise ExportError(f"tensor {_name(detail)!r} has shape {_shape(detail)}; convert with a batch of 1")


def _pairs(inputs: Sequence[Detail], outputs: Sequence[Detail]) -> list[tuple[Detail, Detail]]:
    """State inputs with their outputs: by name where names say it, else by shape and type, in order."""
    if len(inputs) != len(outputs) or len({_name(d) for d in inputs}) + len({_name(d) for d in outputs}) != 2 * len(
        inputs
    ):
        names = [[_name(detail) for detail in side] for side in (inputs, outputs)]
        raise ExportError(
            f"inputs {names[0]} and outputs {names[1]} cannot be paired; it must have features, logits, and an input "
            "and an output for each state, all of different names"
        )
    if len(inputs) == 1:
        return []
    by_key = {state_key(_name(detail)): detail for detail in outputs}
    named = [(detail, by_key[state_key(_name(detail))]) for detail in inputs if state_key(_name(detail)) in by_key]
    if len(named) == len(inputs) - 1 and all(_alike(*pair) for pair in named):
        return named
    return _pairs_by_shape(inputs, outputs)


def _pairs_by_shape(inputs: Sequence[Detail], outputs: Sequence[Detail]) -> list[tuple[Detail, Detail]]:
    """Those of one shape and type in order; what is left over must be the features and the logits alone."""
    pairs, alone = [], []
    for detail in inputs:
        peers = [other for other in inputs if _alike(detail, other)]
        partners = [other for other in outputs if _alike(detail, other)]
        if not partners:
            alone.append(detail)
        elif len(peers) == len(partners):
            pairs.append((detail, partners[peers.index(detail)]))
    if len(alone) != 1 or len(pairs) != len(inputs) - 1:
        shapes = {_name(detail): _shape(detail) for detail in inputs}
        raise ExportError(
            f"inputs {shapes}: their states cannot be told by shape; name them state_<i>_in and state_<i>_out"
        )
    return pairs


def _alike(before: Detail, after: Detail) -> bool:
    return _shape(before) == _shape(after) and before["dtype"] is after["dtype"]


def _frames(detail: Detail, n_features: int) -> int:
    """Frames of ``n_features`` values that the input takes, one after the other."""
    sizes = [size for size in _shape(detail) if size != 1]
    total = int(np.prod(_shape(detail)))
    layouts = ([total], [total // n_features, n_features], [n_features])
    if total % n_features or (sizes and sizes not in layouts):
        raise ExportError(
            f"input {_name(detail)!r} has shape {_shape(detail)}, the front end yields frames of {n_features} values; "
            f"it must be [1, T, {n_features}], [1, T, {n_features}, 1] or [1, T * {n_features}]: give the front end "
            "the model was trained with by --front-end"
        )
    return total // n_features


def _outputs(detail: Detail, n_labels: int) -> int:
    """Outputs of ``n_labels`` values in a call."""
    shape = _shape(detail)
    if not shape or shape[-1] != n_labels:
        raise ExportError(
            f"output {_name(detail)!r} has shape {shape}, {n_labels} labels are given; give one label for each of its "
            f"{shape[-1] if shape else 1} values"
        )
    return int(np.prod(shape)) // n_labels


def _quant(detail: Detail) -> QuantParams:
    kind = np.dtype(detail["dtype"]).name
    if kind == "float32":
        return _REAL
    scales = detail["quantization_parameters"]["scales"]
    if len(scales) != 1:
        raise ExportError(
            f"tensor {_name(detail)!r} is {kind} with {len(scales)} scales, must have one; convert it with quantized "
            "inputs and outputs"
        )
    zero_point = int(detail["quantization_parameters"]["zero_points"][0])
    if kind == "uint8":
        kind, zero_point = "int8", zero_point - 128
    return QuantParams(scale=(float(scales[0]),), zero_point=zero_point, dtype=kind)


def _state(detail: Detail) -> NetworkState:
    """A state begins at real zero, which is its zero point."""
    kind = np.dtype(detail["dtype"]).name
    if kind == "uint8":
        raise ExportError(f"state {_name(detail)!r} is uint8, must be int8, int16 or float32; convert it again")
    zeros = detail["quantization_parameters"]["zero_points"]
    initial = int(zeros[0]) if kind != "float32" and len(zeros) else 0
    return NetworkState(name=_name(detail), shape=_shape(detail), dtype=kind, initial=initial)


def _name(detail: Detail) -> str:
    return str(detail["name"])


def _shape(detail: Detail) -> tuple[int, ...]:
    return tuple(int(size) for size in detail["shape"])
