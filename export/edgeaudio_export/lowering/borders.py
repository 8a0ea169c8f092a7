"""Pass 3: where tensors of different precision meet, an explicit conversion: every operation gets edges of one type.

An operation computes at the widest precision of its edges, int8 before int16 before float32, and in float32 where its
weights are float. Narrower inputs are widened in front of it, a narrower output is computed wide and narrowed behind
it. int8 to int16 is exact: codes minus
zero point, times 128.
"""

from __future__ import annotations

from dataclasses import replace

from edgeaudio_export.lowering.qdq_graph import Node, QdqGraph
from edgeaudio_export.operations import FIXED_INT16
from edgeaudio_runtime.quantization import QuantParams

PRECISIONS = ("int8", "int16", "float32")
"""From narrow to wide."""
WIDENING = 128
"""int16 steps in an int8 step: a power of two, and 255 of them fit, so that no int8 code is clipped or rounded."""
_FIXED = frozenset({"Sigmoid", "Tanh", "Softmax"})
_WEIGHTED = frozenset({"Conv", "MatMul"})
CONVERSIONS = frozenset({"Quantize", "Dequantize", "Requantize"})
"""Nodes whose edges differ in type by nature."""


def widened(params: QuantParams) -> QuantParams:
    """int16 parameters, zero point 0, that hold every value of int8 ``params`` exactly."""
    return QuantParams(scale=(params.scale[0] / WIDENING,), zero_point=0, dtype="int16")


def insert_borders(graph: QdqGraph) -> QdqGraph:
    """Insert Quantize, Dequantize and Requantize nodes; a graph of one precision comes back as it was."""
    borders = _Borders(graph)
    for node in graph.nodes:
        borders.add(node)
    return replace(graph, nodes=tuple(borders.nodes), quants=borders.quants, shapes=borders.shapes)


class _Borders:
    def __init__(self, graph: QdqGraph) -> None:
        self.nodes: list[Node] = []
        self.quants = dict(graph.quants)
        self.shapes = dict(graph.shapes)
        self._constants = graph.constants
        self._made: dict[tuple[str, str], str] = {}

    def add(self, node: Node) -> None:
        if node.op in CONVERSIONS:
            self.nodes.append(node)
            return
        edges = [edge for edge in node.inputs if edge and edge not in self._constants]
        precision = max((self._precision(edge) for edge in (*edges, node.output)), key=PRECISIONS.index)
        weight = self._constants.get(node.inputs[1]) if node.op in _WEIGHTED else None
        if weight is not None and weight.quant is None:
            precision = "float32"
        inputs = tuple(self._input(edge, precision) if edge in edges else edge for edge in node.inputs)
        output = self._output(node, precision)
        self.nodes.append(replace(node, inputs=inputs, output=output))
        if output != node.output:
            kind = "Quantize" if precision == "float32" else "Requantize"
            self.nodes.append(Node(op=kind, name=node.name, inputs=(output,), output=node.output))

    def _precision(self, edge: str) -> str:
        return self.quants[edge].dtype if edge in self.quants else "float32"

    def _input(self, edge: str, precision: str) -> str:
        """The edge itself, or what a conversion makes of it; one conversion serves all readers."""
        if self._precision(edge) == precision:
            return edge
        if (edge, precision) not in self._made:
            params = self.quants[edge]
            wide = self._edge(edge, f"as_{precision}", widened(params) if precision == "int16" else None)
            kind = "Dequantize" if precision == "float32" else "Requantize"
            self.nodes.append(Node(op=kind, name=edge, inputs=(edge,), output=wide))
            self._made[edge, precision] = wide
        return self._made[edge, precision]

    def _output(self, node: Node, precision: str) -> str:
        if self._precision(node.output) == precision:
            return node.output
        if precision == "float32":
            return self._edge(node.output, f"in_{precision}", None)
        params = FIXED_INT16 if node.op in _FIXED else widened(self.quants[node.output])
        return self._edge(node.output, f"in_{precision}", params)

    def _edge(self, edge: str, kind: str, params: QuantParams | None) -> str:
        name = f"{edge}.{kind}"
        self.shapes[name] = self.shapes[edge]
        if params is not None:
            self.quants[name] = params
        return name
