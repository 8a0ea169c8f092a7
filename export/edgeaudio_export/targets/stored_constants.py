"""Weights and biases as a target writes them: stored codes or numbers, and whether they are widened when read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_export.errors import ExportError
from edgeaudio_runtime.graph import IntegerGraph, Op
from edgeaudio_runtime.graph_constants import widened_constants
from edgeaudio_runtime.quantization import QuantParams


@dataclass(frozen=True, kw_only=True)
class StoredConstant:
    """Data of a weight or bias in the layout of the integer graph."""

    data: npt.NDArray[Any]
    """Channels first."""
    quant: QuantParams | None = None
    """None for real numbers."""
    is_widened: bool = False
    """Whether the operation reads it as float32 although it is stored otherwise."""

    def shaped(self, *shape: int) -> StoredConstant:
        """The same numbers in another shape whose first axis is the same."""
        return replace(self, data=self.data.reshape(shape))

    def of_one_channel(self, data: npt.NDArray[Any]) -> StoredConstant:
        """Other data in units of the first channel, per tensor."""
        quant = None if self.quant is None else replace(self.quant, scale=self.quant.scale[:1], axis=None)
        return replace(self, data=data, quant=quant)

    @property
    def is_alike(self) -> bool:
        """Whether all channels hold the same."""
        scales = set() if self.quant is None else set(self.quant.scale)
        return bool((self.data == self.data[:1]).all()) and len(scales) <= 1


def stored_constants(graph: IntegerGraph, op: Op) -> tuple[StoredConstant, StoredConstant]:
    """Weight and bias of a convolution or fully connected layer.

    Raises:
        ExportError: one of them is computed from activations.
    """
    weight, bias = (_stored(graph, op, name) for name in op.inputs[1:])
    return weight, bias


def _stored(graph: IntegerGraph, op: Op, name: str) -> StoredConstant:
    source = widened_constants(graph).get(name, name)
    if source not in graph.constants:
        raise ExportError(f"operation {op.kind!r} ({op.name}): {name!r} is computed; weights must be constants")
    data = graph.constants[source]
    return StoredConstant(data=np.asarray(data), quant=graph.tensors[source].quant, is_widened=source != name)
