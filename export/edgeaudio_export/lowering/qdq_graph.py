"""A QDQ model as a list of operations on quantized edges, between ONNX and the integer graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_runtime.quantization import QuantParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A weight, bias or index list."""

    data: npt.NDArray[Any]
    """Codes where ``quant`` is given, else plain values."""
    quant: QuantParams | None = None
    """None for values that are not codes."""

    def transposed(self, axes: tuple[int, ...]) -> Constant:
        """The constant with its axes in the order ``axes``."""
        quant = self.quant
        if quant is not None and quant.axis is not None:
            quant = QuantParams(scale=quant.scale, axis=axes.index(quant.axis), dtype=quant.dtype, qmin=quant.qmin)
        return Constant(data=self.data.transpose(axes), quant=quant)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operation between quantized edges."""

    op: str
    """ONNX operator."""
    name: str
    """For messages and reports."""
    inputs: tuple[str, ...]
    """Edges and constants; "" for an input that is left out."""
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bias: str | None = None
    """Constant that a fused Add brought."""
    relu: bool = False
    """Whether a relu follows before quantization."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QdqGraph:
    """Edges carry the name of the float value they stand for; Quantize/Dequantize pairs are gone."""

    nodes: tuple[Node, ...]
    """In an order in which they can run."""
    constants: Mapping[str, Constant]
    quants: Mapping[str, QuantParams]
    """Parameters of every quantized edge; an edge without is float32."""
    shapes: Mapping[str, tuple[int, ...]]
    """ONNX shapes of the edges."""
    inputs: tuple[str, ...]
    """Edges of features and states, in order."""
    outputs: tuple[str, ...]
    """Edges of logits and new states, in order."""

    def quant(self, edge: str, who: str) -> QuantParams:
        """Parameters of an edge; refuses a float one."""
        if edge not in self.quants:
            raise ExportError(
                f"tensor {edge!r} of {who} is float in the QDQ model; give it a QuantizeLinear/DequantizeLinear pair"
            )
        return self.quants[edge]

    def indices(self, name: str) -> list[int]:
        """A constant list of integers."""
        return [int(i) for i in np.atleast_1d(self.constants[name].data)]
