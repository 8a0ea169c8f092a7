"""Reading an ONNX file from elsewhere: what does not fit is refused in one line, the rest is made regular."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import OPSET_INT16, input_names, output_names
from edgeaudio_export.foreign.codes_removed import with_real_boundary
from edgeaudio_export.foreign.step_model import (
    StepModel,
    constants_of,
    fix_shapes,
    fold_constants,
    rename,
    step_model_of,
)

OLDEST_OPSET = 13
"""The first one whose DequantizeLinear knows channels, and whose Squeeze takes its axes as an input."""
_FLOAT = onnx.TensorProto.FLOAT
_CONTROL_FLOW = ("If", "Loop", "Scan")
_MARKS = re.compile(r"(^|_)(in|out|input|output|new|next|old|prev|updated)(?=_|$)")

Shape = tuple[int, ...]


def read_step_model(path: Path, *, n_features: int, n_labels: int, step_frames: int | None = None) -> StepModel:
    """Read a float step model and give it the names and fixed shapes of a :class:`StepModel`.

    Args:
        path: ONNX file: an input ``[1 or N, T, n_features]`` named "features" or standing first, logits
            ``[1, T_out, n_labels]`` or ``[1, n_labels]`` named "logits" or standing first, and a pair of input and
            output for each state, found by name (``state_1_in`` and ``state_1_out``, ``h`` and ``new_h``) or else by
            order and shape.
        n_features: Values in a frame of the front end.
        n_labels: Number of labels.
        step_frames: T where the file leaves it open.

    Raises:
        ExportError: One line that begins with the file and says what does not fit and what to do.
    """
    try:
        return regular_step_model(_load(path), n_features=n_features, n_labels=n_labels, step_frames=step_frames)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def regular_step_model(
    model: onnx.ModelProto, *, n_features: int, n_labels: int, step_frames: int | None = None
) -> StepModel:
    """As :func:`read_step_model`, from a model that is loaded already and is changed.

    Raises:
        ExportError: One line that says what does not fit and what to do.
    """
    model = prepared(model)
    codes = with_real_boundary(model)
    inputs, outputs = _boundary(model)
    features = _chosen(inputs, "features")
    shape = _features_shape(features, n_features, step_frames)
    pairs = _pairs([i for i in inputs if i is not features], [o for o in outputs if o is not _logits(outputs)])
    own = codes.get(features.name)
    step = _regular(model, features.name, shape, _logits(outputs).name, pairs, n_labels)
    return step if own is None else replace(step, features=own)


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ExportError("not an ONNX model; export one with torch.onnx.export") from error
    if not model.graph.node or not model.opset_import:
        raise ExportError("not an ONNX model; export one with torch.onnx.export")
    _check_external(model, path.parent)
    _check_opset(model)
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node named, weights known to be finite, of an opset that has all we write, constants folded."""
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    kinds = sorted({node.op_type for node in model.graph.node if node.op_type in _CONTROL_FLOW})
    if kinds:
        raise ExportError(f"operations {kinds} hold graphs of their own; export one step without control flow")
    for name, constant in constants_of(model.graph).items():
        if constant.data_type == _FLOAT and not np.isfinite(numpy_helper.to_array(constant)).all():
            raise ExportError(f"weight {name!r} holds NaN or infinite values; train again or take another file")
    model = _converted(model)
    fold_constants(model)
    return model


def _check_external(model: onnx.ModelProto, folder: Path) -> None:
    external = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    places = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    missing = sorted(name for name in places if not (folder / name).is_file())
    if missing:
        raise ExportError(f"its weights lie in {missing}, which is not there; copy it beside the model")


def _check_opset(model: onnx.ModelProto) -> None:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < OLDEST_OPSET:
        raise ExportError(f"opset={version} must be >= {OLDEST_OPSET}; export again with opset_version={OPSET_INT16}")


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if version >= OPSET_INT16:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET_INT16)
    except Exception as error:  # the converter raises plain RuntimeErrors of C++
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(
            f"opset={version} cannot be brought to {OPSET_INT16} ({reason}); export again with "
            f"opset_version={OPSET_INT16}"
        ) from error


def _boundary(model: onnx.ModelProto) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    known = {entry.name for entry in model.graph.initializer}
    inputs, outputs = [i for i in model.graph.input if i.name not in known], list(model.graph.output)
    if not inputs or not outputs:
        raise ExportError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, must have one of each at least")
    for value in (*inputs, *outputs):
        if value.type.tensor_type.elem_type != _FLOAT:
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
            raise ExportError(
                f"{value.name!r} is {kind}, must be float, or int8 or uint8 with a scale; export it again"
            )
    return inputs, outputs


def _chosen(values: Sequence[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    return next((value for value in values if value.name == name), values[0])


def _logits(outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    return _chosen(outputs, "logits")


def _features_shape(features: onnx.ValueInfoProto, n_features: int, step_frames: int | None) -> Shape:
    sizes = _sizes(features)
    if len(sizes) != 3:
        raise ExportError(f"input {features.name!r} has shape {_shown(features)}, must be [1, T, n_features]")
    if sizes[2] not in (0, n_features):
        raise ExportError(
            f"input {features.name!r} has {sizes[2]} values in a frame, the front end yields {n_features}; give the "
            "front end the model was trained with by --front-end"
        )
    if sizes[1] and step_frames not in (None, sizes[1]):
        raise ExportError(f"step_frames={step_frames} must be {sizes[1]}, which the model has fixed; leave it out")
    frames = sizes[1] or step_frames
    if not frames:
        raise ExportError(
            f"input {features.name!r} leaves the number of frames open, {_shown(features)}; say how many one step "
            "takes by --step-frames"
        )
    if sizes[0] > 1:
        raise ExportError(f"input {features.name!r} has a batch of {sizes[0]}; export it with a batch of 1")
    return (1, frames, n_features)


Pair = tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]


def _pairs(before: list[onnx.ValueInfoProto], after: list[onnx.ValueInfoProto]) -> list[Pair]:
    """State inputs with their outputs: by name where all names agree, else in order."""
    names = [[value.name for value in values] for values in (before, after)]
    if len(before) != len(after):
        raise ExportError(
            f"state inputs {names[0]} and outputs {names[1]} cannot be paired; export one output for each state, "
            "named state_<i>_in and state_<i>_out"
        )
    by_key = {state_key(value.name): value for value in after}
    if len(by_key) == len(after) and {state_key(value.name) for value in before} == set(by_key):
        return [(value, by_key[state_key(value.name)]) for value in before]
    return list(zip(before, after, strict=True))


def state_key(name: str) -> str:
    """A name without what says in or out: ``state_1_out`` and ``new_h`` are ``state_1`` and ``h``."""
    return _MARKS.sub("", name.lower()).strip("_")


def _regular(
    model: onnx.ModelProto, features: str, shape: Shape, logits: str, pairs: list[Pair], n_labels: int
) -> StepModel:
    names = input_names(len(pairs)), output_names(len(pairs))
    inputs = {features: shape, **{before.name: _state_shape(before) for before, _ in pairs}}
    outputs = [logits, *(after.name for _, after in pairs)]
    _part_outputs(model.graph, outputs)
    shapes = dict(zip(outputs, _run(model, inputs, outputs), strict=True))
    for (before, after), output in zip(pairs, outputs[1:], strict=True):
        if inputs[before.name] != shapes[output]:
            raise ExportError(
                f"state input {before.name!r} {list(inputs[before.name])} and output {after.name!r} "
                f"{list(shapes[output])} cannot be paired; name them state_<i>_in and state_<i>_out"
            )
    sizes = shapes[outputs[0]]
    outputs_per_step = _check_logits(logits, sizes, n_labels)
    state_names = tuple(before.name for before, _ in pairs)
    after_shapes = [(1, outputs_per_step, n_labels), *(inputs[name] for name in state_names)]
    rename(model.graph, dict(zip([*inputs, *outputs], [*names[0], *names[1]], strict=True)))
    if len(sizes) == 2:
        _add_time(model.graph)
    fix_shapes(model, dict(zip(names[0], inputs.values(), strict=True)), dict(zip(names[1], after_shapes, strict=True)))
    return step_model_of(model, state_names)


def _state_shape(value: onnx.ValueInfoProto) -> Shape:
    """Sizes of a state; the one that the file leaves open is the batch."""
    sizes = _sizes(value)
    if sizes.count(0) > 1 or not sizes:
        raise ExportError(f"state {value.name!r} has shape {_shown(value)}, all but the batch must be fixed numbers")
    return tuple(size or 1 for size in sizes)


def _check_logits(name: str, shape: Shape, n_labels: int) -> int:
    if len(shape) not in (2, 3) or shape[0] != 1:
        raise ExportError(f"output {name!r} has shape {list(shape)}, must be [1, T_out, labels] or [1, labels]")
    if shape[-1] != n_labels:
        raise ExportError(f"output {name!r} has {shape[-1]} values, {n_labels} labels are given; give one label each")
    return shape[1] if len(shape) == 3 else 1


def _part_outputs(graph: onnx.GraphProto, outputs: list[str]) -> None:
    """An output that is an input or another output too gets an edge of its own."""
    taken = {value.name for value in graph.input}
    for i, name in enumerate(outputs):
        if name in taken:
            outputs[i] = f"{name}_copy"
            graph.node.append(onnx.helper.make_node("Identity", [name], [outputs[i]], name=outputs[i]))
            graph.output.append(onnx.helper.make_tensor_value_info(outputs[i], _FLOAT, None))
        taken.add(outputs[i])


def _add_time(graph: onnx.GraphProto) -> None:
    """``[1, labels]`` to ``[1, 1, labels]``."""
    for node in graph.node:
        node.input[:] = ["logits_without_time" if name == "logits" else name for name in node.input]
        node.output[:] = ["logits_without_time" if name == "logits" else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "logits_time_axis"))
    inputs = ["logits_without_time", "logits_time_axis"]
    graph.node.append(onnx.helper.make_node("Unsqueeze", inputs, ["logits"], name="logits_time"))


def _run(model: onnx.ModelProto, inputs: dict[str, Shape], outputs: list[str]) -> list[Shape]:
    """Shapes of the outputs of one step on zeros."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    zeros = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [tuple(value.shape) for value in session.run(outputs, zeros)]
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"ONNX Runtime cannot run it on inputs {inputs}: {reason}") from error


def _sizes(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _shown(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
