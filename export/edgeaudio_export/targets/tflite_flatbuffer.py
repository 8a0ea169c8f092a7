"""A TensorFlow Lite flatbuffer, tensor by tensor and operator by operator, without TensorFlow."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_runtime.quantization import QuantParams

_TENSOR_TYPES = {
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "float16": schema.TensorType.FLOAT16,
    "float32": schema.TensorType.FLOAT32,
}
_FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3


class TfliteFlatbuffer:
    """Collects one subgraph and serializes it; indices are handed out in the order of the calls."""

    def __init__(self, name: str) -> None:
        self._model = schema.ModelT()
        self._model.version = _SCHEMA_VERSION
        self._model.description = "edgeaudio"
        # Buffer 0 is empty by convention: tensors without data point to it.
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.metadata = []
        self._graph = schema.SubGraphT()
        self._graph.name = name
        self._graph.tensors, self._graph.operators = [], []
        self._dtypes: list[str] = []
        self._opcodes: dict[tuple[int, int], int] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        quant: QuantParams | None = None,
        *,
        data: npt.NDArray[Any] | None = None,
        axis: int | None = None,
    ) -> int:
        """Add a tensor and return its index; ``axis`` replaces ``quant.axis`` where the layout differs."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), _TENSOR_TYPES[dtype]
        tensor.buffer = 0 if data is None else self._buffer(np.ascontiguousarray(data).tobytes())
        if quant is not None:
            tensor.quantization = _quantization(quant, axis if quant.axis is not None else None)
        self._graph.tensors.append(tensor)
        self._dtypes.append(dtype)
        return len(self._graph.tensors) - 1

    def dtype(self, index: int) -> str:
        """Type of a tensor, by its numpy name."""
        return self._dtypes[index]

    def integers(self, name: str, values: list[int]) -> int:
        """Add a constant int32 vector, such as a shape, and return its index."""
        return self.tensor(name, (len(values),), "int32", data=np.asarray(values, np.int32))

    def operator(
        self,
        code: int,
        inputs: list[int],
        outputs: list[int],
        options_type: int = 0,
        options: object = None,
        *,
        version: int = 1,
    ) -> None:
        """Add an operator; ``code``, ``options_type``: the schema's ``BuiltinOperator`` and ``BuiltinOptions``."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(code, version)
        operator.inputs, operator.outputs = inputs, outputs
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self._graph.operators.append(operator)

    def metadata(self, name: str, data: bytes) -> None:
        """Add a named metadata buffer."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self._buffer(data)
        self._model.metadata.append(entry)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file, with the given tensors as inputs and outputs in this order."""
        self._graph.inputs, self._graph.outputs = inputs, outputs
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _buffer(self, data: bytes) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def _opcode(self, code: int, version: int) -> int:
        key = (code, version)
        if key not in self._opcodes:
            entry = schema.OperatorCodeT()
            # Readers older than 2020 know the 8-bit field only.
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
            self._model.operatorCodes.append(entry)
            self._opcodes[key] = len(self._opcodes)
        return self._opcodes[key]


def _quantization(quant: QuantParams, axis: int | None) -> object:
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.asarray(quant.scale, np.float32)
    parameters.zeroPoint = np.full(len(quant.scale), quant.zero_point, np.int64)
    parameters.quantizedDimension = axis or 0
    return parameters
