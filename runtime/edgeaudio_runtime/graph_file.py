"""The integer graph on disk: one canonical JSON and one raw little-endian blob, readable with numpy alone.

The JSON lists tensors, operations, states and where in the blob each constant lies; every offset is a multiple of
:data:`ALIGNMENT`, so that a reader in C may map the blob and use it in place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import BundleError, SpecError
from edgeaudio_runtime.graph import IntegerGraph, Op, StateSpec, Tensor
from edgeaudio_runtime.graph_constants import widened_constants
from edgeaudio_runtime.graph_shapes import MAX_ELEMENTS, check_shapes
from edgeaudio_runtime.quantization import QuantParams

FORMAT = "edgeaudio.integer_graph"
VERSION = 3
"""The newest form this runtime reads. 1: int8 codes and float32. 2: int16 codes with the rounding of int16 kernels, and
constants that ``dequantize`` widens, float16 among them. 3: ``concat`` and ``slice`` along frequency. A graph is
written in the oldest form that can say it, so that older runtimes read what they run alike and refuse the rest."""
ALIGNMENT = 16

_GRAPH_FIELDS = frozenset(
    {
        "format",
        "version",
        "name",
        "requantization",
        "input",
        "output",
        "tensors",
        "ops",
        "states",
        "constants",
        "blob_bytes",
    }
)
_CONSTANT_FIELDS = frozenset({"name", "dtype", "shape", "offset"})


def save_graph(graph: IntegerGraph, json_path: Path, blob_path: Path) -> None:
    """Write ``graph`` as canonical JSON (sorted keys, no spaces) and blob; existing files are replaced."""
    description, blob = graph_to_bytes(graph)
    blob_path.write_bytes(blob)
    json_path.write_bytes(description)


def graph_to_bytes(graph: IntegerGraph) -> tuple[bytes, bytes]:
    """The two files of :func:`save_graph` as bytes; equal graphs give equal bytes."""
    constants, blob = _pack_constants(graph)
    document = {
        "format": FORMAT,
        "version": _version(graph),
        "name": graph.name,
        "requantization": graph.requantization,
        "input": graph.input,
        "output": graph.output,
        "blob_bytes": len(blob),
        "constants": constants,
        "tensors": [_tensor_to_dict(t) for t in graph.tensors.values()],
        "ops": [_op_to_dict(op) for op in graph.ops],
        "states": [{"name": s.name, "input": s.input, "output": s.output, "initial": s.initial} for s in graph.states],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8"), blob


def load_graph(json_bytes: bytes, blob_bytes: bytes) -> IntegerGraph:
    """Read what :func:`save_graph` wrote.

    Raises:
        BundleError: the files are damaged, do not belong together, or come from a newer edgeaudio; nothing is allocated
            for shapes the blob does not hold.
    """
    try:
        return _graph_from_document(_parse(json_bytes), blob_bytes)
    except SpecError as error:
        raise BundleError(f"model.json: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(
            f"model.json is damaged ({type(error).__name__}: {error}); export the bundle again"
        ) from error


def _parse(json_bytes: bytes) -> dict[str, Any]:
    try:
        document = json.loads(json_bytes)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"model.json is not JSON ({error}); export the bundle again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"model.json must be an object with format={FORMAT!r}; export the bundle again")
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise BundleError(
            f"model.json has version={version!r}, this runtime reads up to {VERSION}; upgrade edgeaudio-runtime"
        )
    _only_known(document, _GRAPH_FIELDS, "graph")
    return document


def _graph_from_document(document: dict[str, Any], blob: bytes) -> IntegerGraph:
    tensors = _tensors(document["tensors"])
    graph = IntegerGraph(
        name=_text(document["name"]),
        tensors=tensors,
        constants=_unpack_constants(document, tensors, blob),
        ops=tuple(_op_from_dict(values) for values in document["ops"]),
        input=_text(document["input"]),
        output=_text(document["output"]),
        states=tuple(StateSpec(**values) for values in document["states"]),
        requantization=document["requantization"],
    )
    check_shapes(graph)
    return graph


def _version(graph: IntegerGraph) -> int:
    if any(op.attrs.get("axis") == 2 for op in graph.ops):
        return 3
    has_int16 = any(tensor.dtype == "int16" for tensor in graph.tensors.values())
    return 2 if has_int16 or widened_constants(graph) else 1


def _pack_constants(graph: IntegerGraph) -> tuple[list[dict[str, Any]], bytes]:
    entries: list[dict[str, Any]] = []
    blob = bytearray()
    for name, data in graph.constants.items():
        blob.extend(bytes(-len(blob) % ALIGNMENT))
        tensor = graph.tensors[name]
        entries.append({"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape), "offset": len(blob)})
        blob.extend(np.ascontiguousarray(data, dtype=_little_endian(tensor.dtype)).tobytes())
    return entries, bytes(blob)


def _unpack_constants(
    document: dict[str, Any],
    tensors: Mapping[str, Tensor],
    blob: bytes,
) -> dict[str, npt.NDArray[Any]]:
    if document["blob_bytes"] != len(blob):
        raise BundleError(
            f"model.bin has {len(blob)} bytes, not {document['blob_bytes']}; it does not belong to model.json"
        )
    constants: dict[str, npt.NDArray[Any]] = {}
    free_from = 0
    for entry in sorted(document["constants"], key=lambda entry: int(entry["offset"])):
        name, end = _check_constant(entry, tensors, blob, free_from)
        if name in constants:
            raise BundleError(f"constant {name!r} is listed twice in model.json; export the bundle again")
        constants[name] = _read_constant(tensors[name], blob, entry["offset"])
        free_from = end
    return constants


def _check_constant(
    entry: dict[str, Any], tensors: Mapping[str, Tensor], blob: bytes, free_from: int
) -> tuple[str, int]:
    _only_known(entry, _CONSTANT_FIELDS, "constant")
    name, offset = _text(entry["name"]), entry["offset"]
    if name not in tensors:
        raise BundleError(f"constant {name!r} of model.json is no tensor of the graph; export the bundle again")
    tensor = tensors[name]
    if entry["dtype"] != tensor.dtype or entry["shape"] != list(tensor.shape):
        raise BundleError(
            f"constant {name!r}: {entry['dtype']}{entry['shape']} is not {tensor.dtype}{list(tensor.shape)}, its tensor"
        )
    end = offset + math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    if type(offset) is not int or offset % ALIGNMENT or offset < 0 or end > len(blob):
        raise BundleError(
            f"constant {name!r}: offset={offset} must be a multiple of {ALIGNMENT} and {end} inside {len(blob)} bytes"
        )
    if offset < free_from:
        raise BundleError(
            f"constant {name!r}: offset={offset} overlaps the constant before it, which ends at {free_from}"
        )
    return name, end


def _read_constant(tensor: Tensor, blob: bytes, offset: int) -> npt.NDArray[Any]:
    data = np.frombuffer(blob, dtype=_little_endian(tensor.dtype), count=math.prod(tensor.shape), offset=offset)
    native = data.reshape(tensor.shape).astype(tensor.dtype)
    native.flags.writeable = False
    return native


def _tensors(entries: list[dict[str, Any]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for entry in entries:
        tensor = _tensor_from_dict(entry)
        if tensor.name in tensors:
            raise BundleError(f"tensor {tensor.name!r} is listed twice in model.json; export the bundle again")
        tensors[tensor.name] = tensor
    return tensors


def _tensor_to_dict(tensor: Tensor) -> dict[str, Any]:
    quant = None if tensor.quant is None else tensor.quant.to_dict()
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "quant": quant}


def _tensor_from_dict(values: dict[str, Any]) -> Tensor:
    _only_known(values, frozenset({"name", "shape", "dtype", "quant"}), "tensor")
    shape = tuple(values["shape"])
    if len(shape) > 4 or any(type(size) is not int for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise BundleError(
            f"tensor {values['name']!r}: shape={list(shape)} must be at most 4 sizes and {MAX_ELEMENTS} elements"
        )
    quant = None if values["quant"] is None else QuantParams.from_dict(values["quant"])
    return Tensor(name=_text(values["name"]), shape=shape, dtype=_text(values["dtype"]), quant=quant)


def _op_to_dict(op: Op) -> dict[str, Any]:
    attrs = {key: list(value) if isinstance(value, tuple) else value for key, value in op.attrs.items()}
    return {"kind": op.kind, "inputs": list(op.inputs), "outputs": list(op.outputs), "attrs": attrs, "name": op.name}


def _op_from_dict(values: dict[str, Any]) -> Op:
    _only_known(values, frozenset({"kind", "inputs", "outputs", "attrs", "name"}), "operation")
    return Op(
        kind=_text(values["kind"]),
        inputs=tuple(map(_text, values["inputs"])),
        outputs=tuple(map(_text, values["outputs"])),
        attrs=dict(values["attrs"]),
        name=_text(values["name"]),
    )


def _only_known(values: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise BundleError(f"unknown {what} fields {unknown} in model.json; this runtime knows {sorted(known)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BundleError(f"{value!r} in model.json must be a string; export the bundle again")
    return value


def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")
