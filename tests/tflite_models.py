"""Small ``.tflite`` files of other hands, written with LiteRT's schema: what a converter might have made."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {"int8": 9, "uint8": 3, "int16": 7, "int32": 2, "float32": 0, "float16": 1, "resource": 13}
"""``schema.TensorType``."""


class Graph:
    """Tensors and operators of one subgraph of a model."""

    def __init__(self, model: "Model") -> None:
        self.model, self.graph = model, schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "float32",
        *,
        data: np.ndarray | None = None,
        quant: tuple[float, int] | None = None,
        signature: Sequence[int] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), TYPES[kind], 0
        tensor.shapeSignature = None if signature is None else list(signature)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if quant is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([quant[0]], np.float32)
            tensor.quantization.zeroPoint = np.array([quant[1]], np.int64)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, name: str, inputs: list[int], outputs: list[int], options: Any = None) -> None:
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.model.opcode(name), inputs, outputs
        if options is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            op.builtinOptions = options
        self.graph.operators.append(op)


class Model:
    """A file under construction."""

    def __init__(self) -> None:
        self.buffers, self.codes, self.graphs = [schema.BufferT()], [], []

    def graph(self) -> Graph:
        graph = Graph(self)
        self.graphs.append(graph.graph)
        return graph

    def opcode(self, name: str) -> int:
        code = schema.OperatorCodeT()
        value = getattr(schema.BuiltinOperator, name, None)
        code.customCode = None if value is not None else name
        code.builtinCode = schema.BuiltinOperator.CUSTOM if value is None else value
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        self.codes.append(code)
        return len(self.codes) - 1

    def finish(self) -> bytes:
        model = schema.ModelT()
        model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, self.buffers, self.codes, self.graphs
        return packed(model)


def packed(model: Any) -> bytes:
    """The file of a ``schema.ModelT``."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def dense(
    weight: np.ndarray,
    shape: Sequence[int],
    *,
    softmax: bool = True,
    kind: str = "float32",
    signature: Sequence[int] | None = None,
    operation: str = "SOFTMAX",
) -> bytes:
    """Features of ``shape`` times ``weight [labels, values]``, in float; an input of another ``kind`` is cast."""
    model = Model()
    graph = model.graph()
    n_labels, n_values = weight.shape
    x = graph.tensor("serving_default_x:0", shape, kind, signature=signature)
    graph.graph.inputs = [x]
    real = x
    if kind != "float32":
        real = graph.tensor("real", shape)
        graph.op("CAST" if kind == "int32" else "DEQUANTIZE", [x], [real])
    flat = graph.tensor("flat", (1, n_values))
    sizes = graph.tensor("sizes", (2,), "int32", data=np.array([1, n_values], np.int32))
    graph.op("RESHAPE", [real, sizes], [flat], schema.ReshapeOptionsT())
    w = graph.tensor("weight", weight.shape, data=weight.astype(np.float32))
    b = graph.tensor("bias", (n_labels,), data=np.zeros(n_labels, np.float32))
    y = graph.tensor("dense", (1, n_labels))
    options = schema.FullyConnectedOptionsT()
    graph.op("FULLY_CONNECTED", [flat, w, b], [y], options)
    if softmax:
        z = graph.tensor("StatefulPartitionedCall:0", (1, n_labels))
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        graph.op(operation, [y], [z], options)
        y = z
    graph.graph.outputs = [y]
    return model.finish()


def remembering(
    n_features: int, *, hidden: bool, kind: str = "float32", names: tuple[str, str] = ("h", "h_new"), deep: bool = False
) -> bytes:
    """The sum of all frames so far: one frame in, the sum out, kept in a variable or as an explicit state.

    ``deep`` gives the state another number of axes than the features have.
    """
    model = Model()
    graph = model.graph()
    quant = None if kind == "float32" else (0.5, 0)
    shape = (1, 1, n_features)
    x = graph.tensor("x", shape, kind, quant=quant)
    shape = (1, 1, *shape) if deep else shape
    y = graph.tensor(names[1], shape, kind, quant=quant)
    out = graph.tensor("y", (1, n_features), kind, quant=quant)
    sizes = graph.tensor("sizes", (2,), "int32", data=np.array([1, n_features], np.int32))
    if hidden:
        start = model.graph()
        once, handle = schema.CallOnceOptionsT(), schema.VarHandleOptionsT()
        once.initSubgraphIndex, handle.container, handle.sharedName = 1, "", "sum"
        variable = start.tensor("handle", (), "resource")
        zeros = start.tensor("zeros", shape, data=np.zeros(shape, np.float32))
        start.op("VAR_HANDLE", [], [variable], handle)
        start.op("ASSIGN_VARIABLE", [variable, zeros], [], schema.AssignVariableOptionsT())
        graph.op("CALL_ONCE", [], [], once)
        variable = graph.tensor("handle", (), "resource")
        before = graph.tensor("before", shape)
        graph.op("VAR_HANDLE", [], [variable], handle)
        graph.op("READ_VARIABLE", [variable], [before], schema.ReadVariableOptionsT())
    else:
        before = graph.tensor(names[0], shape, kind, quant=quant)
    graph.op("ADD", [x, before], [y], schema.AddOptionsT())
    if hidden:
        graph.op("ASSIGN_VARIABLE", [variable, y], [], schema.AssignVariableOptionsT())
    graph.op("RESHAPE", [y, sizes], [out], schema.ReshapeOptionsT())
    graph.graph.inputs, graph.graph.outputs = ([x], [out]) if hidden else ([before, x], [y, out])
    return model.finish()
