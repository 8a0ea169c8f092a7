"""What a ``.tflite`` file says of itself: its boundary as LiteRT sees it, its operations, its variables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeaudio_export.errors import ExportError

_OPERATIONS: dict[int, str] = {
    value: name
    for name, value in vars(schema.BuiltinOperator).items()
    if not name.startswith("_") and isinstance(value, int)
}
_MOVES = frozenset({"RESHAPE", "QUANTIZE", "DEQUANTIZE", "SQUEEZE", "EXPAND_DIMS", "CAST"})
"""Operations behind a softmax or sigmoid that leave probabilities what they are."""
_WEIGHT_TYPES = {schema.TensorType.FLOAT32: 4, schema.TensorType.FLOAT16: 2, schema.TensorType.INT8: 1,
                 schema.TensorType.UINT8: 1, schema.TensorType.INT16: 2}  # fmt: skip
"""Types that weights have, and their bytes; int32 constants are biases or shapes and count where they have scales."""


@dataclass(frozen=True)
class TfliteFile:
    """A file that LiteRT loads."""

    data: bytes
    inputs: Sequence[Mapping[str, Any]]
    """As the interpreter describes them."""
    outputs: Sequence[Mapping[str, Any]]
    model: Any
    """``schema.ModelT``."""

    @cached_property
    def operations(self) -> Mapping[str, int]:
        """Names of the operations of all subgraphs, and how often each occurs."""
        return dict(Counter(self._operation(op) for graph in self.model.subgraphs for op in graph.operators or []))

    @property
    def has_variables(self) -> bool:
        """Whether it keeps state that is neither input nor output: resource variables, or variable tensors."""
        return "VAR_HANDLE" in self.operations or any(
            tensor.isVariable for graph in self.model.subgraphs for tensor in graph.tensors
        )

    @property
    def parameters(self) -> int:
        """Constant values of the main graph that are weights or biases."""
        count = 0
        for tensor in self.model.subgraphs[0].tensors:
            data = self.model.buffers[tensor.buffer].data
            if data is None:
                continue
            if tensor.type in _WEIGHT_TYPES:
                count += len(data) // _WEIGHT_TYPES[tensor.type]
            elif tensor.type == schema.TensorType.INT32 and _is_quantized(tensor):
                count += len(data) // 4
        return count

    def makes_probabilities(self, output: int) -> bool:
        """Whether softmax or sigmoid compute tensor ``output``, but for operations that compute nothing."""
        makers = {made: op for op in self.model.subgraphs[0].operators for made in op.outputs}
        while output in makers and self._operation(makers[output]) in _MOVES:
            output = int(makers[output].inputs[0])
        return output in makers and self._operation(makers[output]) in ("SOFTMAX", "LOGISTIC")

    def _operation(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return _OPERATIONS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "unknown")


def read_tflite_file(data: bytes) -> TfliteFile:
    """Parse a file and let LiteRT describe its boundary.

    Raises:
        ExportError: No ``.tflite`` file, a damaged one, or one with operations that LiteRT does not have.
        EngineError: LiteRT is not installed.
    """
    if data[4:8] != b"TFL3":
        raise ExportError("not a TensorFlow Lite model; convert one with a TensorFlow Lite or LiteRT converter")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        custom = sorted({code.customCode.decode() for code in model.operatorCodes if code.customCode})
    except Exception as error:  # flatbuffers raises struct.error, TypeError, IndexError and others on damaged bytes
        raise ExportError(f"a damaged TensorFlow Lite model ({type(error).__name__}); copy it again") from error
    if custom:
        raise ExportError(f"operations {custom} are not built into LiteRT; convert with built-in operations only")
    interpreter = _interpreter(data)
    return TfliteFile(data, interpreter.get_input_details(), interpreter.get_output_details(), model)


def _interpreter(data: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ExportError(f"LiteRT cannot load it: {str(error).splitlines()[0]}; convert it again") from error
    return interpreter


def _is_quantized(tensor: Any) -> bool:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return scale is not None and np.size(scale) > 0
